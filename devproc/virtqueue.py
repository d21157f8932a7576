"""What the device side of both kinds of virtqueue has in common: chains, indirect tables, and what is checked.

The guest owns the rings and may write anything at any time: every index, length and address is copied, then
checked, then used. What breaks the rules makes the queue ``broken`` with a reason; nothing here raises for it. Ring
addresses are checked once, when the queue is enabled.

A device takes chains with ``pop``, returns them with ``push`` by their ``head``, and shows what it returned with
``publish``; ``devproc.split_queue`` and ``devproc.packed_queue`` say how that looks in memory. Owned by the thread of
the device loop. The inner loops index the views of guest memory directly: a call costs more than what it does.
"""

from __future__ import annotations

import platform
import struct
from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from devproc.in_order import InOrder
from devproc.state import Record, Word
from protocol.memory import GuestMemory

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4  # virtio 1.2 §2.7.5, §2.8.1
CHAIN_MAX = 1024  # descriptors in one chain, as in QEMU (VIRTQUEUE_MAX_SIZE)
QUEUE_MAX = 1024
NO_VECTOR = 0xFFFF

Buffer = tuple[int, int, int]
"""Guest address, length, flags."""


WEAKLY_ORDERED = platform.machine() not in ("x86_64", "AMD64")
"""Whether the host needs fences between loads and between stores; x86-64 lets only loads overtake stores."""


class QueueRecord(Record):
    """What survives of a queue in the page; the registers behind ``queue_select`` show it."""

    size = Word(2, "descriptors")
    vector = Word(2, "MSI-X vector, 0xffff for none")
    enabled = Word(2, "1 after queue_enable")
    broken = Word(2, "1 when the guest broke the ring; until reset")
    desc = Word(8, "descriptor table, or packed ring")
    driver = Word(8, "available ring, or what the driver wants to be told")
    device = Word(8, "used ring, or what the device wants to be told")
    last_avail = Word(2, "next request to take; for people, it follows from the in-flight table")


class Chain:
    """One request: places in guest memory as (offset in RAM, length), checked, the readable before the writable.

    ``head`` is what ``push`` wants back; what it counts is the ring's affair.
    """

    __slots__ = ("head", "readable", "readable_size", "writable", "writable_size")

    def __init__(
        self,
        head: int,
        readable: list[tuple[int, int]],
        writable: list[tuple[int, int]],
        readable_size: int,
        writable_size: int,
    ) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable
        self.readable_size = readable_size
        """Bytes the device may read."""
        self.writable_size = writable_size
        """Bytes the device may write."""


