"""Devices of other processes that are registers at a place and a wire: the slots of virtio-mmio, the platform bus.

Registers and interrupt status are the device's; its word in the interrupt page is the level of the wire. A call
(``DevicePage``) pulls it for an instant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from cpu_proc.memory_map import Region
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.remote import Remote
from protocol.layout import IrqPage

SetLine = Callable[[int, int], None]


class WiredDevice(Remote):
    """The proxy of a remote device; its BAR 0 is at the beginning of its slot."""

    @staticmethod
    def place_of(index: int) -> Region:
        """Return where a slot is."""
        raise NotImplementedError

    @cached_property
    def region(self) -> Region:
        """Where its slot is."""
        return self.place_of(self.slot)

    def bar_address(self, index: int) -> int:
        """Return where the slot is; a BAR that does not fit into it is nowhere."""
        place = self._places.get(index)
        return self.region.base if index == 0 and place and place.size <= self.region.size else 0


class Slot:
    """The registers of one slot; ``empty`` are those it has without a device."""

    def __init__(self, empty: dict[int, int]) -> None:
        self.device: WiredDevice | None = None
        self._empty = empty

    def _there(self, offset: int, size: int) -> WiredDevice | None:
        device = self.device
        if device is None or not device.bar_address(0):
            return None
        (_, _, length), *_ = (bar for bar in device.bars() if bar[0] == 0)
        return device if offset + size <= length else None

    def read(self, offset: int, size: int) -> int:
        """Read the device's registers, or those of an empty slot."""
        device = self._there(offset, size)
        if device:
            return device.bar_read(0, offset, size)
        return 0 if self.device else self._empty.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to the device."""
        device = self._there(offset, size)
        if device:
            device.bar_write(0, offset, size, value)


class Slots:
    """All slots of one kind; wires count from ``first_wire``."""

    def __init__(
        self,
        space: AddressSpace,
        irq: IrqPage,
        set_line: SetLine,
        rows_changed: Callable[[], None],
        *,
        slots: Sequence[tuple[Region, str]],
        first_wire: int,
        empty: dict[int, int],
    ) -> None:
        """Place them in ``space``, under their names."""
        self._irq = irq
        self._set_line = set_line
        self._rows_changed = rows_changed
        self._first_wire = first_wire
        self._slots = [Slot(empty) for _ in slots]
        for slot, (region, name) in zip(self._slots, slots, strict=True):
            space.add(region, slot, name)

    @property
    def devices(self) -> list[WiredDevice]:
        """The devices, in the order of their slots."""
        return [slot.device for slot in self._slots if slot.device]

    def add(self, device: WiredDevice) -> None:
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

    def _deliver(self, device: WiredDevice) -> None:
        words = device.words(self._irq)
        if device.trace:
            device.trace.line(device.last_words, words)
        level, wire = int(words[:1] > [0]), self._first_wire + device.slot
        if device.calls and words[1:] != device.last_words[1:]:
            device.counters["calls"] += sum(words[1:]) - sum(device.last_words[1:])
            self._set_line(wire, 1)  # a call is an edge; what it means, the guest knows
        device.last_words = words
        self._set_line(wire, level)
