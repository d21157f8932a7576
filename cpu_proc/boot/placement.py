"""What lies where in guest memory: every range has a name, none lies outside, no two overlap.

Ranges are claimed on paper first; ``store`` copies them when all is well.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpu_proc.memory_map import DRAM_BASE
from protocol.errors import ConfigError
from protocol.memory import Shared


@dataclass(frozen=True)
class Range:
    """One range: ``data``, and zeros after it up to ``end``."""

    name: str
    start: int
    end: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.name} {self.start:#x}-{self.end:#x}"


class Placement:
    """The ranges of one guest in RAM of ``ram_size`` bytes."""

    def __init__(self, ram_size: int) -> None:
        self.end = DRAM_BASE + ram_size
        self.ranges: list[Range] = []

    def claim(self, name: str, start: int, data: bytes, size: int = 0) -> Range:
        """Give ``data``, followed by zeros up to ``size`` bytes, a place; ranges of one name may overlap.

        Raises:
            ConfigError: it lies outside of memory, or something else is there.
        """
        wanted = Range(name, start, start + max(size, len(data)), data)
        if start < DRAM_BASE or wanted.end > self.end:
            raise ConfigError(
                f"{name} does not fit into guest memory: {wanted.end - start} bytes at {start:#x}, memory is "
                f"{DRAM_BASE:#x}-{self.end:#x}",
                hint="raise vm.memory" if start >= DRAM_BASE else "memory begins higher",
            )
        for other in self.ranges:
            if other.name != name and other.start < wanted.end and start < other.end:
                raise ConfigError(f"{wanted} overlaps {other}", hint="move one of them")
        self.ranges.append(wanted)
        return wanted

    def highest(self, size: int, align: int, floor: int, ceiling: int) -> int | None:
        """Return the highest free place for ``size`` bytes between ``floor`` and ``ceiling``."""
        start = (ceiling - size) & -align
        while start >= floor:
            below = [taken.start for taken in self.ranges if taken.start < start + size and start < taken.end]
            if not below:
                return start
            start = (min(below) - size) & -align
        return None

    def store(self, ram: Shared) -> None:
        """Copy everything into memory."""
        for taken in self.ranges:
            offset = taken.start - DRAM_BASE
            ram.u8[offset : offset + len(taken.data)] = taken.data
            blank = taken.end - taken.start - len(taken.data)
            ram.u8[offset + len(taken.data) : taken.end - DRAM_BASE] = bytes(blank)
