"""The slots of virtio-mmio, as many and where QEMU's ``virt`` has them, with devices of other processes in them.

A slot is 4 KiB and a wire. An empty one says that it is a slot and has device 0, which drivers pass over (virtio 1.2
§4.2.2). Registers and interrupt status are the device's; its word in the interrupt page is the level of the wire.
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc import memory_map as mm
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.remote import Remote
from protocol.layout import IrqPage

_EMPTY = {0x00: 0x7472_6976, 0x04: 2, 0x0C: 0x554D_4551}  # magic, version, QEMU's vendor

SetLine = Callable[[int, int], None]


class MmioDevice(Remote):
    """The proxy of a remote device in slot ``slot``; its BAR 0 is the slot."""

    transport = "mmio"

    def bar_address(self, index: int) -> int:
        """Return where the slot is; a BAR that does not fill it is nowhere."""
        region = mm.virtio_slot(self.slot)
        place = self._places.get(index)
        return region.base if index == 0 and place and place.size == region.size else 0


class _Slot:
    """The registers of one slot."""

    def __init__(self) -> None:
        self.device: MmioDevice | None = None

    def read(self, offset: int, size: int) -> int:
        """Read the device's registers, or those of an empty slot."""
        if self.device and self.device.bar_address(0):
            return self.device.bar_read(0, offset, size)
        return _EMPTY.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to the device."""
        if self.device and self.device.bar_address(0):
            self.device.bar_write(0, offset, size, value)


class Slots:
    """All slots."""

    def __init__(self, space: AddressSpace, irq: IrqPage, set_line: SetLine, rows_changed: Callable[[], None]) -> None:
        self._irq = irq
        self._set_line = set_line
        self._rows_changed = rows_changed
        self._slots = [_Slot() for _ in range(mm.VIRTIO_SLOTS)]
        for index, slot in enumerate(self._slots):
            space.add(mm.virtio_slot(index), slot, f"virtio-mmio{index}")

    @property
    def devices(self) -> list[MmioDevice]:
        """The devices, in the order of their slots."""
        return [slot.device for slot in self._slots if slot.device]

    def add(self, device: MmioDevice) -> None:
        """Put ``device`` into its slot."""
        device.settle()
        self._slots[device.slot].device = device
        self._deliver(device)
        self._rows_changed()

    def rows(self) -> list[list[int]]:
        """Return what the harts may serve from pages."""
        return [row for device in self.devices for row in device.rows()]

    def scan(self) -> None:
        """Look at every source word and set the wires that changed."""
        for device in self.devices:
            if device.words(self._irq) != device.last_words:
                self._deliver(device)

    def _deliver(self, device: MmioDevice) -> None:
        words = device.words(self._irq)
        if device.trace:
            device.trace.line(device.last_words, words)
        device.last_words = words
        self._set_line(mm.VIRTIO_IRQ + device.slot, int(any(device.last_words)))
