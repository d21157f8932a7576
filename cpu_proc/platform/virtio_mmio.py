"""The slots of virtio-mmio, as many and where QEMU's ``virt`` has them.

A slot is 4 KiB and a wire. An empty one says that it is a slot and has device 0, which drivers pass over (virtio 1.2
§4.2.2).
"""

from __future__ import annotations

from cpu_proc import memory_map as mm
from cpu_proc.platform.wired import WiredDevice

EMPTY = {0x00: 0x7472_6976, 0x04: 2, 0x0C: 0x554D_4551}  # magic, version, QEMU's vendor
SLOTS = [(mm.virtio_slot(index), f"virtio-mmio{index}") for index in range(mm.VIRTIO_SLOTS)]


class MmioDevice(WiredDevice):
    """A virtio-mmio device of another process."""

    transport = "mmio"
    place_of = staticmethod(mm.virtio_slot)

    def bar_address(self, index: int) -> int:
        """Return where the slot is; a BAR that does not fill it is nowhere."""
        place = self._places.get(index)
        return super().bar_address(index) if place and place.size == self.region.size else 0
