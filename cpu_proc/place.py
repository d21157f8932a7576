"""Where a device of another process is connected: a function of PCI bus 0, a port, virtio-mmio, or the platform bus."""

from __future__ import annotations

from typing import NamedTuple

from cpu_proc import memory_map as mm

FIRST_PORT = 16  # the slot of bus 0 that has root port 0
PORTS = 32 - FIRST_PORT
SLOTS = {  # the host bridge is in slot 0
    "pcie": range(PORTS),  # one behind each root port
    "pci": range(1, 32),
    "mmio": range(mm.VIRTIO_SLOTS),
    "platform": range(mm.PLATFORM_SLOTS),
}


FUNCTIONS = 8  # in a slot of PCI


class Place(NamedTuple):
    """A slot of a bus; on PCI, a function of it."""

    bus: str
    number: int
    function: int = 0

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Return the place that ``3`` or ``3.1`` (of PCI), ``pcie3``, ``mmio3`` or ``platform3`` names, or nothing."""
        bus = next((bus for bus in SLOTS if text.startswith(bus)), "pci")
        number, dot, function = text.removeprefix(bus).partition(".")
        fits = _is_number(number) and int(number) in SLOTS[bus]
        if not fits or (dot and not (bus == "pci" and _is_number(function) and int(function) < FUNCTIONS)):
            return None
        return cls(bus, int(number), int(function or 0))

    def __str__(self) -> str:
        """Return the path of PCI (as ``lspci -P``), or the name of the slot's node, or its place."""
        if self.bus == "pcie":
            return f"00:{port_slot(self.number):02x}.0/00.0"
        if self.bus == "mmio":
            return f"virtio_mmio@{mm.virtio_slot(self.number).base:x}"
        if self.bus == "platform":
            return f"platform@{mm.platform_slot(self.number).base:x}"
        return f"00:{self.number:02x}.{self.function}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 3


def port_slot(index: int) -> int:
    """Return the slot of bus 0 that has root port ``index``: the same however many there are."""
    return FIRST_PORT + index
