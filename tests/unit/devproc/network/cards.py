"""A card written for the test: it keeps what is delivered, and has room as long as it is told so."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN, Buffer


class ScriptedCard:
    """Keeps frames with their headers; ``free`` is how many more it has room for."""

    def __init__(self, free: int = 1 << 30, size: int = 1 << 17) -> None:
        self.free = free
        self.frames: list[bytes] = []
        self.headers: list[bytes] = []
        self.pairs: list[int | None] = []
        self.refused = 0
        self.written = 0
        self._buffer = bytearray(size)

    def deliver(self, frame: Buffer, header: Buffer = PLAIN, pair: int | None = None) -> bool:
        if not self.free:
            self.refused += 1
            return False
        self.free -= 1
        self.frames.append(bytes(frame))
        self.headers.append(bytes(header))
        self.pairs.append(pair)
        return True

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        if not self.free:
            self.refused += 1
            return None
        assert size <= len(self._buffer)
        whole = memoryview(self._buffer)
        return [whole[:1000], whole[1000:size]]  # as a guest has it: not in one piece

    def filled(self, pair: int, length: int) -> None:
        self.deliver(self._buffer[len(PLAIN) : length], self._buffer[: len(PLAIN)], pair)

    def writable(self) -> None:
        self.written += 1

    def now_ns(self) -> int:
        return time.time_ns()

    def goes_on(self) -> bool:
        return False


def turn_until(descriptors: Descriptors, done: Callable[[], object], seconds: float = 5.0) -> None:
    """Handle what there is until ``done``; a loop that never sleeps is a fault of its own."""
    end, turns = time.monotonic() + seconds, 0
    while not done():
        left = end - time.monotonic()
        assert left > 0, "it did not happen"
        select.select([descriptors.fd], [], [], min(left, 0.05))
        descriptors.turn()
        turns += 1
        assert turns < 200_000, "a busy loop"


def sleeps(descriptors: Descriptors, seconds: float = 0.05) -> bool:
    """Tell whether nothing happens for a while."""
    return not select.select([descriptors.fd], [], [], seconds)[0]
