"""The driver side of a packed virtqueue (virtio 1.2 §2.8), beside the split one of ``devproc.driver_queue``.

A chain's head is its buffer id, a number below the queue size that nothing in flight has. Descriptors are written in
the order of the ring, the flags of the first one last, which makes the chain available as a whole (§2.8.21.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from devproc.driver_queue import TABLE, Buffer, DriverQueue, DriverRings
from devproc.packed_queue import DESC_AVAIL, DESC_USED, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, PackedQueue
from devproc.virtio_spec import Feature
from devproc.virtqueue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from protocol.memory import GuestMemory, full_fence


class PackedDriverQueue(DriverRings):
    """A packed queue of ``size`` descriptors, which need not be a power of two."""

    def __init__(
        self, memory: GuestMemory, gpa: int, size: int, *, event_idx: bool = False, indirect: bool = False
    ) -> None:
        super().__init__(memory, gpa, size, PackedQueue.areas(size), event_idx=event_idx, indirect=indirect)
        self._ids = list(range(size))
        self._counts: dict[int, int] = {}
        self._room = size
        self._added = 0  # descriptors since the last kick
        self._avail, self._avail_wrap = 0, 1
        self._used, self._used_wrap = 0, 1

    def add(self, readable: Sequence[Buffer], writable: Sequence[Buffer]) -> int:
        """Make a chain available; its head is its buffer id."""
        buffers = [(*b, 0) for b in readable] + [(*b, DESC_WRITE) for b in writable]
        if (1 if self.indirect else len(buffers)) > self._room:
            raise IndexError("no free descriptors")
        identity = self._ids.pop()
        if self.indirect:
            table = self._tables + identity * 16 * TABLE
            for place, (address, length, flags) in enumerate(buffers):
                self.store(table + 16 * place, 8, address)
                self.store(table + 16 * place + 8, 8, length | flags << 48)
            buffers = [(table, 16 * len(buffers), DESC_INDIRECT)]
        self.offer(identity, buffers)
        return identity

    def offer(self, identity: int, buffers: Sequence[tuple[int, int, int]]) -> None:
        """Put descriptors (address, length, flags) into the ring, the next ones in order."""
        first, flags_of_first = 0, 0
        for number, (address, length, flags) in enumerate(buffers):
            place = self.desc + 16 * self._avail
            flags |= DESC_AVAIL if self._avail_wrap else DESC_USED
            if number < len(buffers) - 1:
                flags |= DESC_NEXT
            self.store(place, 8, address)
            self.store(place + 8, 4, length)
            self.store(place + 12, 2, identity)
            if number:
                self.store(place + 14, 2, flags)
            else:
                first, flags_of_first = place + 14, flags
            self._avail, self._avail_wrap = self._after(self._avail, self._avail_wrap, 1)
        self.store(first, 2, flags_of_first)
        self._counts[identity] = len(buffers)
        self._room -= len(buffers)
        self._added += len(buffers)

    def _after(self, index: int, wrap: int, count: int) -> tuple[int, int]:
        """Return the position ``count`` descriptors on."""
        index += count
        return (index - self.size, wrap ^ 1) if index >= self.size else (index, wrap)

    def kick(self) -> bool:
        """Return whether the device wants a doorbell for what was added since the last call (§2.8.10)."""
        full_fence()  # the descriptors are out; now look at what the device asked for
        added, self._added = self._added, 0
        event = self.load(self.used, 4)
        if event >> 16 & 3 != EVENT_DESC or not self.event_idx:
            return event >> 16 & 3 != EVENT_DISABLE
        place = event & 0x7FFF
        if event >> 15 & 1 != self._avail_wrap:
            place -= self.size
        return self._avail - added <= place < self._avail

    def ask(self) -> bool:
        """Ask for an interrupt at the next used descriptor; return False when one is there already."""
        event = self._used | self._used_wrap << 15 | EVENT_DESC << 16 if self.event_idx else EVENT_ENABLE << 16
        self.store(self.avail, 4, event)
        full_fence()
        return not self._is_used()

    def _is_used(self) -> bool:
        flags = self.load(self.desc + 16 * self._used + 14, 2)
        return flags & (DESC_AVAIL | DESC_USED) == (DESC_AVAIL | DESC_USED if self._used_wrap else 0)

    def collect(self) -> list[tuple[int, int]]:
        """Return (head, bytes written) of everything the device has returned since the last call."""
        found = []
        while self._is_used():
            place = self.desc + 16 * self._used
            identity = self.load(place + 12, 2)
            found.append((identity, self.load(place + 8, 4)))
            count = self._counts.pop(identity)
            self._ids.append(identity)
            self._room += count
            self._used, self._used_wrap = self._after(self._used, self._used_wrap, count)
        return found

    @property
    def outstanding(self) -> int:
        """Chains the device has not returned."""
        return len(self._counts)


def lay_out(memory: GuestMemory, gpa: int, size: int, features: int) -> DriverQueue | PackedDriverQueue:
    """Return a queue of the kind that ``features`` ask for, laid out at ``gpa``."""
    kind = PackedDriverQueue if features & Feature.RING_PACKED else DriverQueue
    event_idx, indirect = bool(features & Feature.RING_EVENT_IDX), bool(features & Feature.RING_INDIRECT_DESC)
    return kind(memory, gpa, size, event_idx=event_idx, indirect=indirect)
