"""A PCI function: configuration space, capabilities, MSI-X (PCI 3.0 §6.2, §6.8.2).

Behind a PCIe port a function is an endpoint and has the capabilities of one; ``cpu_proc`` says which it is.

``cpu_proc`` serves configuration space from the page under its write mask, decodes the BARs and delivers MSI-X from
the table in the page; the device only fills the page and says which vector it means.
"""

from __future__ import annotations

from typing import ClassVar

from devproc.device import Device
from devproc.registers import CONFIG, Bar, Register
from protocol.layout import CONFIG_SIZE, DevicePage, ReadKind, WriteKind, kind

MSIX_CAP = 0x98  # the offset QEMU's virtio functions have it at
MSIX_ENABLE = 0x8000
MSIX_ENTRY = 16
EXPRESS_CAP, POWER_CAP = 0xA8, 0xE4
_PBA_MIN = 0x800
_CAP_MSIX, _CAP_EXPRESS, _CAP_POWER = 0x11, 0x10, 0x01
_MORE_FUNCTIONS = 0x80  # of the header type (PCI 3.0 §6.2.1)

COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 0x2, 0x4, 0x400
STATUS_INTERRUPT, STATUS_CAPABILITIES = 0x08, 0x10

# Device Control: error reporting, relaxed ordering, no snoop; Link Control: clock, synch; Device Control 2: none;
# power state, which is kept from D3hot to D0 (PCIe 5.0 §7.5.3.4, §7.5.3.7, §7.5.2.2)
_EXPRESS_WRITABLE = {EXPRESS_CAP + 0x08: 0x081F, EXPRESS_CAP + 0x10: 0x00C8, POWER_CAP + 4: 0x0003}


def _express() -> bytes:
    """Return the PCI Express capability, version 2, of an endpoint on a link of one lane (PCIe 5.0 §7.5.3)."""
    body = bytearray(0x3C)
    link = 1 << 22 | 1 << 4 | 1  # ASPM optionality, x1, 2.5 GT/s
    words = {0x00: _CAP_EXPRESS | 2 << 16, 0x04: 0x8000, 0x08: 0x0810, 0x0C: link, 0x10: 0x0011 << 16, 0x2C: 2, 0x30: 1}
    for offset, word in words.items():
        body[offset : offset + 4] = word.to_bytes(4, "little")
    return bytes(body)


def _power() -> bytes:
    """Return the power management capability, version 3, which every PCIe function has (PCIe 5.0 §7.5.2)."""
    return (_CAP_POWER | 3 << 16).to_bytes(4, "little") + (0x0008).to_bytes(4, "little")


