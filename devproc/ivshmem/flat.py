"""``python -m devproc.ivshmem.flat``: shared memory with doorbells and no PCI, as QEMU's ivshmem-flat.

Registers, memory and one wire, which any doorbell pulls for an instant, whatever the vector; the interrupt registers
are reserved, as there (hw/misc/ivshmem-flat.c).
"""

from __future__ import annotations

import sys

from devproc.classes import program_of
from devproc.host import main
from devproc.ivshmem.guest_peer import Config, GuestPeer
from devproc.ivshmem.peer_device import PeerDevice
from devproc.machine import Machine
from devproc.platform import PlatformDevice
from devproc.registers import Bar, Register


class Flat(PeerDevice, PlatformDevice):
    """Memory that machines share, and doorbells, without PCI."""

    compatible = ("qemu,ivshmem-flat",)
    bar0 = Bar(16)
    memory_bar = 1

    int_mask = Register(bar0, 0x00, access="r", doc="INTMASK: reserved.")
    int_status = Register(bar0, 0x04, access="r", doc="INTSTATUS: reserved.")
    iv_position = Register(bar0, 0x08, access="r", doc="IVPOSITION: the id of this peer.")
    doorbell_register = Register(
        bar0, 0x0C, access="w", matches=True, doc="DOORBELL: peer in the upper half, its vector in the lower."
    )

    def __init__(self, config: Config) -> None:
        """Join the server.

        Raises:
            HostError: see ``GuestPeer``.
            ConfigError: likewise.
        """
        super().__init__()
        self.config = config
        self.peer = GuestPeer(config)
        self.calls = self.peer.vectors
        self._memory = Bar(self.peer.size, index=self.memory_bar, memory=True)

    def bars(self) -> dict[int, Bar]:
        """Add the shared memory."""
        return super().bars() | {self.memory_bar: self._memory}

    def attach(self, machine: Machine) -> bool:
        """Connect the guest with the peers."""
        resumed = super().attach(machine)
        self.peer.attach(self.wiring, resumed=resumed, own_id=self.iv_position)
        self.peer.hand_over()
        self.iv_position = self.peer.id
        return resumed

    def reset(self) -> None:
        """Keep the id."""
        super().reset()
        self.iv_position = self.peer.id


PROGRAM = program_of(Flat, name="ivshmem-flat")

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
