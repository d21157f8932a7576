"""Both ends of a queue of either kind, on memory of the test's own."""

from __future__ import annotations

from devproc import rings
from devproc.driver_queue import DriverQueue
from devproc.packed_driver_queue import PackedDriverQueue
from devproc.virtio_spec import Feature
from devproc.virtqueue import QueueRecord, Virtqueue
from protocol.memory import GuestMemory, Shared

BASE = 0x8000_0000
RAM_SIZE = 0x8_0000
PAGE_SIZE = 0x3000
RECORD, TABLE = 0, 64
SPLIT, PACKED = 0, int(Feature.RING_PACKED)
KINDS = (SPLIT, PACKED)


class Ends:
    """A driver and a device on ``ram`` and ``page``; ``features`` says which kind of ring."""

    def __init__(
        self,
        ram: Shared,
        page: Shared,
        size: int = 8,
        *,
        features: int = SPLIT,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        ram.u8[:] = bytes(ram.size)
        page.u8[:] = bytes(page.size)
        self.features, self.event_idx, self.indirect = features, event_idx, indirect
        self._memory = ram, page
        driver = PackedDriverQueue if features else DriverQueue
        self.driver: DriverQueue | PackedDriverQueue = driver(
            GuestMemory(ram, BASE), BASE, size, event_idx=event_idx, indirect=indirect
        )
        record = QueueRecord(page, RECORD)
        record.size = size
        record.desc, record.driver, record.device = self.driver.desc, self.driver.avail, self.driver.used
        self.device = self.make()
        self.device.start()

    def make(self, ram: Shared | None = None, page: Shared | None = None) -> Virtqueue:
        """Return a device's end, which neither starts nor recovers."""
        ram, page = ram or self._memory[0], page or self._memory[1]
        queue = rings.make_queue(self.features, 0, GuestMemory(ram, BASE), QueueRecord(page, RECORD), (page, TABLE))
        queue.event_idx, queue.indirect = self.event_idx, self.indirect
        return queue
