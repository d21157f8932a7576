"""The device side of a split virtqueue (virtio 1.2 §2.7), with indirect descriptors and EVENT_IDX.

The guest owns the rings and may write anything at any time: every index, length and address is copied, then
checked, then used. What breaks the rules makes the queue ``broken`` with a reason; nothing here raises for it. Ring
addresses are checked once, when the queue is enabled.

Owned by the thread of the device loop. One store publishes a batch of used entries; the order of stores follows
``devproc.inflight``. Measured on CPython 3.11: a chain of three descriptors is taken and returned in about 6 µs,
which is why the inner loops index the views of guest memory directly.
"""

from __future__ import annotations

import platform
import struct
from collections import deque
from collections.abc import Callable

from devproc.inflight import InflightTable
from devproc.state import Record, Word
from protocol.memory import GuestMemory, full_fence

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4  # virtio 1.2 §2.7.5
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1
CHAIN_MAX = 1024  # descriptors in one chain, as in QEMU (VIRTQUEUE_MAX_SIZE)
QUEUE_MAX = 1024
NO_VECTOR = 0xFFFF

_DESCRIPTOR = struct.Struct("<QIHH")


def _nothing() -> None:
    """Stand for a load-load or store-store barrier where the host keeps such accesses in order anyway."""


# x86-64 orders all but store → load by itself; elsewhere the full fence of protocol.memory serves
ordered: Callable[[], None] = _nothing if platform.machine() in ("x86_64", "AMD64") else full_fence


class QueueRecord(Record):
    """What survives of a queue in the page; the registers behind ``queue_select`` show it."""

    size = Word(2, "descriptors")
    vector = Word(2, "MSI-X vector, 0xffff for none")
    enabled = Word(2, "1 after queue_enable")
    broken = Word(2, "1 when the guest broke the ring; until reset")
    desc = Word(8, "descriptor table")
    driver = Word(8, "available ring")
    device = Word(8, "used ring")
    last_avail = Word(2, "next entry of the available ring; for people, it follows from the in-flight table")


