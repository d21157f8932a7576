"""Rings of descriptors in guest memory, and where both sides stand in them (82574 §7.1.6, §7.2.13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from devproc.e1000e.spec import DESCRIPTOR

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile

_LENGTH, _HEAD, _TAIL = 2, 4, 6  # words behind the low half of the address
_LENGTH_BITS, _BASE_BITS = 0xF_FF80, 0xFFFF_FFF0


class Span(NamedTuple):
    """A ring as it was a moment ago: a guest may change its registers at any time, and this is what was checked."""

    offset: int
    """Of its first descriptor in guest memory."""
    size: int
    """Bytes of a descriptor."""
    entries: int
    head: int
    tail: int

    @property
    def free(self) -> int:
        """Descriptors from head to tail."""
        return (self.tail - self.head) % self.entries

    def place(self, index: int) -> int:
        """Return the offset in guest memory of a descriptor; beyond the end comes the beginning."""
        return self.offset + index % self.entries * self.size


class Ring:
    """The five registers of a ring, at ``place`` in BAR 0.

    Head and tail count 16 bytes, also where a descriptor has 32 (Linux's e1000e: twice as much for those).
    """

    def __init__(self, device: RegisterFile, place: int) -> None:
        self._device = device
        self._words = device.shared.u32
        self._first = (device.images[0] + place) >> 2

    def look(self, size: int = DESCRIPTOR) -> Span | None:
        """Return the ring, if it is one; without a length there is none yet."""
        words, first = self._words, self._first
        length = words[first + _LENGTH] & _LENGTH_BITS
        if not length:
            return None
        count, step = length // size, size // DESCRIPTOR
        head, tail = (words[first + _HEAD] & 0xFFFF) // step, (words[first + _TAIL] & 0xFFFF) // step
        offset = self._device.machine.memory.offset(words[first + 1] << 32 | words[first] & _BASE_BITS, length)
        if offset is None or head >= count or tail >= count or not self._device.bus_master:
            self._device.guest_error("bad_rings", f"ring of {count}, head {head}, tail {tail}, in no memory or beyond")
            return None
        return Span(offset, size, count, head, tail)

    def advance(self, head: int, size: int = DESCRIPTOR) -> None:
        """Move the head."""
        self._words[self._first + _HEAD] = head * (size // DESCRIPTOR)

    def release(self) -> None:
        """Let go of the page."""
        del self._words
