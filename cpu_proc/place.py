"""Where a device of another process is connected: a slot of PCI bus 0, of virtio-mmio, or of the platform bus."""

from __future__ import annotations

from typing import NamedTuple

from cpu_proc import memory_map as mm

SLOTS = {  # the host bridge is in slot 0
    "pci": range(1, 32),
    "mmio": range(mm.VIRTIO_SLOTS),
    "platform": range(mm.PLATFORM_SLOTS),
}


class Place(NamedTuple):
    """A slot of a bus."""

    bus: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Return the place that ``3`` (of PCI), ``mmio3`` or ``platform3`` names, or nothing."""
        bus = next((bus for bus in SLOTS if text.startswith(bus)), "pci")
        number = text.removeprefix(bus)
        fits = number.isascii() and number.isdigit() and len(number) < 3 and int(number) in SLOTS[bus]
        return cls(bus, int(number)) if fits else None

    def __str__(self) -> str:
        """Return bus, slot and function of PCI, or the name of the slot's node, or its place."""
        if self.bus == "mmio":
            return f"virtio_mmio@{mm.virtio_slot(self.number).base:x}"
        if self.bus == "platform":
            return f"platform@{mm.platform_slot(self.number).base:x}"
        return f"00:{self.number:02x}.0"
