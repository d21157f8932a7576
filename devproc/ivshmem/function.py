"""The PCI function of shared memory: ids, registers and BARs as QEMU's (docs/specs/ivshmem-spec.rst, revision 1)."""

from __future__ import annotations

from devproc.pci import PciDevice
from devproc.registers import Bar, Register


class SharedMemory(PciDevice):
    """1af4:1110: four registers in BAR 0, and the shared memory in BAR 2."""

    vendor = 0x1AF4
    device = 0x1110
    subsystem = (0x1AF4, 0x1100)
    class_code = 0x05_0000
    revision = 1
    bar0 = Bar(256)
    memory_bar = 2

    int_mask = Register(bar0, 0x00, doc="Interrupt Mask: bit 0 lets the wire rise while MSI-X is off (revision 0).")
    int_status = Register(bar0, 0x04, doc="Interrupt Status: bit 0 after a doorbell while MSI-X is off; reads clear.")
    iv_position = Register(bar0, 0x08, access="r", doc="IVPosition: the id of this peer; 0 without doorbells.")
    doorbell_register = Register(
        bar0, 0x0C, access="w", matches=True, doc="Doorbell: peer in the upper half, its vector in the lower."
    )

    def __init__(self, size: int) -> None:
        """``size`` is that of the shared memory in bytes."""
        super().__init__()
        self._memory = Bar(size, index=self.memory_bar, bits64=True, prefetchable=True, memory=True)

    def bars(self) -> dict[int, Bar]:
        """Add the shared memory."""
        return super().bars() | {self.memory_bar: self._memory}
