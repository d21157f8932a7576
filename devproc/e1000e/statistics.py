"""Statistics: registers that a read clears (82574 §10.2.7), and what is counted for them.

Counting is an addition in this process; the sums go to the page when somebody looks. Those of a process that is
killed are lost, as are a few frames.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from devproc.registers import Bar, Images, Register
from protocol.layout import ReadKind, WriteKind

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile

_SIZES = (64, 127, 255, 511, 1023)
_CRC = 4
_WIDE = {"gorcl": "gorch", "gotcl": "gotch", "torl": "torh", "totl": "toth"}
_FULL = 0xFFFF_FFFF


class Statistic(Register):
    """A counter that a read clears; what is never ``counted`` is always 0, and served from the page."""

    def __init__(self, bar: Bar, offset: int, *, counted: bool, doc: str) -> None:
        super().__init__(bar, offset, access="r", doc=doc)
        self.counted = counted
        if counted:
            self.read_hook = "count_up"

    def read(self, device: Images) -> int:
        """Return what was counted since the last read."""
        if self.counted:
            device.count_up()  # type: ignore[attr-defined]
        value = self.__get__(device, type(device))
        self.__set__(device, 0)
        return value

    @property
    def write_kind(self) -> WriteKind:
        """Nothing writes."""
        return WriteKind.DROP

    @property
    def read_kind(self) -> ReadKind:
        """Only what counts has anything to clear."""
        return ReadKind.MESSAGE if self.counted else ReadKind.PAGE


class Tally:
    """What was counted and is not in the page yet."""

    def __init__(self, device: RegisterFile) -> None:
        self._device = device
        self._frames: Counter[tuple[str, int, int]] = Counter()
        self._others: Counter[str] = Counter()

    def frame(self, way: str, length: int, first: int) -> None:
        """Count a frame of ``length`` bytes that went the ``way`` ``r`` or ``t``; ``first`` is its first byte."""
        self._frames[way, length, first if first == 0xFF else first & 1] += 1

    def add(self, name: str) -> None:
        """Count one for a register."""
        self._others[name] += 1

    def store(self) -> None:
        """Bring the page up to date."""
        frames, self._frames = self._frames, Counter()
        sums, self._others = self._others, Counter()
        for frame, count in frames.items():
            self._spread(sums, frame, count)
        for name, count in sums.items():
            self._store(name, count)

    def _spread(self, sums: Counter[str], frame: tuple[str, int, int], count: int) -> None:
        way, length, first = frame
        size = length + _CRC
        letter, wide = ("r", "gorcl") if way == "r" else ("t", "gotcl")
        sums[f"gp{letter}c"] += count
        sums[f"tp{letter}"] += count
        sums[wide] += count * size
        sums[f"to{letter}l"] += count * size
        bucket = next((limit for limit in _SIZES if size <= limit), 1522)
        sums[f"p{letter}c{bucket}"] += count
        if first & 1:
            sums[f"{'b' if first == 0xFF else 'm'}p{letter}c"] += count

    def _store(self, name: str, count: int) -> None:
        device = self._device
        value = getattr(device, name) + count
        if name in _WIDE and value > _FULL:
            high = _WIDE[name]
            setattr(device, high, getattr(device, high) + (value >> 32))
            value &= _FULL
        setattr(device, name, min(value, _FULL))  # they stick at the top (82574 §10.2.7)
