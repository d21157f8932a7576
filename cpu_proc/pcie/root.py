"""The PCIe root complex: configuration space by ECAM, BAR decoding, MSI-X and INTx of functions, and of root ports.

All of MSI-X that a guest can see is served here, from the table in the device's page: a device only counts a vector up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cpu_proc import memory_map as mm
from cpu_proc.engine.state import W_BASE, W_SIZE
from cpu_proc.pcie.function import MSIX_ENABLE, Function
from cpu_proc.pcie.port import PIN, Card, Port
from cpu_proc.place import FUNCTIONS, port_slot
from cpu_proc.platform.aia import Imsic
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.sources import Sources
from protocol.layout import IrqPage

logger = logging.getLogger(__name__)

_HOST_BRIDGE = {0x00: 0x0008_1B36, 0x08: 0x0600_0000}  # vendor and device; class code
MSIX_MASK_ALL = 0x4000
_ENTRY_MASKED = 1
_INTX_DISABLE = 0x400
_COMMAND = 0x04
_PIN = 0x3D

SetLine = Callable[[int, int], None]


class Root:
    """Bus 0: a host bridge in slot 0, remote functions in the slots above, root ports from slot 16 on."""

    SAVED = ("_intx",)

    def __init__(
        self,
        space: AddressSpace,
        irq: IrqPage,
        apertures: list[mm.Region],
        set_line: SetLine,
        rows_changed: Callable[[], None],
        ports: int = 0,
    ) -> None:
        """Decode memory in ``apertures`` only, wherever a guest points its BARs."""
        self.functions: dict[tuple[int, int], Function] = {}  # on bus 0, by slot and function
        self.all_functions: list[Function] = []  # and those behind ports
        self.port_changed: Callable[[Port], None] = lambda _port: None
        self._space = space
        self._irq = irq
        self._apertures = apertures
        self._set_line = set_line
        self._rows_changed = rows_changed
        self._intx = [0] * (4 * FUNCTIONS)  # who pulls each line, by the function's number: words that msgpack takes
        self._sources = Sources(irq)
        self._owners: dict[int, Function] = {}  # by source
        self._used = 0  # so many words of the page at most
        self._behind: set[Function] = set()  # not all that their sources say has been delivered, or it is not known
        self._rows: dict[Function, list[list[int]]] = {}
        self._only: Function | None = None  # whose rows alone may have changed
        self.lost_messages = 0  # sent to where no interrupt controller is
        self.ports = [self._port(index, port_slot(index)) for index in range(ports)]
        self._at_slot: dict[int, Port] = {port.slot: port for port in self.ports}

    def _port(self, index: int, slot: int) -> Port:
        bit = 1 << slot
        return Port(index, slot, self._send, lambda level: self._pull_wire(slot, PIN, bit, level))

    def add(self, function: Function) -> None:
        """Put ``function`` into its slot."""
        function.settle()
        function.last_words = function.words(self._irq)
        if not isinstance(function, Card):
            self.functions[function.slot, function.function] = function
        elif function.port.card is not function:
            function.port.insert(function)
            self.port_changed(function.port)
        self._changed()

    def remove(self, card: Card) -> None:
        """Take ``card`` out of its port; from now on nothing of it is reached."""
        for line in range(4):
            self._set_wire(line, card.wire_bit, False)
        card.port.pull()
        self.port_changed(card.port)
        self._changed()

    def press(self, port: Port) -> None:
        """Press the attention button of ``port``."""
        port.press()
        self.port_changed(port)

    def reset(self) -> None:
        """Return the ports to their power-on state; functions are reset by their devices."""
        for port in self.ports:
            port.reset()
            self.port_changed(port)

    def _changed(self) -> None:
        self.all_functions = [*self.functions.values(), *(port.card for port in self.ports if port.card)]
        self._owners = {source: each for each in self.all_functions for source in each.source_numbers}
        self._used = max(self._owners, default=-1) + 1
        self._behind = {*self.all_functions}
        self._rows_changed()

    def rows(self) -> list[list[int]]:
        """Return what the harts may serve from pages.

        A guest that finds a hundred functions writes to configuration space some thousand times: all of them are asked
        only when it is not known whose rows changed.
        """
        if self._only is None or self._only not in self._rows:
            self._rows = {function: self._rows_of(function) for function in self.all_functions}
        else:
            self._rows[self._only] = self._rows_of(self._only)
        return [row for rows in self._rows.values() for row in rows]

    def _rows_of(self, function: Function) -> list[list[int]]:
        return [row for row in function.rows() if self._decoded(row[W_BASE], row[W_SIZE])]

    def _decoded(self, base: int, size: int) -> bool:
        """Return whether that is configuration space, or wholly in a window."""
        return any(a.base <= base and base + size <= a.base + a.size for a in (mm.PCIE_ECAM, *self._apertures))

    # configuration space

    def read(self, offset: int, size: int) -> int:
        """Read by ECAM: bus, device, function, register."""
        bdf, register = offset >> 12, offset & 0xFFF
        if bdf == 0:
            word = _HOST_BRIDGE.get(register & ~3, 0)
            return word >> (8 * (register & 3))
        found = self._at(bdf)
        return found.config_read(register, size) if found else -1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write by ECAM."""
        bdf, register = offset >> 12, offset & 0xFFF
        found = self._at(bdf)
        if isinstance(found, Port):
            self._write_port(found, register, size, value)
        elif found and found.config_write(register, size, value):
            self._only = found
            try:
                self._rows_changed()
            finally:
                self._only = None
            self.deliver(found)

    def _at(self, bdf: int) -> Function | Port | None:
        """Return what has this bus, device and function."""
        bus, device, number = bdf >> 8, bdf >> 3 & 31, bdf & 7
        if bus == 0:
            return self.functions.get((device, number)) or (None if number else self._at_slot.get(device))
        behind = next((port for port in self.ports if port.bus == bus), None)
        return behind.reachable if behind and device == number == 0 else None

    def _write_port(self, port: Port, register: int, size: int, value: int) -> None:
        card = port.reachable
        decoding_changed = port.config_write(register, size, value)
        if card and not port.reachable:  # a link that goes down resets what is behind it (PCIe 5.0 §6.6.1)
            card.barrier("reset")
            card.last_words = card.words(self._irq)
            self._intx_level(card, 0)
        if decoding_changed:
            self._rows_changed()
        self.port_changed(port)

    # memory space

    def memory_read(self, address: int, size: int) -> int:
        """Read from whatever BAR decodes ``address``."""
        found = self._decode(address, size)
        return found[0].bar_read(found[1], found[2], size) if found else -1

    def memory_write(self, address: int, size: int, value: int) -> None:
        """Write to whatever BAR decodes ``address``."""
        found = self._decode(address, size)
        if found is None:
            return
        function, bar, offset = found
        function.bar_write(bar, offset, size, value)
        if function.msix and bar == function.msix.bar:
            self.deliver(function)

    def _decode(self, address: int, size: int) -> tuple[Function, int, int] | None:
        for function in self.all_functions:
            for index, base, length in function.bars():
                if base and base <= address and address + size <= base + length:
                    return function, index, address - base
        return None

    # interrupts

    def scan(self) -> None:
        """Look at every source word and deliver what changed."""
        owners = self._owners
        found = {owners[source]: None for source in self._sources.changed(self._used) if source in owners}
        for function in [*found, *(self._behind - found.keys())]:
            if function.words(self._irq) != function.last_words:
                self.deliver(function)
            else:
                self._behind.discard(function)

    def deliver(self, function: Function) -> None:
        """Bring INTx, pending bits and messages in line with the source words and the guest's masks.

        A vector is pending while its count, or that of a call that is its, differs from the count last delivered;
        several messages of a masked vector become one (PCI 3.0 §6.8.3.4).
        """
        words = function.words(self._irq)
        if not words:
            return
        if function.trace:
            function.trace.line(function.last_words, words)
        self._intx_level(function, words[0])
        msix = function.msix
        if msix is None:
            function.last_words = words
            self._behind.discard(function)
            return
        control = function.config(msix.capability + 2, 2)
        before = function.last_words
        delivered = [words[0], *before[1:]]
        due = function.due(words)
        for vector in range(msix.vectors) if function.calls else ():
            if vector not in due:  # a call that was pending here may be a message of another vector by now
                function.shared.u8[msix.pending + vector // 8] &= ~(1 << vector % 8)
        for vector, sources in due.items():
            if vector >= msix.vectors:
                _take(sources, words, delivered)
                continue
            entry = msix.table + vector * 16
            masked = function.shared.load(entry + 12, 4) & _ENTRY_MASKED
            byte, bit = msix.pending + vector // 8, 1 << (vector % 8)
            if not control & MSIX_ENABLE:
                function.shared.u8[byte] &= ~bit
                _take(sources, words, delivered)  # not enabled: the message is lost, as on a real bus
            elif masked or control & MSIX_MASK_ALL:
                function.shared.u8[byte] |= bit
            else:
                function.shared.u8[byte] &= ~bit
                _take(sources, words, delivered)
                address = function.shared.load(entry, 4) | function.shared.load(entry + 4, 4) << 32
                data = function.shared.load(entry + 8, 4)
                if function.trace:
                    function.trace.message(vector, address, data)
                self._send(address & ~3, data)
        function.last_words = delivered
        if delivered == words:
            self._behind.discard(function)
        else:
            self._behind.add(function)
        if function.calls:
            calls = slice(-len(function.calls), None)
            function.counters["calls"] += sum(delivered[calls]) - sum(before[calls])

    def _send(self, address: int, data: int) -> None:
        """Write a message to an interrupt controller.

        Nowhere else: a guest could point a vector at the table of the very function that sends, without end.
        """
        found = self._space.find(address)
        if found is not None and isinstance(found[1], Imsic):
            found[1].write(address - found[0].base, 4, data)
        else:
            self.lost_messages += 1

    def _intx_level(self, function: Function, word: int) -> None:
        pin = function.config(_PIN, 1)
        if not pin:
            return
        level = bool(word) and not function.config(_COMMAND, 2) & _INTX_DISABLE
        self._pull_wire(function.wire_slot, pin, function.wire_bit, level, function.function)

    def _pull_wire(self, slot: int, pin: int, bit: int, level: bool, function: int = 0) -> None:
        """Pull the wire that a pin of ``slot`` leads to, or let go; ``bit`` and ``function`` are whoever does."""
        self._set_wire((slot + pin - 1) % 4, bit, level, function)

    def _set_wire(self, line: int, bit: int, level: bool, function: int = 0) -> None:
        at = line + 4 * function
        self._intx[at] = self._intx[at] | bit if level else self._intx[at] & ~bit
        self._set_line(mm.PCIE_IRQ + line, int(any(self._intx[line::4])))


def _take(sources: list[int], words: list[int], delivered: list[int]) -> None:
    """Note what these sources counted as delivered."""
    for source in sources:
        delivered[source] = words[source]


class MemoryWindow:
    """One of the root's memory windows in the address space."""

    def __init__(self, root: Root, base: int) -> None:
        self._root = root
        self._base = base

    def read(self, offset: int, size: int) -> int:
        """Read from the bus address at ``offset``."""
        return self._root.memory_read(self._base + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to the bus address at ``offset``."""
        self._root.memory_write(self._base + offset, size, value)
