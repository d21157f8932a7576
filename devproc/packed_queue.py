"""The device side of a packed virtqueue (virtio 1.2 §2.8), with indirect descriptors and EVENT_IDX.

There is one ring, which both sides write: the driver makes descriptors available, the device writes used ones over
them. Two bits of a descriptor say which of it is the case, relative to a wrap counter that each side flips when it
passes the end (§2.8.1). A used descriptor is one store; the first one of a batch is stored last and shows the batch
(§2.8.6.1: the driver looks at them in order). A chain's ``head`` is its place in ``devproc.packed_inflight``, where
the driver's buffer id is kept.
"""

from __future__ import annotations

import struct
from collections import deque

from devproc.packed_inflight import WRAP, PackedInflight
from devproc.virtqueue import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    QUEUE_MAX,
    WEAKLY_ORDERED,
    Chain,
    QueueRecord,
    Virtqueue,
)
from protocol.memory import GuestMemory, full_fence

DESC_AVAIL, DESC_USED = 1 << 7, 1 << 15  # §2.8.1
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2  # §2.8.10: flags of an event suppression structure

_DESCRIPTOR = struct.Struct("<QI2xH")  # address, length, flags; ids are of no meaning in a table
_FLAGS = 48  # where flags are in the second word of a descriptor: length, buffer id, flags
_STATE = (DESC_AVAIL | DESC_USED) << _FLAGS
_INDIRECT = DESC_INDIRECT << _FLAGS
_AVAILABLE = (DESC_USED << _FLAGS, DESC_AVAIL << _FLAGS)  # by wrap counter; the other one is that of the lap before
_USED = (0, _STATE)