class Virtqueue:
    """One enabled queue; a kind of ring fills in the rest."""

    alignment: ClassVar[tuple[int, int, int]]
    """Of descriptor, driver and device area, in bytes."""

    @staticmethod
    def areas(size: int) -> tuple[int, int, int]:
        """Return the bytes of descriptor, driver and device area of a queue of ``size``."""
        raise NotImplementedError

    @staticmethod
    def fits(size: int) -> bool:
        """Return whether a queue of this kind may have ``size`` descriptors."""
        raise NotImplementedError

    def __init__(self, index: int, memory: GuestMemory, record: QueueRecord) -> None:
        self.index = index
        self.record = record
        self.event_idx = False
        self.indirect = False
        self.order: InOrder | None = None
        """With IN_ORDER: what waits for requests that were taken earlier."""
        self.broken: str | None = "broken before the restart" if record.broken else None
        self.size = record.size
        self._memory = memory
        self._base = memory.base
        self._ram_size = memory.size
        self._holes = bool(memory.holes)
        ram = memory.ram
        self._u8, self._u16, self._u32, self._u64 = ram.u8, ram.u16, ram.u32, ram.u64
        self._replay: deque[int] = deque()
        self._last_avail_shown = (record.offset + QueueRecord.last_avail.offset) >> 1
        self._page = record.shared.u16

    def _places(self) -> tuple[int, int, int]:
        """Return where the three areas are in RAM; if they are nowhere good, the queue is broken."""
        record = self.record
        addresses = (record.desc, record.driver, record.device)
        found = []
        for address, length, alignment in zip(addresses, self.areas(self.size), self.alignment, strict=True):
            offset = self._memory.offset(address, length)
            if offset is None or offset % alignment:
                self.fail("ring addresses outside RAM or misaligned")
                return 0, 0, 0
            found.append(offset)
        return found[0], found[1], found[2]

    def fail(self, reason: str) -> None:
        """Stop serving the queue until the guest resets the device."""
        if self.broken is None:
            self.broken = reason
            self.record.broken = 1

    # what a kind of ring does

    def start(self, position: int | None = None) -> None:
        """Begin at the start of empty rings; or at ``position`` of rings in which nothing is under way."""
        raise NotImplementedError

    def recover(self) -> int:
        """Go on where a predecessor was killed; return how many requests are to be done again."""
        raise NotImplementedError

    @property
    def left_behind(self) -> bool:
        """Whether the in-flight table has what a predecessor left, so that ``recover`` is due and not ``start``."""
        raise NotImplementedError

    @property
    def position(self) -> int:
        """Where the next one goes on, when nothing is under way: the base of a vhost-user ring."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet returned."""
        raise NotImplementedError

    def indices(self) -> dict[str, int]:
        """Return where both sides stand, for people."""
        raise NotImplementedError

    def pop(self) -> Chain | None:
        """Take the next request, or ``None``: none is there, or the queue is broken."""
        raise NotImplementedError

    def push(self, head: int, written: int) -> None:
        """Return a chain of which ``written`` bytes were written; ``publish`` shows it to the guest."""
        raise NotImplementedError

    def publish(self) -> bool:
        """Show what was returned to the guest; return whether it wants an interrupt for it."""
        raise NotImplementedError

    def quiet(self) -> None:
        """Ask the guest for no doorbells while the queue is being served."""
        raise NotImplementedError

    def listen(self) -> bool:
        """Ask for a doorbell at the next request; return False when one came in meanwhile and must be served."""
        raise NotImplementedError

    # what a chain is made of

    def _table(self, layout: struct.Struct, address: int, length: int, flags: int) -> list[tuple[int, ...]] | None:
        """Return an indirect table (virtio 1.2 §2.7.5.3, §2.8.7), of which each word is read once."""
        if not self.indirect or flags & DESC_NEXT:
            self.fail("indirect descriptor not negotiated, or with NEXT")
            return None
        offset = address - self._base
        if offset < 0 or offset + length > self._ram_size or (self._holes and not self._memory.backed(offset, length)):
            self.fail(f"indirect table of {length} bytes at {address:#x}")
            return None
        if not length or length & 15 or length > 16 * CHAIN_MAX:
            self.fail(f"indirect table of {length} bytes")
            return None
        return list(layout.iter_unpack(self._u8[offset : offset + length]))

    def _single(self, head: int, address: int, length: int, flags: int) -> Chain | None:
        """Return a chain of one buffer, if it is in RAM: what ``_chain`` does, in half the time."""
        offset = address - self._base
        if offset < 0 or offset + length > self._ram_size or (self._holes and not self._memory.backed(offset, length)):
            self.fail(f"buffer of {length} bytes at {address:#x} is not in RAM")
            return None
        if flags & DESC_WRITE:
            return Chain(head, [], [(offset, length)], 0, length)
        return Chain(head, [(offset, length)], [], length, 0)

    def _chain(self, head: int, buffers: Iterable[tuple[int, ...]]) -> Chain | None:
        """Return a chain of these buffers, if all of them are in RAM and in order."""
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        readable_size = writable_size = 0
        base, size, holes = self._base, self._ram_size, self._holes
        for address, length, flags in buffers:
            offset = address - base
            if offset < 0 or offset + length > size or (holes and not self._memory.backed(offset, length)):
                self.fail(f"buffer of {length} bytes at {address:#x} is not in RAM")
                return None
            if flags & DESC_WRITE:
                writable.append((offset, length))
                writable_size += length
            elif writable:
                self.fail("readable descriptor after a writable one")  # virtio 1.2 §2.7.4.2, §2.8.4
                return None
            else:
                readable.append((offset, length))
                readable_size += length
        return Chain(head, readable, writable, readable_size, writable_size)
