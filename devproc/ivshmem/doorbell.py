"""``python -m devproc.ivshmem.doorbell``: shared memory with doorbells, as QEMU's ivshmem-doorbell.

While the guest has MSI-X off, which is all there is in revision 1 of the device, a doorbell interrupts by the wire, as
in revision 0: drivers that know only that, and machines without a controller for messages, have interrupts too.
"""

from __future__ import annotations

import sys

from devproc.classes import program_of
from devproc.host import main
from devproc.ivshmem.function import SharedMemory
from devproc.ivshmem.guest_peer import Config, GuestPeer
from devproc.ivshmem.peer_device import PeerDevice
from devproc.machine import Machine
from devproc.pci import MSIX_CAP
from devproc.registers import CONFIG, Register

_PENDING = 1


class Doorbell(PeerDevice, SharedMemory):
    """Memory that machines share, and doorbells by which they interrupt each other."""

    doorbells = 1  # one of this process: the guest switches MSI-X

    pci_msix_control = Register(
        CONFIG, MSIX_CAP + 2, width=2, mask=0xC000, rings=True, doc="MSI-X enable, function mask."
    )
    int_mask = Register(
        SharedMemory.bar0, 0x00, doc="Interrupt Mask: bit 0 lets the wire rise while MSI-X is off (revision 0)."
    )
    int_status = Register(
        SharedMemory.bar0, 0x04, doc="Interrupt Status: bit 0 after a doorbell while MSI-X is off; reads clear."
    )

    def __init__(self, config: Config) -> None:
        """Join the server.

        Raises:
            HostError: see ``GuestPeer``.
            ConfigError: likewise.
        """
        self.config = config
        self.peer = GuestPeer(config)
        super().__init__(self.peer.size)
        self.vectors = self.calls = self.peer.vectors
        self._direct = False  # the machine has what rings us

    @int_mask.on_write
    def _mask_written(self, _value: int) -> None:
        self._pull()

    @int_status.on_write
    def _status_written(self, _value: int) -> None:
        self._pull()

    @int_status.on_read
    def _read_status(self) -> int:
        status = self.int_status
        self.int_status = 0
        self._pull()
        return status

    def _pull(self) -> None:
        self.line(bool(self.int_status & self.int_mask & _PENDING) and not self.msix_enabled)

    def doorbell(self, _index: int) -> bool:
        """Look how the guest wants to be interrupted."""
        self._connect()
        return False

    def _connect(self) -> None:
        """Have the machine make messages of what rings us; without messages it is the wire, which is ours."""
        if self.msix_enabled:
            self.peer.hand_over()
        else:
            self.peer.watch_own(self._rung)
            if self._direct:
                self.int_status = _PENDING  # what came in between is not known
        self._direct = self.msix_enabled
        self._pull()

    def _rung(self, vector: int) -> None:
        if self.msix_enabled:  # only just
            self.interrupt(vector)
        else:
            self.int_status = _PENDING
            self._pull()

    # life cycle

    def attach(self, machine: Machine) -> bool:
        """Connect the guest with the peers."""
        resumed = super().attach(machine)
        for vector in range(self.vectors):
            machine.page.set_call_vector(vector, vector)
        self._direct = self.peer.attach(self.wiring, resumed=resumed, own_id=self.iv_position)
        self.iv_position = self.peer.id
        self._connect()
        return resumed

    def reset(self) -> None:
        """Go back to the wire."""
        super().reset()
        self.iv_position = self.peer.id
        self._direct = False
        self._connect()


PROGRAM = program_of(Doorbell, name="ivshmem-doorbell")

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