class Chain:
    """One request: places in guest memory as (offset in RAM, length), checked, the readable before the writable."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[tuple[int, int]] = []
        self.writable: list[tuple[int, int]] = []

    @property
    def readable_size(self) -> int:
        """Bytes the device may read."""
        return sum(length for _, length in self.readable)

    @property
    def writable_size(self) -> int:
        """Bytes the device may write."""
        return sum(length for _, length in self.writable)


class Virtqueue:
    """One enabled queue."""

    def __init__(self, index: int, memory: GuestMemory, record: QueueRecord, inflight: InflightTable) -> None:
        self.index = index
        self.record = record
        self.inflight = inflight
        self.event_idx = False
        self.indirect = False
        self.broken: str | None = None
        self._memory = memory
        self._base = memory.base
        self._ram_size = memory.size
        self._holes = bool(memory.holes)
        ram = memory.ram
        self._u8, self._u16, self._u32, self._u64 = ram.u8, ram.u16, ram.u32, ram.u64
        self._replay: deque[int] = deque()
        self._batch: list[int] = []
        self._last_avail = 0
        self._used = 0
        self._signalled: int | None = None
        self.size = record.size
        self._mask = self.size - 1
        desc = memory.offset(record.desc, 16 * self.size)
        avail = memory.offset(record.driver, 6 + 2 * self.size)
        used = memory.offset(record.device, 6 + 8 * self.size)
        if desc is None or avail is None or used is None or desc & 15 or avail & 1 or used & 3:
            self.fail("ring addresses outside RAM or misaligned")  # virtio 1.2 §2.7: alignment 16, 2, 4
            desc = avail = used = 0
        self._desc = desc >> 3
        self._avail = avail >> 1
        self._used_half = used >> 1
        self._used_word = used >> 2
        if record.broken:
            self.broken = "broken before the restart"

    def fail(self, reason: str) -> None:
        """Stop serving the queue until the guest resets the device."""
        if self.broken is None:
            self.broken = reason
            self.record.broken = 1

    def start(self, last_avail: int | None = None) -> None:
        """Begin at the start of empty rings; or at ``last_avail`` of rings in which nothing is under way."""
        used = 0
        if last_avail is not None and self.broken is None:
            used = self._u16[self._used_half + 1]
        self.inflight.start(self.size, used)
        self._used = used
        self._last_avail = self.record.last_avail = last_avail or 0

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
            return self._chain(self._replay.popleft())
        last = self._last_avail
        waiting = self._u16[self._avail + 1] - last & 0xFFFF
        if not waiting:
            return None
        if waiting > self.size:
            self.fail(f"available index is {waiting} entries ahead of a ring of {self.size}")
            return None
        ordered()  # the entry is read after the index that announces it
        head = self._u16[self._avail + 2 + (last & self._mask)]
        if head >= self.size:
            self.fail(f"head {head} in a ring of {self.size}")
            return None
        if self.inflight.is_taken(head):
            self.fail(f"head {head} is in flight already")
            return None
        self.inflight.take(head)
        self._last_avail = last + 1 & 0xFFFF
        self.record.last_avail = self._last_avail
        return self._chain(head)

    def _chain(self, head: int) -> Chain | None:
        """Return the chain that starts at ``head`` of the descriptor table."""
        chain = Chain(head)
        u64, base, index = self._u64, self._desc, head
        for _ in range(self.size):
            address = u64[base + 2 * index]
            rest = u64[base + 2 * index + 1]
            length, flags = rest & 0xFFFF_FFFF, rest >> 32 & 0xFFFF
            if flags & DESC_INDIRECT:
                return self._indirect(chain, address, length, flags)
            if not self._add(chain, address, length, flags):
                return None
            if not flags & DESC_NEXT:
                return chain
            index = rest >> 48
            if index >= self.size:
                self.fail(f"next descriptor {index} in a table of {self.size}")
                return None
        self.fail(f"chain at head {head} is longer than the ring")
        return None

    def _indirect(self, chain: Chain, address: int, length: int, flags: int) -> Chain | None:
        """Add the descriptors of an indirect table (virtio 1.2 §2.7.5.3), which is copied whole before it is read."""
        if not self.indirect or flags & DESC_NEXT:
            self.fail("indirect descriptor not negotiated, or with NEXT")
            return None
        count = length >> 4
        offset = self._memory.offset(address, length)
        if offset is None or not count or length & 15 or count > CHAIN_MAX:
            self.fail(f"indirect table of {length} bytes at {address:#x}")
            return None
        table = list(_DESCRIPTOR.iter_unpack(bytes(self._u8[offset : offset + length])))
        index = 0
        for _ in range(count):
            address, length, flags, index_next = table[index]
            if flags & DESC_INDIRECT:
                self.fail("indirect descriptor in an indirect table")
                return None
            if not self._add(chain, address, length, flags):
                return None
            if not flags & DESC_NEXT:
                return chain
            index = index_next
            if index >= count:
                self.fail(f"next descriptor {index} in an indirect table of {count}")
                return None
        self.fail("loop in an indirect table")
        return None

    def _add(self, chain: Chain, address: int, length: int, flags: int) -> bool:
        offset = address - self._base
        if offset < 0 or offset + length > self._ram_size or (self._holes and not self._memory.backed(offset, length)):
            self.fail(f"buffer of {length} bytes at {address:#x} is not in RAM")
            return False
        if flags & DESC_WRITE:
            chain.writable.append((offset, length))
        elif chain.writable:
            self.fail("readable descriptor after a writable one")  # virtio 1.2 §2.7.4.2
            return False
        else:
            chain.readable.append((offset, length))
        return True

    # returning

    def push(self, head: int, written: int) -> None:
        """Add a used entry; ``publish`` shows it to the guest."""
        word = self._used_word + 1 + 2 * (self._used + len(self._batch) & self._mask)
        self._u32[word] = head
        self._u32[word + 1] = written & 0xFFFF_FFFF
        self.inflight.link(head)
        self._batch.append(head)

    def publish(self) -> bool:
        """Show the batch to the guest; return whether it wants an interrupt for it (virtio 1.2 §2.7.7.2)."""
        batch = self._batch
        if not batch:
            return False
        old, self._used = self._used, self._used + len(batch) & 0xFFFF
        ordered()  # entries before the index
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