class PciDevice(Device):
    """Base of PCI functions: declare ``vendor``, ``device``, ``class_code``, BARs and registers."""

    vendor: int = 0x1234
    device: int = 0
    class_code: int = 0xFF_0000
    revision: int = 0
    subsystem: tuple[int, int] = (0, 0)
    """Subsystem vendor and device; (0, 0) stands for the function's own."""
    msix_bar: int = 1
    own_express: ClassVar[bool] = False
    """Whether ``capabilities`` has one of PCI Express wherever the function is, so that none is added behind a port."""

    pci_command = Register(
        CONFIG, 0x04, width=2, mask=COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE, doc="Command."
    )
    pci_status = Register(CONFIG, 0x06, width=2, access="r", reset=STATUS_CAPABILITIES, doc="Status.")
    pci_cache_line = Register(CONFIG, 0x0C, width=1, doc="Cache line size; no meaning, kept for the guest.")
    pci_interrupt_line = Register(CONFIG, 0x3C, width=1, doc="Interrupt line; kept for the guest.")
    pci_msix_control = Register(CONFIG, MSIX_CAP + 2, width=2, mask=0xC000, doc="MSI-X enable, function mask.")

    @property
    def msix_pba(self) -> int:
        """Offset of the pending bits in the MSI-X BAR."""
        return max(_PBA_MIN, 1 << (self.vectors * MSIX_ENTRY - 1).bit_length())

    def bars(self) -> dict[int, Bar]:
        """Return the declared BARs and the one with the MSI-X table."""
        bars = super().bars()
        if self.vectors:
            bars[self.msix_bar] = Bar(2 * self.msix_pba, index=self.msix_bar)
        return bars

    def capabilities(self) -> dict[int, bytes]:
        """Return the capabilities by offset, without the pointer to the next, which ``power_on`` sets."""
        endpoint = {EXPRESS_CAP: _express(), POWER_CAP: _power()} if self.express else {}
        if not self.vectors:
            return endpoint
        table, pba = self.msix_bar, self.msix_pba | self.msix_bar
        control = self.vectors - 1
        msix = bytes([_CAP_MSIX, 0]) + control.to_bytes(2, "little") + table.to_bytes(4, "little")
        return {MSIX_CAP: msix + pba.to_bytes(4, "little")} | endpoint

    def kinds(self, index: int, bar: Bar) -> bytearray:
        """Add the MSI-X table, which is plain storage, and the pending bits, which only ``cpu_proc`` sets."""
        kinds = super().kinds(index, bar)
        if self.vectors and index == self.msix_bar:
            table = self.vectors * MSIX_ENTRY
            pba, size = self.msix_pba, -(-self.vectors // 64) * 8
            kinds[:table] = bytes([kind(ReadKind.PAGE, WriteKind.STORE)]) * table
            kinds[pba : pba + size] = bytes([kind(ReadKind.PAGE, WriteKind.DROP)]) * size
        return kinds

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add where MSI-X is, and kinds and write mask of configuration space."""
        super().declare(places)
        page = self.machine.page
        if self.vectors:
            page.msix_bar, page.msix_cap = self.msix_bar, MSIX_CAP
            page.msix_table, page.msix_pba = 0, self.msix_pba
        mask = self._write_mask()
        kinds = self.registers.kinds(CONFIG)
        for offset, bits in enumerate(mask):
            if bits and kinds[offset] >> 4 == WriteKind.DROP:
                kinds[offset] = kind(ReadKind.PAGE, WriteKind.STORE)
        self.shared.u8[page.CONFIG_MASK : page.CONFIG_MASK + CONFIG_SIZE] = mask
        self.shared.u8[page.CONFIG_KINDS : page.CONFIG_KINDS + CONFIG_SIZE] = kinds

    def _write_mask(self) -> bytearray:
        """Return the write mask: the declared registers, and of each BAR the address bits above its size."""
        mask = bytearray(CONFIG_SIZE)
        for register in self.registers.all:
            if register.bar is CONFIG and register.write_kind in (WriteKind.STORE, WriteKind.RING):
                mask[register.offset : register.offset + register.width] = register.mask.to_bytes(
                    register.width, "little"
                )
        if not self.vectors:
            mask[MSIX_CAP : MSIX_CAP + 12] = bytes(12)
        if self.express:
            for offset, bits in _EXPRESS_WRITABLE.items():
                mask[offset : offset + 2] = bits.to_bytes(2, "little")
        for index, bar in self.bars().items():
            width = 8 if bar.bits64 else 4
            bits = -bar.size & ((1 << width * 8) - 1)
            mask[0x10 + 4 * index : 0x10 + 4 * index + width] = bits.to_bytes(width, "little")
        return mask

    def power_on(self) -> None:
        """Add the fixed part of configuration space, and mask every MSI-X vector (PCI 3.0 §6.8.2.9)."""
        super().power_on()
        subsystem = self.subsystem if any(self.subsystem) else (self.vendor, self.device)
        fixed = {
            0x00: self.vendor.to_bytes(2, "little") + self.device.to_bytes(2, "little"),
            0x08: bytes([self.revision]) + self.class_code.to_bytes(3, "little"),
            0x0E: bytes([_MORE_FUNCTIONS * self.machine.page.functions]),
            0x2C: b"".join(number.to_bytes(2, "little") for number in subsystem),
            0x3D: b"\x01",  # INTA
        }
        for index, bar in self.bars().items():
            fixed[0x10 + 4 * index] = bytes([(0x4 if bar.bits64 else 0) | (0x8 if bar.prefetchable else 0)])
        pointer = 0x34
        for offset, body in sorted(self.capabilities().items()):
            fixed[offset] = body
            fixed[pointer] = bytes([offset])
            pointer = offset + 1
        # in order of offset, so that the pointer to the next capability lands on top of the body before it
        for offset, body in sorted(fixed.items()):
            start = DevicePage.CONFIG + offset
            self.shared.u8[start : start + len(body)] = body
        if pointer == 0x34:
            self.pci_status = 0
        if self.vectors:
            table = self.images[self.msix_bar]
            for vector in range(self.vectors):
                self.shared.store(table + vector * MSIX_ENTRY + 12, 4, 1)

    @property
    def express(self) -> bool:
        """Whether the function needs the capabilities of an endpoint, because it is behind a PCIe port."""
        return bool(self.machine.page.express) and not self.own_express

    @property
    def msix_enabled(self) -> bool:
        """Whether the guest has enabled MSI-X; INTx is in force otherwise."""
        return bool(self.vectors) and bool(self.pci_msix_control & MSIX_ENABLE)

    @property
    def bus_master(self) -> bool:
        """Whether the guest lets the function reach memory."""
        return bool(self.pci_command & COMMAND_MASTER)

    def interrupt(self, vector: int) -> None:
        """Send MSI-X message ``vector``; without MSI-X use ``line``."""
        if self.msix_enabled:
            self.machine.message(vector)

    def line(self, level: bool) -> None:
        """Set the INTx line and the status bit that goes with it (PCI 3.0 §6.2.3)."""
        status = self.pci_status & ~STATUS_INTERRUPT
        self.pci_status = status | (STATUS_INTERRUPT if level else 0)
        super().line(level)
