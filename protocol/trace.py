"""The trace of one device: two rings of events in memory that the tracer made, one per process that writes.

Whoever traces makes the page (``create``), hands it to ``cpu_proc`` and to the device (org.busvm.Trace1) and reads
both rings. Writers never wait: a ring keeps the newest events, and a reader that is too slow learns how many it lost.

One number goes with a piece of work through both processes. ``cpu_proc`` makes it when a doorbell rings and leaves it
in ``KICKS``; the device gives it to the requests that it takes then, and leaves it in ``ANSWERS`` when it interrupts;
``cpu_proc`` finds it there when it delivers the interrupt. Posted writes and reads that ask the device have the
number of their message instead.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from protocol.errors import HostError, Malformed
from protocol.layout import Field, Layout
from protocol.memory import Shared, sealed

_EVENT = struct.Struct("<QQHHIQQ24s")
EVENT_SIZE = _EVENT.size
DATA = 24
SLOTS = 16384
_SLOTS_MAX = 1 << 20
DOORBELLS, SOURCES = 2048, 2049
_MASK = (1 << 64) - 1


class Side(IntEnum):
    """Who writes a ring."""

    CPU = 0
    DEVICE = 1


class Kind(IntEnum):
    """What an event says, and what ``where``, ``size``, ``a``, ``b`` and ``data`` are then."""

    READ = 1  # by a hart: BAR, bytes, offset, value; ns that it took
    WRITE = 2  # likewise
    KICK = 3  # a doorbell: its number
    MESSAGE = 4  # delivered: vector; a: address, b: data
    LINE = 5  # the wire changed: b: level
    TAKEN = 16  # a request: queue, its place among those of this number, head; a: head, b: its bytes; header
    DONE = 17  # its end: queue, place, a: head, b: bytes written; the end of what was written
    SERVED = 18  # a posted write took effect: BAR, bytes, offset, value; ns that it took
    ANSWERED = 19  # a read: likewise
    BUSY = 20  # the device loop worked: doorbell, or SOURCE; b: ns


SOURCE = 0xFFFF  # ``where`` of BUSY for a descriptor of the device's own


class Event(NamedTuple):
    """One event; see ``Kind``."""

    time_ns: int
    """Host monotonic time."""
    id: int
    """The number that goes through the processes; 0 for none."""
    kind: int
    where: int
    size: int
    a: int
    b: int
    data: bytes

    @property
    def duration_ns(self) -> int:
        """The ns in ``data``."""
        return int.from_bytes(self.data[:8], "little")


class TracePage(Layout):
    """``0x0000`` header · ``0x1000`` KICKS · ``0x5000`` ANSWERS · ``0xA000`` the CPU process's ring, the device's."""

    MAGIC = int.from_bytes(b"BUSVMTRC", "little")
    VERSION = 1
    KICKS = 0x1000
    ANSWERS = 0x5000
    RINGS = 0xA000

    slots = Field(0x0C, 4, "tracer", "events in a ring")
    cpu_events = Field(0x40, 8, "cpu", "events written so far")
    device_events = Field(0x80, 8, "device", "events written so far")

    def kick(self, doorbell: int) -> int:
        """Return the number of the last ring of a doorbell."""
        return self.shared.u64[(self.KICKS >> 3) + doorbell] if doorbell < DOORBELLS else 0

    def set_kick(self, doorbell: int, number: int) -> None:
        """Leave the number for the device, before the doorbell rings."""
        if doorbell < DOORBELLS:
            self.shared.u64[(self.KICKS >> 3) + doorbell] = number

    def answer(self, source: int) -> int:
        """Return the number that an interrupt of ``source`` (0 the wire, 1 + vector) is about."""
        return self.shared.u64[(self.ANSWERS >> 3) + source] if source < SOURCES else 0

    def set_answer(self, source: int, number: int) -> None:
        """Leave the number for the CPU process, before the interrupt."""
        if source < SOURCES:
            self.shared.u64[(self.ANSWERS >> 3) + source] = number


def create(slots: int = SLOTS) -> TracePage:
    """Return a new page, sealed so that nobody who has it can shrink it under another's feet."""
    size = TracePage.RINGS + 2 * slots * EVENT_SIZE
    try:
        page = TracePage(Shared(sealed("busvm-trace", size), size))
    except OSError as error:
        raise HostError(f"no memory for a trace of {size >> 10} KiB: {error.strerror}") from error
    page.slots = slots
    page.format()
    return page


def accept(fd: int) -> TracePage:
    """Map a page that came over the bus; ``fd`` belongs to it from here on.

    Raises:
        Malformed: it is no sealed page of a trace.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        shared = Shared(fd, os.fstat(fd).st_size) if sealed else None
    except (OSError, HostError) as error:
        os.close(fd)
        raise Malformed(f"trace page: {error}") from error
    if shared is None:
        os.close(fd)
        raise Malformed("trace page: not sealed against shrinking")
    page = TracePage(shared)
    try:
        if shared.size < TracePage.RINGS:
            raise Malformed(f"trace page of {shared.size} bytes")
        page.check()
        slots = page.slots
        if not 1 <= slots <= _SLOTS_MAX or TracePage.RINGS + 2 * slots * EVENT_SIZE > shared.size:
            raise Malformed(f"trace page of {shared.size} bytes for rings of {slots} events")
    except BaseException:
        shared.close()
        raise
    return page


class _Ring:
    def __init__(self, page: TracePage, side: Side) -> None:
        self.page = page
        self.slots = page.slots  # once: whoever has the page could change it
        self.first = TracePage.RINGS + side * self.slots * EVENT_SIZE
        counter: Field = (TracePage.cpu_events, TracePage.device_events)[side]  # type: ignore[assignment]
        self.counter = counter.offset >> 3


class Writer(_Ring):
    """One end that writes; its ring has no other writer."""

    def __init__(self, page: TracePage, side: Side) -> None:
        super().__init__(page, side)
        self._written = page.shared.u64[self.counter]

    def put(
        self,
        kind: Kind,
        number: int,
        where: int,
        size: int,
        a: int,
        b: int,
        data: bytes = b"",
    ) -> None:
        """Add an event, in the place of the oldest one if the ring is full."""
        at = self.first + self._written % self.slots * EVENT_SIZE
        now = time.monotonic_ns()
        shared = self.page.shared
        _EVENT.pack_into(shared.u8, at, now, number, kind, where, size & 0xFFFF_FFFF, a & _MASK, b & _MASK, data)
        self._written += 1
        shared.u64[self.counter] = self._written  # after the event


class Reader(_Ring):
    """The tracer's end of a ring."""

    def __init__(self, page: TracePage, side: Side) -> None:
        super().__init__(page, side)
        self._seen = 0
        self.lost = 0
        """Events that were overwritten before they were read."""

    def take(self) -> Iterator[Event]:
        """Yield what has been written since the last call."""
        shared = self.page.shared
        written = shared.u64[self.counter]
        while self._seen < written:
            at = self.first + self._seen % self.slots * EVENT_SIZE
            raw = shared.bytes(at, EVENT_SIZE)
            behind = shared.u64[self.counter] - self._seen
            if behind >= self.slots:  # the writer may have been in the middle of this one
                skipped = behind - self.slots + 1
                self.lost += skipped
                self._seen += skipped
                continue
            self._seen += 1
            yield Event(*_EVENT.unpack(raw))
