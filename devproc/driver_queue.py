"""The driver side of virtqueues: for tests, ``--poke`` and whoever plays the guest.

A small driver in the place of Linux's ``virtio_ring.c``: it lays the rings out in guest memory, adds chains of
buffers, and collects what the device returned. ``lend`` gives scratch memory for buffers. ``DriverQueue`` is the split
ring; the packed one is in ``devproc.packed_driver_queue``.
"""

from __future__ import annotations

from collections.abc import Sequence

from devproc.virtqueue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from protocol.memory import GuestMemory, full_fence

Buffer = tuple[int, int]
"""Guest address and length."""

TABLE = 64  # descriptors in the indirect table that each head has


class DriverRings:
    """Three areas laid out from ``gpa`` on, with scratch memory behind them; ``desc``, ``avail`` and ``used`` are
    their addresses, as the device is told them.
    """

    def __init__(
        self, memory: GuestMemory, gpa: int, size: int, areas: tuple[int, int, int], *, event_idx: bool, indirect: bool
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.desc = gpa
        self.avail = gpa + areas[0]
        self.used = self.avail + areas[1] + 3 & ~3
        self.scratch = self.used + areas[2] + 0xFFF & ~0xFFF
        self._tables = self.scratch
        self._lent = self.scratch + (size * 16 * TABLE if indirect else 0)
        memory.ram.u8[gpa - memory.base : self.scratch - memory.base] = bytes(self.scratch - gpa)

    def lend(self, length: int, align: int = 16) -> int:
        """Return the guest address of ``length`` bytes of scratch memory, for good."""
        gpa = self._lent + align - 1 & -align
        self._lent = gpa + length
        return gpa

    def store(self, gpa: int, width: int, value: int) -> None:
        """Store a word of guest memory."""
        if not self.memory.store(gpa, width, value):
            raise ValueError(f"{gpa:#x} is not in RAM")

    def load(self, gpa: int, width: int) -> int:
        """Load a word of guest memory."""
        value = self.memory.load(gpa, width)
        if value is None:
            raise ValueError(f"{gpa:#x} is not in RAM")
        return value

    def describe(self, gpa: int, address: int, length: int, flags: int, following: int) -> None:
        """Write one descriptor of a split queue."""
        self.store(gpa, 8, address)
        self.store(gpa + 8, 8, length | flags << 32 | following << 48)

    # what a kind of ring does

    def add(self, readable: Sequence[Buffer], writable: Sequence[Buffer]) -> int:
        """Make a chain available and return its head; ``kick`` tells whether the device wants to know.

        Raises:
            IndexError: no descriptor is free.
        """
        raise NotImplementedError

    def kick(self) -> bool:
        """Return whether the device wants a doorbell for what was added since the last call."""
        raise NotImplementedError

    def ask(self) -> bool:
        """Ask for an interrupt at the next used entry; return False when one is there already."""
        raise NotImplementedError

    def collect(self) -> list[tuple[int, int]]:
        """Return (head, bytes written) of everything the device has returned since the last call."""
        raise NotImplementedError

    @property
    def outstanding(self) -> int:
        """Chains the device has not returned."""
        raise NotImplementedError


class DriverQueue(DriverRings):
    """A split queue of ``size`` descriptors (virtio 1.2 §2.7)."""

    def __init__(
        self, memory: GuestMemory, gpa: int, size: int, *, event_idx: bool = False, indirect: bool = False
    ) -> None:
        areas = 16 * size, 6 + 2 * size, 6 + 8 * size
        super().__init__(memory, gpa, size, areas, event_idx=event_idx, indirect=indirect)
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}
        self._avail_idx = 0
        self._kicked = 0
        self._used_idx = 0

    def add(self, readable: Sequence[Buffer], writable: Sequence[Buffer]) -> int:
        """Make a chain available; its head is the number of its first descriptor."""
        buffers = [(b, 0) for b in readable] + [(b, DESC_WRITE) for b in writable]
        needed = 1 if self.indirect else len(buffers)
        if needed > len(self._free):
            raise IndexError("no free descriptors")
        slots = [self._free.pop() for _ in range(needed)]
        head = slots[0]
        if self.indirect:
            table = self._tables + head * 16 * TABLE
            self._chain(table, list(range(len(buffers))), buffers)
            self.describe(self.desc + 16 * head, table, 16 * len(buffers), DESC_INDIRECT, 0)
        else:
            self._chain(self.desc, slots, buffers)
        self._chains[head] = slots
        self.offer(head)
        return head

    def _chain(self, table: int, slots: list[int], buffers: list[tuple[Buffer, int]]) -> None:
        for place, ((address, length), flags) in enumerate(buffers):
            last = place == len(buffers) - 1
            following = 0 if last else slots[place + 1]
            self.describe(table + 16 * slots[place], address, length, flags | (0 if last else DESC_NEXT), following)

    def offer(self, head: int) -> None:
        """Put ``head`` into the available ring, whatever it is."""
        self.store(self.avail + 4 + 2 * (self._avail_idx % self.size), 2, head)
        self._avail_idx = self._avail_idx + 1 & 0xFFFF
        self.store(self.avail + 2, 2, self._avail_idx)

    def kick(self) -> bool:
        """Return whether the device wants a doorbell for what was added since the last call (§2.7.13.4)."""
        full_fence()  # the index is out; now look at what the device asked for
        old, self._kicked = self._kicked, self._avail_idx
        if self.event_idx:
            event = self.load(self.used + 4 + 8 * self.size, 2)
            return (self._avail_idx - event - 1 & 0xFFFF) < (self._avail_idx - old & 0xFFFF)
        return not self.load(self.used, 2) & 1

    def ask(self) -> bool:
        """Ask for an interrupt at the next used entry; return False when one is there already."""
        if self.event_idx:
            self.store(self.avail + 4 + 2 * self.size, 2, self._used_idx)
        full_fence()
        return self.load(self.used + 2, 2) == self._used_idx

    def collect(self) -> list[tuple[int, int]]:
        """Return (head, bytes written) of everything the device has returned since the last call."""
        found = []
        index = self.load(self.used + 2, 2)
        while self._used_idx != index:
            entry = self.used + 4 + 8 * (self._used_idx % self.size)
            head = self.load(entry, 4)
            found.append((head, self.load(entry + 4, 4)))
            self._free.extend(self._chains.pop(head, []))
            self._used_idx = self._used_idx + 1 & 0xFFFF
        return found

    @property
    def outstanding(self) -> int:
        """Chains the device has not returned."""
        return len(self._chains)
