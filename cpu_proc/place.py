"""Where a device of another process is connected: a slot of PCI bus 0, or one of virtio-mmio."""

from __future__ import annotations

from typing import NamedTuple

from cpu_proc import memory_map as mm

SLOTS = {"pci": range(1, 32), "mmio": range(mm.VIRTIO_SLOTS)}  # the host bridge is in slot 0


class Place(NamedTuple):
    """A slot of a bus."""

    bus: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Return the place that ``3`` (of PCI) or ``mmio3`` names, or nothing."""
        bus = "mmio" if text.startswith("mmio") else "pci"
        number = text.removeprefix("mmio")
        fits = number.isascii() and number.isdigit() and len(number) < 3 and int(number) in SLOTS[bus]
        return cls(bus, int(number)) if fits else None

    def __str__(self) -> str:
        """Return bus, slot and function of PCI, or the name of the node in the device tree."""
        if self.bus == "mmio":
            return f"virtio_mmio@{mm.virtio_slot(self.number).base:x}"
        return f"00:{self.number:02x}.0"
