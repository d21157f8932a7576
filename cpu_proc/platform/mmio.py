"""What a device in the CPU process looks like to the address decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from cpu_proc.memory_map import Region

logger = logging.getLogger(__name__)

Line = Callable[[int], None]  # sets the level of one interrupt line


class Mmio(Protocol):
    """Registers at some place; offsets are relative, values unsigned, accesses naturally aligned.

    Whatever the guest does is answered: an undefined register reads as zero and ignores writes.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class AddressSpace:
    """Finds the device for a physical address; where none is, an access faults."""

    def __init__(self) -> None:
        self._regions: list[tuple[Region, Mmio, str]] = []
        self.unassigned = 0

    def add(self, region: Region, device: Mmio, name: str) -> None:
        """Place ``device`` at ``region``."""
        self._regions.append((region, device, name))

    def find(self, address: int) -> tuple[Region, Mmio] | None:
        """Return the region and device at ``address``."""
        for region, device, _name in self._regions:
            if 0 <= address - region.base < region.size:
                return region, device
        return None

    def read(self, address: int, size: int) -> int | None:
        """Load ``size`` bytes; ``None`` where nothing is."""
        found = self.find(address)
        if found is None:
            self.unassigned += 1
            return None
        return found[1].read(address - found[0].base, size) & ((1 << (8 * size)) - 1)

    def write(self, address: int, size: int, value: int) -> bool:
        """Store ``size`` bytes; tell whether anything is there."""
        found = self.find(address)
        if found is None:
            self.unassigned += 1
            return False
        found[1].write(address - found[0].base, size, value & ((1 << (8 * size)) - 1))
        return True

    def regions(self) -> list[tuple[int, int, str]]:
        """Return (base, size, name) of everything, by address."""
        return sorted((region.base, region.size, name) for region, _device, name in self._regions)
