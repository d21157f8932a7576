"""Which rings the back-end has: they are told to it, and taken back, and told again if it or this process has died.

What has to be known for that is in the page: the queue records, a word per ring while it is given, and the in-flight
tables (QEMU's vhost-user.rst, "Inflight I/O tracking"), which the back-end gets as a part of the page.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress

from devproc.state import Record, Word
from devproc.vhost_user.connection import ConnectedDevice
from devproc.vhost_user.peer import BackEnd, Peer
from devproc.vhost_user.position import identity, idle, used_index
from devproc.virtio_spec import ISR_QUEUE, Status
from devproc.virtqueue import NO_VECTOR, QueueRecord
from protocol.errors import HostError, Malformed, ProtocolError
from protocol.layout import DevicePage
from protocol.memory import GuestMemory, Shared
from protocol.vhost_user.messages import ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, Inflight, Region

_PAGE = 0x1000
_FINISH_S, _LOOK_S = 30.0, 0.0005


class Given(Record):
    """Whether a back-end has a ring."""

    given = Word(8, "1 while it does, dead or alive")


class Known(Record):
    """What is not about one ring."""

    tables = Word(8, "1 once the in-flight tables have begun")
    back_end = Word(8, "which back-end has the rings")


class RingLender(ConnectedDevice):
    """A virtio device whose rings another process serves."""

    def __init__(self, peer: Peer, met: BackEnd, *, queue_count: int, queue_size: int) -> None:
        self._tables_size = _ask_tables_size(met, queue_count, queue_size)
        self._told = self._shares_memory = self._certain = False
        self._held: set[int] = set()
        """Rings that this back-end has; ``given`` is of any, dead ones included."""
        super().__init__(peer, met, queue_count=queue_count, queue_size=queue_size)
        self._call_events = [_event() for _ in range(queue_count)]
        self._err = _event()
        for index, fd in enumerate(self._call_events):
            self.watch(fd, self._called(index))
        self.watch(self._err, self._ring_error)

    @property
    def returns_in_order(self) -> bool:
        """Whether requests come back in the order they were made available, so that rings alone tell what is left."""
        return False

    # layout: behind the queue records one word each, and on pages of their own the in-flight tables

    def _given_offset(self) -> int:
        return self._queue_offset(self.queue_count)

    def _tables_offset(self) -> int:
        return -(-(self._given_offset() + Known.SIZE + Given.SIZE * self.queue_count) // _PAGE) * _PAGE

    def state_size(self) -> int:
        """Return the bytes for queue records, what is given, and in-flight tables."""
        return self._tables_offset() + self._tables_size - DevicePage.STATE

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Add what is given."""
        super().declare(places)
        first = self._given_offset()
        self._known = Known(self.shared, first)
        first += Known.SIZE
        self._given = [Given(self.shared, first + Given.SIZE * index) for index in range(self.queue_count)]

    # giving

    def give_all(self) -> None:
        """Give the back-end all rings that the driver has set up, if it is time for that."""
        met = self.met
        if met is None or not self._running or self.quiesced or not self.machine.doorbells:
            return  # without doorbells it is no machine but a prompt, which has registers alone
        with self.conversation():
            if not self._told:
                name = identity(met.front.connection.socket)
                known, self._known.back_end = self._known.back_end, name
                self._certain = self.returns_in_order or bool(self._known.tables) or (name != 0 and name == known)
                self._tell(met)
            for index, record in enumerate(self.records):
                if record.enabled and not record.broken and index not in self._held:
                    self._give(met, index, record)
            if met.has(ProtocolFeature.STATUS):
                met.front.tell(Request.SET_STATUS, U64(self.device_status))

    def _tell(self, met: BackEnd) -> None:
        """Tell the back-end what is not about one ring."""
        front = met.front
        front.accept(self.negotiated & met.features)
        if met.has(ProtocolFeature.STATUS):
            front.tell(Request.SET_STATUS, U64(self.device_status & ~Status.DRIVER_OK))
        if not self._shares_memory:
            memory, ram = self.machine.memory, self.machine.memory.ram
            region = Region(memory.base, memory.size, memory.base, 0)  # "our" addresses are the guest's
            fd = ram.fd if isinstance(ram, Shared) else -1
            if met.has(ProtocolFeature.CONFIGURE_MEM_SLOTS):
                front.add_region(region, fd)
            else:
                front.share([(region, fd)])
            self._shares_memory = True
        if met.has(ProtocolFeature.INFLIGHT_SHMFD) and self._tables_size:
            self._give_tables(met)
        self._told = True

    def _give_tables(self, met: BackEnd) -> None:
        """Give the back-end its in-flight tables, which are in the page; they begin as it has made them."""
        start, size = self._tables_offset(), self._tables_size
        if not self._known.tables:
            fresh, fd = met.front.inflight(self.queue_count, self.queue_max)
            try:
                if fresh.mmap_size != size:
                    raise Malformed(f"in-flight tables of {fresh.mmap_size} bytes, they had {size}")
                self.shared.u8[start : start + size] = _content(fd, fresh.mmap_offset, size)
            finally:
                os.close(fd)
            self._known.tables = 1
        tables = Inflight(size, start, self.queue_count, self.queue_max)
        met.front.tell(Request.SET_INFLIGHT_FD, tables, [self.shared.fd])

    def _give(self, met: BackEnd, index: int, record: QueueRecord) -> None:
        """Give the back-end one ring, from where it was stopped or from where the one before it must have been."""
        memory = self.machine.memory
        if not _in_place(memory, record):
            record.broken = 1
            self.needs_reset(f"queue {index}: rings outside RAM or misaligned")
            return
        given = self._given[index]
        again = bool(given.given)
        if again:
            if not self._certain and not idle(memory, record):
                record.broken = 1
                raise Malformed(f"queue {index}: it ended with requests under way, and cannot tell which")
            record.last_avail = used_index(memory, record)
        given.given = 1
        self._held.add(index)
        rings = record.desc, record.driver, record.device
        kick = self.machine.doorbells[index]
        met.front.start_ring(index, record.size, rings, kick, self._call(index), record.last_avail, self._err)
        os.eventfd_write(kick, 1)  # there may be requests of before
        if again:
            self._used(index)  # it may have died before it said so

    def _call(self, index: int) -> int:
        """Return the event with which the back-end interrupts: the machine's own, if messages are in force."""
        direct = bool(self.calls) and getattr(self, "msix_enabled", False)
        return self.machine.calls[index] if direct else self._call_events[index]

    def _called(self, index: int) -> Callable[[], None]:
        """Return what is done when the back-end calls this process."""

        def called() -> None:
            with suppress(BlockingIOError):
                os.eventfd_read(self._call_events[index])
            if self._running:
                self.counters["calls"] += 1
                self._used(index)

        return called

    def _used(self, index: int) -> None:
        """Interrupt the guest about used buffers, as the transport does it."""
        vector = self.records[index].vector
        if not getattr(self, "msix_enabled", False):
            self.raise_isr(ISR_QUEUE)
        elif vector != NO_VECTOR:
            self.machine.message(vector)

    def _ring_error(self) -> None:
        """Tell the driver, if the back-end has said so."""
        try:
            os.eventfd_read(self._err)
        except BlockingIOError:
            return
        if self._running:
            self.needs_reset("the back-end says that a ring is broken")

    def take_back(self, index: int) -> None:
        """Have the back-end finish what is under way in a ring, and let go of it."""
        met = self.met
        if met is None or index not in self._held:
            return
        with self.conversation():
            self.records[index].last_avail = met.front.stop_ring(index) & 0xFFFF
            self._await_used(index)
            self._held.discard(index)
            self._given[index].given = 0

    def _await_used(self, index: int) -> None:
        """Wait for what the back-end has taken: qemu-storage-daemon 7.2 says where a ring stops before it does.

        Of a ring that is broken it may have taken what it will never finish.
        """
        memory, record = self.machine.memory, self.records[index]
        deadline = time.monotonic() + _FINISH_S
        while used_index(memory, record) != record.last_avail:
            self._ring_error()
            if self.device_status & Status.NEEDS_RESET:
                return
            if time.monotonic() > deadline:
                raise Malformed(f"queue {index}: it was stopped, and does not finish its requests")
            time.sleep(_LOOK_S)

    def let_go(self, index: int) -> None:
        """Begin a ring that the driver has given up anew, whoever has it."""
        self._held.discard(index)
        self._given[index].given = 0

    def back_end_dropped(self) -> None:
        """Forget what it has been told; the rings stay noted as given, but for those in which nothing is under way.

        That is seen now: the guest goes on.
        """
        for index in self._held:
            record = self.records[index]
            if idle(self.machine.memory, record):
                record.last_avail = used_index(self.machine.memory, record)
                self._given[index].given = 0
        self._told = self._shares_memory = False
        self._held.clear()

    def take_all_back(self) -> None:
        """Have the back-end let go of all rings."""
        for index in range(len(self.records)):
            self.take_back(index)

    def reset_back_end(self) -> None:
        """Have the back-end forget rings and tables."""
        self._known.tables = 0
        for index in range(self.queue_count):
            self.let_go(index)
        met = self.met
        if met is not None and self._told:
            self._told = False
            with self.conversation():
                if met.has(ProtocolFeature.STATUS):
                    met.front.tell(Request.SET_STATUS, U64(0))
                elif met.has(ProtocolFeature.RESET_DEVICE):
                    met.front.tell(Request.RESET_DEVICE)

    def queue_tables(self) -> list[dict[str, int]]:
        """Add whether the back-end has the queue."""
        tables = super().queue_tables()
        for table, given in zip(tables, self._given, strict=True):
            table["given"] = given.given
        return tables

    def close(self) -> None:
        """Give up the events too."""
        super().close()
        for fd in (*self._call_events, self._err):
            os.close(fd)


def _ask_tables_size(met: BackEnd, queues: int, size: int) -> int:
    """Return the bytes of the in-flight tables; 0 without them."""
    if not met.has(ProtocolFeature.INFLIGHT_SHMFD):
        return 0
    try:
        tables, fd = met.front.inflight(queues, size)
    except ProtocolError as error:
        raise HostError(f"the back-end's in-flight tables: {error.message}") from error
    os.close(fd)
    return tables.mmap_size


def _in_place(memory: GuestMemory, record: QueueRecord) -> bool:
    """Tell whether the rings are in RAM and aligned (virtio 1.2 §2.7)."""
    size = record.size
    rings = (record.desc, 16 * size, 16), (record.driver, 6 + 2 * size, 2), (record.device, 6 + 8 * size, 4)
    return all(address % align == 0 and memory.offset(address, length) is not None for address, length, align in rings)


def _event() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _content(fd: int, offset: int, size: int) -> bytes:
    """Return what a descriptor holds."""
    if os.fstat(fd).st_size < offset + size:
        raise Malformed("in-flight tables are longer than their descriptor")
    with mmap.mmap(fd, offset + size, prot=mmap.PROT_READ) as mapped:
        return mapped[offset : offset + size]
