"""Between a wire that carries headers and a card whose driver has not agreed to all that they may say.

What the driver does not take is done to the frame here: it gets checksums, or frames that are already cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from devproc.network.backend import PLAIN, Buffer, Card
from devproc.network.headers import checked, takes
from devproc.network.segments import whole


class Whole:
    """What a network delivers to in the place of ``card``; ``agree`` says what its driver takes."""

    def __init__(self, card: Card, counters: dict[str, int]) -> None:
        self._card = card
        self._takes = 0
        self._pieces: Iterator[Buffer] | None = None
        self._piece: Buffer | None = None
        self._counters = counters
        counters.setdefault("frames_not_whole", 0)

    def agree(self, features: int) -> None:
        """Note what the driver has agreed to."""
        self._takes = takes(features)

    def deliver(self, frame: Buffer, header: Buffer = PLAIN) -> bool:
        """Pass on a frame; after a ``False`` the same one comes again, and what is left of it is passed on."""
        if self._pieces is None:
            if header == PLAIN:
                return self._card.deliver(frame)
            copy = bytes(header)
            allowed = checked(copy, len(frame), self._takes)
            if allowed is not None:
                return self._card.deliver(frame, allowed)
            self._pieces = whole(copy, frame)
            if self._pieces is None:
                self._counters["frames_not_whole"] += 1
                return True
        return self._go_on()

    def _go_on(self) -> bool:
        assert self._pieces is not None
        while True:
            if self._piece is None:
                self._piece = next(self._pieces, None)
                if self._piece is None:
                    self._pieces = None
                    return True
            if not self._card.deliver(self._piece):
                return False
            self._piece = None

    def forget(self) -> None:
        """Drop what is left: the connection that it came from has ended."""
        self._pieces = self._piece = None

    def writable(self) -> None:
        """Pass it on."""
        self._card.writable()
