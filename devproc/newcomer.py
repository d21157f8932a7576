"""A process that is to take the place of one that serves: loaded and opened beside it, on the bus without its name.

``cpu_proc`` has it attach when the other has stopped at a descriptor boundary; then it waits in line for the name.
Until then it ends when whoever has started it closes the pipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from devproc.loop import ATTACHED, DeviceLoop


class Newcomer:
    """What makes a device process one; ``fd`` is a socket to who has started it."""

    def __init__(self, fd: int, loop: DeviceLoop) -> None:
        self._fd = fd
        self._loop = loop
        loop.watch(fd, self._let_down)

    def introduce(self, unique_name: str, take_name: Callable[[], None]) -> None:
        """Say by which name of the bus it is reached (called on the thread of the bus)."""
        told, self._loop.on_state = self._loop.on_state, lambda: self._changed(told, take_name)
        with suppress(OSError):
            os.write(self._fd, unique_name.encode() + b"\n")

    def _changed(self, told: Callable[[], None], take_name: Callable[[], None]) -> None:
        told()
        if self._loop.state == ATTACHED and self._fd >= 0:
            self._forget()
            take_name()

    def _let_down(self) -> None:
        """Nobody needs this process."""
        self._forget()
        self._loop.stop()

    def _forget(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
