"""A root port: the bridge from bus 0 to a bus of its own with one slot, in which cards come and go.

The header is that of a PCI-to-PCI bridge (PCIe 5.0 §7.5.1.3). Behind it is device 0 alone (§7.3.1), found under the
bus number and within the memory windows that the guest has chosen. There is no I/O window: no device has I/O BARs
(§7.5.1.3.6 lets a bridge do without).
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.pcie.config_space import ConfigSpace
from cpu_proc.pcie.function import COMMAND, COMMAND_MASTER, COMMAND_MEMORY, Function
from cpu_proc.pcie.hot_plug import BRIDGE_CONTROL, BUS_RESET, EXPRESS, HotPlugSlot

VENDOR, DEVICE = 0x1B36, 0x000C  # QEMU's pcie-root-port
INTX_DISABLE, INTERRUPT_STATUS = 0x0400, 0x0008
_STATUS, SECONDARY, MEMORY_BASE, MEMORY_LIMIT = 0x06, 0x19, 0x20, 0x22
PREFETCHABLE_BASE, PREFETCHABLE_LIMIT, _BASE_HIGH, _LIMIT_HIGH = 0x24, 0x26, 0x28, 0x2C
MSI, _MSI_CONTROL, _MSI_ADDRESS, _MSI_DATA, _MSI_MASK, _MSI_PENDING = 0x40, 0x42, 0x44, 0x4C, 0x50, 0x54
_MSI_ENABLE, _MSI_64, _MSI_MASKABLE = 0x0001, 0x0080, 0x0100
_POWER = 0xA0  # power management capability
PIN = 2
"""INTB. On INTA the port would share the wire of its card, on which Linux, removing the card in the thread of the
port's interrupt, waits for that very thread (``synchronize_irq`` in virtio's ``vp_synchronize_vectors``)."""
_MEGABYTE = 1 << 20

SendMessage = Callable[[int, int], None]
SetWire = Callable[[bool], None]


class Port:
    """The port in slot ``slot`` of bus 0, ``index`` among its like."""

    SAVED = ("registers", "_signalled")

    def __init__(self, index: int, slot: int, send: SendMessage, set_wire: SetWire) -> None:
        self.index = index
        self.slot = slot
        self.card: Card | None = None
        self.space = ConfigSpace()
        self._send = send
        self._set_wire = set_wire
        self._signalled = False  # the condition for a message holds, and one has been sent for it
        self._declare()
        self.hot_plug = HotPlugSlot(self.space, index + 1)
        self.space.capabilities(0x34, [MSI, EXPRESS, _POWER])

    def _declare(self) -> None:
        declare = self.space.declare
        declare(0x00, 4, DEVICE << 16 | VENDOR)
        declare(COMMAND, 2, writable=COMMAND_MEMORY | COMMAND_MASTER | 0x0140 | INTX_DISABLE)
        declare(_STATUS, 2, 0x0010)  # there are capabilities
        declare(0x08, 4, 0x0604_0000)
        declare(0x0C, 1, writable=0xFF)
        declare(0x0E, 1, 0x81)  # header of a bridge, of a device that may have more functions: only those have INTB
        declare(0x18, 4, writable=0x00FF_FFFF)  # primary, secondary, subordinate bus
        declare(MEMORY_BASE, 2, 0xFFF0, writable=0xFFF0)  # above its limit: nothing is forwarded
        declare(MEMORY_LIMIT, 2, writable=0xFFF0)
        declare(PREFETCHABLE_BASE, 2, 0xFFF1, writable=0xFFF0)  # 1: of 64 bits
        declare(PREFETCHABLE_LIMIT, 2, 0x0001, writable=0xFFF0)
        declare(_BASE_HIGH, 4, writable=0xFFFF_FFFF)
        declare(_LIMIT_HIGH, 4, writable=0xFFFF_FFFF)
        declare(0x3C, 2, PIN << 8, writable=0x00FF)
        declare(BRIDGE_CONTROL, 2, writable=0x0003 | BUS_RESET)
        declare(MSI, 1, 0x05)
        declare(_MSI_CONTROL, 2, _MSI_64 | _MSI_MASKABLE, writable=_MSI_ENABLE)
        declare(_MSI_ADDRESS, 8, writable=(1 << 64) - 4)
        declare(_MSI_DATA, 2, writable=0xFFFF)
        declare(_MSI_MASK, 4, writable=1)
        declare(_MSI_PENDING, 4)
        declare(_POWER, 4, 0x0003_0001)
        declare(_POWER + 4, 2, 0x0008, writable=0x0003)  # the state is kept from D3hot to D0

    # what is behind it

    @property
    def bus(self) -> int:
        """The number of the bus behind the port; 0 while the guest has given none."""
        return self.space.get(SECONDARY, 1)

    @property
    def reachable(self) -> Card | None:
        """The card, if the link to it is up."""
        return self.card if self.hot_plug.link else None

    def forwards(self, base: int, size: int) -> bool:
        """Tell whether an address range is within one of the port's windows (§7.5.1.3.8, §7.5.1.3.9)."""
        if not self.space.get(COMMAND, 2) & COMMAND_MEMORY:
            return False
        return any(first <= base and base + size <= end for first, end in self._windows())

    def _windows(self) -> list[tuple[int, int]]:
        get = self.space.get

        def window(base_at: int, limit_at: int, base_high: int = 0, limit_high: int = 0) -> tuple[int, int]:
            base, limit = get(base_at, 2) & 0xFFF0, get(limit_at, 2) & 0xFFF0
            return base_high << 32 | base << 16, (limit_high << 32 | limit << 16) + _MEGABYTE

        return [
            window(MEMORY_BASE, MEMORY_LIMIT),
            window(PREFETCHABLE_BASE, PREFETCHABLE_LIMIT, get(_BASE_HIGH, 4), get(_LIMIT_HIGH, 4)),
        ]

    # configuration space

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return self.space.get(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> bool:
        """Write configuration space; return whether what is behind the port may be decoded elsewhere now."""
        before = self._decoding()
        self.space.write(offset, size, value)
        self.hot_plug.written(offset, size)
        self.signal()
        return before != self._decoding()

    def _decoding(self) -> tuple[object, ...]:
        return self.bus, self.hot_plug.link, self.space.get(COMMAND, 2) & COMMAND_MEMORY, *self._windows()

    # the card

    def insert(self, card: Card) -> None:
        """Put a card into the slot."""
        self.card = card
        self.hot_plug.insert()
        self.signal()

    def pull(self) -> None:
        """Take the card out of the slot."""
        self.card = None
        self.hot_plug.pull()
        self.signal()

    def press(self) -> None:
        """Press the attention button."""
        self.hot_plug.press()
        self.signal()

    def reset(self) -> None:
        """Return to the state after a cold reset; the card stays."""
        self.space.reset()
        self.hot_plug.reset(present=self.card is not None)
        self._signalled = False
        self.signal()

    # interrupts

    def signal(self) -> None:
        """Bring message or wire in line with the events of the slot.

        A message is sent whenever the condition becomes true, of which enable and mask are a part (§6.7.3.4).
        """
        get = self.space.get
        asserted, command = self.hot_plug.interrupt, get(COMMAND, 2)
        by_message = bool(get(_MSI_CONTROL, 2) & _MSI_ENABLE)
        masked = bool(get(_MSI_MASK, 4) & 1)
        self.space.put(_MSI_PENDING, 4, int(asserted and by_message and masked))
        ready = asserted and by_message and not masked and bool(command & COMMAND_MASTER)
        if ready and not self._signalled:
            self._send(get(_MSI_ADDRESS, 8), get(_MSI_DATA, 2))
        self._signalled = ready
        on_wire = asserted and not by_message
        self.space.change(_STATUS, set_bits=INTERRUPT_STATUS * on_wire, clear_bits=INTERRUPT_STATUS)
        self._set_wire(on_wire and not command & INTX_DISABLE)

    @property
    def registers(self) -> bytes:
        """Its configuration space, to be saved."""
        return self.space.content

    @registers.setter
    def registers(self, content: bytes) -> None:
        self.space.content = content


class Card(Function):
    """A function in the slot of a port, which is ``port`` once it is there; ``slot`` is the port's index."""

    port: Port

    @property
    def ecam(self) -> int | None:
        """Device 0 of the bus behind the port; nowhere while that has no number, or the link is down."""
        return self.port.bus << 20 if self.port.bus and self.port.hot_plug.link else None

    @property
    def wire_slot(self) -> int:
        """The slot of the port: the pins of device 0 are the port's own (PCIe 5.0 §2.2.8.1)."""
        return self.port.slot

    @property
    def wire_bit(self) -> int:
        """Not the port's own bit: it pulls the same wires."""
        return 1 << 32 + self.port.slot

    def bar_address(self, index: int) -> int:
        """Return the guest address that BAR ``index`` decodes, 0 when it does not, or the port does not lead there."""
        address = super().bar_address(index)
        reached = self.port.hot_plug.link and self.port.forwards(address, self._places[index].size)
        return address if reached else 0

    @property
    def unused(self) -> bool:
        """Whether no driver of the guest has the function any more: no bus mastering, no MSI-X."""
        return not self.config(COMMAND, 2) & COMMAND_MASTER and not self.sends_messages