class PackedQueue(Virtqueue):
    """One enabled queue with one ring. Positions are an index with the wrap counter in bit 15, as in §2.8.10."""

    Table = PackedInflight
    alignment = (16, 4, 4)

    @staticmethod
    def areas(size: int) -> tuple[int, int, int]:
        """Return the bytes of descriptor ring, driver's and device's event suppression structure."""
        return 16 * size, 4, 4

    @staticmethod
    def fits(size: int) -> bool:
        """Return whether we can do ``size``, which need not be a power of two (§2.8.10.1)."""
        return 1 <= size <= QUEUE_MAX

    def __init__(self, index: int, memory: GuestMemory, record: QueueRecord, inflight: PackedInflight) -> None:
        super().__init__(index, memory, record)
        self.inflight = inflight
        self._batch: list[tuple[int, int]] = []
        self._avail = 0
        self._wrap = 1
        desc, driver, device = self._places()
        self._desc = desc >> 3
        self._driver_event = driver >> 2
        self._device_event = device >> 2

    def start(self, position: int | None = None) -> None:
        """Begin at the start of an empty ring; or at ``position`` of one in which nothing is under way.

        It is where to take from; where to return to, 16 bits above it, must be the same place, and not every front-end
        says it.
        """
        begin = 1 << WRAP if position is None else position & 0xFFFF
        index, wrap = begin & (1 << WRAP) - 1, begin >> WRAP
        if index >= self.size:
            self.fail(f"position {index} in a ring of {self.size}")
            index, wrap = 0, 1
        self.inflight.start(self.size, index | wrap << WRAP)
        self._go_to(index, wrap)

    def _go_to(self, index: int, wrap: int) -> None:
        self._avail, self._wrap = index, wrap
        self._page[self._last_avail_shown] = index | wrap << WRAP

    def recover(self) -> int:
        """Go on where a predecessor was killed; return how many requests are to be done again."""
        if self.broken is not None:
            return 0
        inflight = self.inflight
        if not inflight.recover(self.size, self._is_shown):
            self.fail("the in-flight table does not fit the ring")
            return 0
        index, wrap = inflight.used & (1 << WRAP) - 1, inflight.used >> WRAP
        for _ in range(inflight.descriptors):
            # used descriptors of a batch that was not shown would be seen behind the next one that is
            place = self._desc + 2 * index + 1
            if self._u64[place] & _STATE == _USED[wrap]:
                self._u64[place] = self._u64[place] & ~_STATE | _AVAILABLE[wrap]
            index += 1
            if index == self.size:
                index, wrap = 0, wrap ^ 1
        self._go_to(index, wrap)
        self._replay = deque(inflight.heads())
        return len(self._replay)

    def _is_shown(self, position: int) -> bool:
        rest = self._u64[self._desc + 2 * (position & (1 << WRAP) - 1) + 1]
        return rest & _STATE != _AVAILABLE[position >> WRAP]

    @property
    def left_behind(self) -> bool:
        """Whether the table is of a ring that ran: no base that a front-end may have kept is newer."""
        return self.inflight.begun(self.size)

    @property
    def position(self) -> int:
        """The base of a vhost-user ring: where to take from, and above it where to return to."""
        return self._avail | self._wrap << WRAP | self.inflight.used << 16

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet returned."""
        return self.inflight.taken

    def indices(self) -> dict[str, int]:
        """Return where the device stands, for people; the driver's position is in no memory that both see."""
        return {"avail": self._avail, "used": self.inflight.used & (1 << WRAP) - 1, "inflight": self.in_flight}

    # taking

    def pop(self) -> Chain | None:
        """Take the next request, or ``None``: none is there, or the queue is broken."""
        if self.broken is not None:
            return None
        if self._replay:
            again = self._replay.popleft()
            return self._parse(again, self.inflight.descriptors_of(again))
        u64, index, size = self._u64, self._avail, self.size
        place = self._desc + 2 * index
        rest = u64[place + 1]
        if rest & _STATE != _AVAILABLE[self._wrap]:
            return None
        if WEAKLY_ORDERED:
            full_fence()  # the rest is read after the flags that announce it
        descriptors = [(u64[place], rest)]
        while rest >> _FLAGS & DESC_NEXT:
            if len(descriptors) == size:
                self.fail(f"chain at {index} is longer than the ring")
                return None
            index = index + 1 if index + 1 < size else 0
            place = self._desc + 2 * index
            rest = u64[place + 1]
            descriptors.append((u64[place], rest))
        head = self.inflight.take(descriptors)
        if head is None:
            self.fail(f"more descriptors in flight than a ring of {size} has")
            return None
        index = self._avail + len(descriptors)
        wrap = self._wrap
        if index >= size:
            index, wrap = index - size, wrap ^ 1
        self._go_to(index, wrap)
        if len(descriptors) == 1 and not rest & _INDIRECT:  # most chains of a network card
            return self._single(head, descriptors[0][0], rest & 0xFFFF_FFFF, rest >> _FLAGS)
        return self._parse(head, descriptors)

    def _parse(self, head: int, descriptors: list[tuple[int, int]]) -> Chain | None:
        """Return the chain of these descriptors; in a table all are part of it, in order (§2.8.7)."""
        buffers: list[tuple[int, ...]] = []
        for address, rest in descriptors:
            flags = rest >> _FLAGS
            if flags & DESC_INDIRECT:
                table = self._table(_DESCRIPTOR, address, rest & 0xFFFF_FFFF, flags)
                if table is None:
                    return None
                buffers += table
            else:
                buffers.append((address, rest & 0xFFFF_FFFF, flags))
        return self._chain(head, buffers)

    # returning

    def push(self, head: int, written: int) -> None:
        """Return a chain of which ``written`` bytes were written; ``publish`` shows it to the guest."""
        self._batch.append((head, written))

    def publish(self) -> bool:
        """Show the batch to the guest; return whether it wants an interrupt for it (§2.8.10)."""
        if not self._batch:
            return False
        batch, self._batch = self._batch, []
        inflight, size, u64 = self.inflight, self.size, self._u64
        desc, release = self._desc, self.inflight.release
        index, wrap = inflight.used & (1 << WRAP) - 1, inflight.used >> WRAP
        first, shown = desc + 2 * index + 1, 0
        total = 0
        for head, written in batch:
            count, identity = release(head)
            used = written & 0xFFFF_FFFF | identity << 32 | _USED[wrap]
            if written:
                used |= DESC_WRITE << _FLAGS
            if total:
                u64[desc + 2 * index + 1] = used
            else:
                shown = used
            total += count
            index += count
            if index >= size:
                index -= size
                wrap ^= 1
        inflight.link(index | wrap << WRAP)
        if WEAKLY_ORDERED:
            full_fence()  # the others before the first
        u64[first] = shown
        inflight.settle(head for head, _ in batch)
        full_fence()  # publish, then look at what the driver wants to be told
        event = self._u32[self._driver_event]
        wanted = event >> 16 & 3
        if wanted == EVENT_DESC and self.event_idx:
            place = (event & (1 << WRAP) - 1) - (size if event >> WRAP & 1 != wrap else 0)
            return index - total <= place < index
        return wanted != EVENT_DISABLE

    # notifications from the guest

    def quiet(self) -> None:
        """Ask the guest for no doorbells while the queue is being served."""
        if self.broken is None:
            self._u32[self._device_event] = EVENT_DISABLE << 16

    def listen(self) -> bool:
        """Ask for a doorbell at the next request; return False when one came in meanwhile and must be served."""
        if self.broken is not None:
            return True
        if self.event_idx:
            self._u32[self._device_event] = self._avail | self._wrap << WRAP | EVENT_DESC << 16
        else:
            self._u32[self._device_event] = EVENT_ENABLE << 16
        full_fence()  # ask first, then look: the guest does it the other way round
        return self._u64[self._desc + 2 * self._avail + 1] & _STATE != _AVAILABLE[self._wrap]
