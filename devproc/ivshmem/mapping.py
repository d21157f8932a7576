"""The shared memory as a client sees it; what somebody cuts off reads as zeros, where it is not sealed against that."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from typing import TYPE_CHECKING

from protocol.errors import HostError
from protocol.memory import can_shrink

if TYPE_CHECKING:
    from protocol.truncation import Watch


class Mapping:
    """Mapped memory, ``view``."""

    def __init__(self, fd: int, size: int, *, readonly: bool) -> None:
        """Map it.

        Raises:
            HostError: it cannot be mapped.
        """
        try:
            self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ if readonly else mmap.ACCESS_WRITE)
        except (OSError, ValueError) as error:
            raise HostError(f"cannot map the shared memory: {error}") from error
        self._watch: Watch | None = None
        self._told = False
        self._survival = ExitStack()
        if can_shrink(fd):
            from protocol import truncation  # which needs ctypes

            self._survival.enter_context(truncation.survival())
            self._watch = truncation.Watch(self._map)
        self.view = memoryview(self._map)

    def has_torn(self) -> bool:
        """Return whether a page was found missing, the first time that it is asked after that."""
        if self._told or self._watch is None or not self._watch.torn:
            return False
        self._told = True
        return True

    def close(self) -> None:
        """Unmap it; raises ``BufferError`` while there are views of it."""
        self.view.release()
        self._map.close()
        if self._watch is not None:
            self._watch.close()
        self._survival.close()
