"""The driver's side of an 82574L, written after its datasheet, and a wire in the test's hands."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar

from devproc.device import Device
from devproc.e1000e.device import E1000e
from devproc.e1000e.spec import Cause, Rctl, Tctl
from devproc.e1000e.wire import Config
from devproc.machine import Machine
from devproc.poke import settle
from protocol.memory import Shared
from tests.unit.devproc.memory import Budget, Crash, Dying
from tests.unit.devproc.virtio_net.rig import MAC, Wire

BASE = 0x8000_0000
RX_RING, TX_RING, RX_BUFFERS, TX_BUFFERS = BASE + 0x1000, BASE + 0x2000, BASE + 0x1_0000, BASE + 0x4_0000
ENTRIES = 16
EXTENDED = 1 << 15
EOP, IFCS, RS, DEXT, VLE = 1 << 24, 1 << 25, 1 << 27, 1 << 29, 1 << 30
TSE = 1 << 26
DATA = 1 << 20 | DEXT
IXSM, TXSM = 1 << 40, 1 << 41
SECRC, VME = Rctl.SECRC, 1 << 30
MESSAGES = 0x08 | 0x09 << 8 | 0x0A << 16
"""IVAR as Linux has it: message 0 for receiving, 1 for sending, 2 for everything else."""


class Nic:
    """A card with rings set up; ``wire`` is what it is connected to."""

    made: ClassVar[list[Nic]] = []

    def __init__(self, wire: Wire | None = None, *, extended: bool = True, msix: bool = True) -> None:
        self.wire = wire or Wire()
        self.device = E1000e(Config(MAC), self.wire)
        self.machine = Machine.private(self.device.page_size, 1 << 20)
        self.device.attach(self.machine)
        self.made.append(self)
        self.ram = self.machine.memory.ram
        self.tail = self.offered = self.seen = 0
        self.extended = extended
        self.set("pci_command", 0x6)
        if msix:
            self.set("pci_msix_control", 0x8000)
            self.set("ivar", MESSAGES)
            self.set("eiac", Cause.RXQ0 | Cause.TXQ0)
        self.set("ims", Cause.RXQ0 | Cause.TXQ0 | Cause.OTHER | Cause.LSC | Cause.RXT0 | Cause.TXDW)
        for way, ring in (("r", RX_RING), ("t", TX_RING)):
            self.set(f"{way}dbal", ring & 0xFFFF_FFFF)
            self.set(f"{way}dbah", ring >> 32)
            self.set(f"{way}dlen", ENTRIES * 16)
        self.set("rfctl", EXTENDED if extended else 0)
        self.set("tctl", Tctl.EN | Tctl.PSP)
        self.set("rctl", Rctl.EN | Rctl.BAM | Rctl.SECRC)

    @classmethod
    def close_all(cls) -> None:
        """Close them."""
        while cls.made:
            nic = cls.made.pop()
            if hasattr(nic.device, "machine"):
                nic.device.release()
            nic.device.close()
            nic.machine.close()

    def set(self, name: str, value: int) -> None:
        """Write a register, and have the card do what follows."""
        self.device.set_register(name, value)
        settle(self.device)

    def get(self, name: str) -> int:
        """Read a register."""
        return self.device.get_register(name)

    def messages(self) -> list[int]:
        """Return how often each MSI-X message was sent."""
        return [self.machine.irq.word(1 + vector) for vector in range(3)]

    def die(self) -> Device:
        """Have a successor go on from the page."""
        self.device.release()
        self.device.close()
        self.wire = Wire(self.wire.offloads)
        self.device = E1000e(Config(MAC), self.wire)
        assert self.device.attach(self.machine)
        self.device.pending.update((0, 1))  # as the loop does
        settle(self.device)
        return self.device

    def killed(self, stores: int, wire: Wire, act: Callable[[E1000e], object]) -> bool:
        """Have a successor act, which dies after so many stores, and then another; return whether it did die."""
        whole, ram = self.machine.page.shared, self.ram
        assert isinstance(ram, Shared)
        budget = Budget(1 << 30)
        dying = E1000e(Config(MAC), wire)
        machine = Machine(self.machine.page, self.machine.memory, self.machine.irq, self.machine._irq_event)
        machine.page.shared = Dying(whole, budget)
        machine.memory.ram = Dying(ram, budget)
        dying.attach(machine)
        dying.doorbell(0)
        budget.left = stores
        try:
            act(dying)
        except Crash:
            return True
        finally:
            machine.page.shared, machine.memory.ram = whole, ram
            dying.close()
            self.die()
        return False

    # sending

    def describe(self, low: int, high: int) -> None:
        """Put a descriptor into the transmit ring; the card is told by ``kick``."""
        at = TX_RING - BASE + self.tail * 16
        self.ram.u8[at : at + 16] = struct.pack("<QQ", low, high)
        self.tail = (self.tail + 1) % ENTRIES

    def kick(self) -> None:
        """Tell the card."""
        self.set("tdt", self.tail)

    def send(self, *parts: bytes, options: int = 0, command: int = 0, tag: int = 0) -> None:
        """Send a frame in extended descriptors, one per part."""
        for number, part in enumerate(parts):
            address = TX_BUFFERS + self.tail * 0x1000
            self.machine.memory.write(address, part)
            last = EOP | RS if number == len(parts) - 1 else 0
            self.describe(address, len(part) | DATA | IFCS | command | options | last | tag << 48)
        self.kick()

    def context(self, low: int, high: int) -> None:
        """Put a context descriptor into the ring."""
        self.describe(low, high | DEXT)

    def done(self, index: int) -> bool:
        """Return whether a transmit descriptor was written back."""
        return bool(self.ram.u8[TX_RING - BASE + index * 16 + 12] & 1)

    # receiving

    def offer(self, count: int = 1, *, size: int = 2048) -> None:
        """Offer buffers."""
        for _ in range(count):
            at = RX_RING - BASE + self.offered * 16
            self.ram.u8[at : at + 8] = (RX_BUFFERS + self.offered * size).to_bytes(8, "little")
            self.offered = (self.offered + 1) % ENTRIES
        self.set("rdt", self.offered)

    def status(self, index: int) -> tuple[int, int, int]:
        """Return status and errors, length and VLAN tag of a receive descriptor."""
        at = RX_RING - BASE + index * 16
        data = bytes(self.ram.u8[at : at + 16])
        if self.extended:
            status, length, tag = struct.unpack_from("<IHH", data, 8)
        else:
            length, _checksum, low, errors, tag = struct.unpack_from("<HHBBH", data, 8)
            status = low | errors << 24
        return status & ~(1 << 19), length, tag

    def received(self, size: int = 2048) -> list[bytes]:
        """Return the frames that were received since the last call, and take their descriptors as Linux does."""
        found, frame = [], b""
        while self.status(self.seen)[0] & 1:
            status, length, _ = self.status(self.seen)
            at = RX_BUFFERS - BASE + self.seen * size
            frame += bytes(self.ram.u8[at : at + length])
            if status & 2:
                found.append(frame)
                frame = b""
            self.ram.u8[RX_RING - BASE + self.seen * 16 + (8 if self.extended else 12)] = 0
            self.seen = (self.seen + 1) % ENTRIES
        assert not frame, "a frame without its end"
        return found
