"""The device side of a split virtqueue (virtio 1.2 §2.7), with indirect descriptors and EVENT_IDX.

One store publishes a batch of used entries; the order of stores follows ``devproc.inflight``. A chain's ``head`` is
the driver's: the number of its first descriptor.
"""

from __future__ import annotations

import struct
from collections import deque

from devproc.inflight import InflightTable
from devproc.virtqueue import (
    DESC_INDIRECT,
    DESC_NEXT,
    QUEUE_MAX,
    WEAKLY_ORDERED,
    Buffer,
    Chain,
    QueueRecord,
    Virtqueue,
)
from protocol.memory import GuestMemory, full_fence

AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1
_MORE = (DESC_NEXT | DESC_INDIRECT) << 32
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next


class SplitQueue(Virtqueue):
    """One enabled queue with three rings."""

    Table = InflightTable
    alignment = (16, 2, 4)

    @staticmethod
    def areas(size: int) -> tuple[int, int, int]:
        """Return the bytes of descriptor table, available ring and used ring."""
        return 16 * size, 6 + 2 * size, 6 + 8 * size

    @staticmethod
    def fits(size: int) -> bool:
        """Return whether ``size`` is a power of two that we can do."""
        return 2 <= size <= QUEUE_MAX and size & (size - 1) == 0

    def __init__(self, index: int, memory: GuestMemory, record: QueueRecord, inflight: InflightTable) -> None:
        super().__init__(index, memory, record)
        self.inflight = inflight
        self._mask = self.size - 1
        self._batch: list[int] = []
        self._last_avail = 0
        self._used = 0
        desc, avail, used = self._places()
        self._desc = desc >> 3
        self._avail = avail >> 1
        self._used_half = used >> 1
        self._used_word = used >> 2

    def start(self, position: int | None = None) -> None:
        """Begin at the start of empty rings; or at ``position`` of rings in which nothing is under way."""
        used = 0
        if position is not None and self.broken is None:
            used = self._u16[self._used_half + 1]
        self.inflight.start(self.size, used)
        self._used = used
        self._last_avail = self.record.last_avail = position or 0

    def recover(self) -> int:
        """Go on where a predecessor was killed; return how many requests are to be done again."""
        if self.broken is not None:
            return 0
        used = self._u16[self._used_half + 1]
        if self.inflight.entries != self.size or not self.inflight.recover(used):
            self.fail(f"used index {used} does not fit the in-flight table")
            return 0
        self._replay = deque(self.inflight.heads())
        self._used = used
        self._last_avail = used + len(self._replay) & 0xFFFF
        self.record.last_avail = self._last_avail
        return len(self._replay)

    @property
    def left_behind(self) -> bool:
        """Whether requests are in flight; otherwise the base that a front-end has is as good."""
        return self.inflight.entries == self.size and bool(self.inflight.heads())

    @property
    def position(self) -> int:
        """The next entry of the available ring."""
        return self._last_avail

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet returned."""
        return self._last_avail - self.inflight.used_idx & 0xFFFF

    def indices(self) -> dict[str, int]:
        """Return where both sides stand, for people."""
        avail, used = self._u16[self._avail + 1], self._u16[self._used_half + 1]
        return {"avail": avail, "used": used, "inflight": self.in_flight}

    # taking

    def pop(self) -> Chain | None:
        """Take the next request, or ``None``: none is there, or the queue is broken."""
        if self.broken is not None:
            return None
        if self._replay:
            return self._follow(self._replay.popleft())
        last = self._last_avail
        waiting = self._u16[self._avail + 1] - last & 0xFFFF
        if not waiting:
            return None
        if waiting > self.size:
            self.fail(f"available index is {waiting} entries ahead of a ring of {self.size}")
            return None
        if WEAKLY_ORDERED:
            full_fence()  # the entry is read after the index that announces it
        head = self._u16[self._avail + 2 + (last & self._mask)]
        if head >= self.size:
            self.fail(f"head {head} in a ring of {self.size}")
            return None
        if not self.inflight.take(head):
            self.fail(f"head {head} is in flight already")
            return None
        self._last_avail = self._page[self._last_avail_shown] = last + 1 & 0xFFFF
        return self._follow(head)

    def _follow(self, head: int) -> Chain | None:
        """Return the chain that starts at ``head`` of the descriptor table."""
        u64, index = self._u64, head
        place = self._desc + 2 * head
        address, rest = u64[place], u64[place + 1]
        if not rest & _MORE:  # most chains of a network card
            return self._single(head, address, rest & 0xFFFF_FFFF, rest >> 32)
        buffers: list[Buffer] = []
        for _ in range(self.size):
            flags = rest >> 32 & 0xFFFF
            if flags & DESC_INDIRECT:
                table = self._table(_DESCRIPTOR, address, rest & 0xFFFF_FFFF, flags)
                if table is None or not self._follow_table(table, buffers):
                    return None
                return self._chain(head, buffers)
            buffers.append((address, rest & 0xFFFF_FFFF, flags))
            if not flags & DESC_NEXT:
                return self._chain(head, buffers)
            index = rest >> 48
            if index >= self.size:
                self.fail(f"next descriptor {index} in a table of {self.size}")
                return None
            place = self._desc + 2 * index
            address, rest = u64[place], u64[place + 1]
        self.fail(f"chain at head {head} is longer than the ring")
        return None

    def _follow_table(self, table: list[tuple[int, ...]], buffers: list[Buffer]) -> bool:
        """Add the buffers of an indirect table, from its first descriptor on (§2.7.5.3.2)."""
        index, count = 0, len(table)
        for _ in table:
            address, length, flags, index = table[index]
            buffers.append((address, length, flags))
            if flags & DESC_INDIRECT:
                self.fail("indirect descriptor in an indirect table")
                return False
            if not flags & DESC_NEXT:
                return True
            if index >= count:
                self.fail(f"next descriptor {index} in an indirect table of {count}")
                return False
        self.fail("loop in an indirect table")
        return False

    # returning

    def push(self, head: int, written: int) -> None:
        """Add a used entry; ``publish`` shows it to the guest."""
        batch = self._batch
        word = self._used_word + 1 + 2 * (self._used + len(batch) & self._mask)
        self._u32[word] = head
        self._u32[word + 1] = written & 0xFFFF_FFFF
        batch.append(head)

    def publish(self) -> bool:
        """Show the batch to the guest; return whether it wants an interrupt for it (virtio 1.2 §2.7.7.2)."""
        batch = self._batch
        if not batch:
            return False
        old, self._used = self._used, self._used + len(batch) & 0xFFFF
        self.inflight.link(batch)
        if WEAKLY_ORDERED:
            full_fence()  # entries before the index
        self._u16[self._used_half + 1] = self._used
        self.inflight.settle(batch, self._used)
        self._batch = []
        full_fence()  # publish the index, then look at what the guest published (§2.7.7.2, §2.7.10)
        if not self.event_idx:
            return not self._u16[self._avail] & AVAIL_NO_INTERRUPT
        event = self._u16[self._avail + 2 + self.size]
        return (self._used - event - 1 & 0xFFFF) < (self._used - old & 0xFFFF)

    # notifications from the guest

    def quiet(self) -> None:
        """Ask the guest for no doorbells while the queue is being served; with EVENT_IDX its index does that."""
        if not self.event_idx and self.broken is None:
            self._u16[self._used_half] = USED_NO_NOTIFY

    def listen(self) -> bool:
        """Ask for a doorbell at the next request; return False when one came in meanwhile and must be served."""
        if self.broken is not None:
            return True
        if self.event_idx:
            self._u16[self._used_half + 2 + 4 * self.size] = self._last_avail  # avail_event, §2.7.10
        else:
            self._u16[self._used_half] = 0
        full_fence()  # ask first, then look: the guest does it the other way round
        return self._u16[self._avail + 1] == self._last_avail
