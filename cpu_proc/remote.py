"""A device that lives in another process, as the CPU process sees it: its page, its link, its doorbells.

Everything about one device that survives the death of its process is here and in the page, whatever bus it is on.
``bar_read`` and ``bar_write`` run on the hart's thread; ``connect`` and ``lose`` on the thread of the bus; ``_lock``
keeps them apart.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cpu_proc.connections import Doorbells
from cpu_proc.device_memory import DeviceMemory
from cpu_proc.engine import state as st
from cpu_proc.hart import address_of
from cpu_proc.tracing import Recorder
from protocol import messages
from protocol.layout import BARS, BarFlags, DevicePage, IrqPage, ReadKind, WriteKind
from protocol.link import Link
from protocol.memory import Shared
from protocol.trace import Kind

logger = logging.getLogger(__name__)

_STALL_AFTER_S = 0.05
_POLL_S = 0.02
_YIELD_S = 0.001
_PUSH_S = 0.01
_LOOK_S = 300e-6
_PASS_OVER = 64
_POSTED_MAX = 1024
_SPARE_CORE = len(os.sched_getaffinity(0)) > 1
_MATCH_SIZE = 4
_ONES = (1 << 64) - 1
_FIRST = DevicePage.STATE  # images and kind bytes lie behind the header and configuration space

Stalled = Callable[[str | None], None]  # told when a device does not answer, and when it does again


@dataclass(frozen=True)
class Place:
    """A BAR: bytes decoded, where image and kind bytes lie in the page, whether its address has 64 bits.

    One that is memory has neither image nor kinds.
    """

    size: int
    image: int
    kinds: int
    wide: bool
    memory: bool = False


def new_calls(count: int) -> list[int]:
    """Return eventfds for the calls of a device."""
    return [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]


class Remote:
    """The proxy of one remote device in slot ``slot`` of its bus."""

    transport = ""
    """What ``Device1.Transport`` says of such devices."""

    def __init__(
        self, device_id: str, slot: int, page: Shared, doorbells: int, stalled: Stalled, calls: int = 0
    ) -> None:
        self.id = device_id
        self.slot = slot
        self.shared = page
        self.page = DevicePage(page)
        self.epoch = 0
        self.pid = 0
        self.doorbells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(doorbells)]
        self.calls = new_calls(calls)
        self.memory: dict[int, DeviceMemory] = {}
        """By BAR."""
        self.matches = Doorbells()
        self.held = -1
        """A descriptor that somebody outside waits for to be closed (Wiring1.Hold)."""
        self._doorbell_fds = (ctypes.c_int32 * max(1, doorbells))(*self.doorbells)
        self._link: Link | None = None
        self._lock = threading.Condition()
        self._unacknowledged: deque[messages.Write] = deque()
        self._requests = 0
        self._closed = False
        self._stalled = stalled
        self.counters = {"reads": 0, "writes": 0, "page_reads": 0, "doorbells": 0, "undefined": 0, "stalls": 0}
        if calls:
            self.counters["calls"] = 0
        self.last_words: list[int] = []
        self.trace: Recorder | None = None
        self._places: dict[int, Place] = {}
        self._bells = (-1, 0, 0)  # BAR, offset, stride
        self.sources = slice(0, 0)  # its words in the interrupt page

    def settle(self) -> None:
        """Take over what the device says of its layout, once, and only what lies inside its page.

        From here on nothing that a device writes there makes this process, or compiled code, leave the page.
        """
        page, room = self.page, self.shared.size
        self._places = {}
        for index in range(BARS):
            entry = page.bar(index)
            wide, memory = bool(entry.flags & BarFlags.BITS64), entry.flags & BarFlags.MEMORY
            if memory and (found := self.memory.get(index)) and found.size == entry.size:
                self._places[index] = Place(entry.size, 0, 0, wide, memory=True)
                continue
            place = Place(entry.size, entry.image, entry.kinds, wide)
            inside = max(place.image, place.kinds) + place.size <= room and min(place.image, place.kinds) >= _FIRST
            if place.size and not place.size & place.size - 1 and inside and not place.image & 7:
                self._places[index] = place
            elif place.size:
                logger.warning("dev=%s BAR %d does not lie in its page: left out", self.id, index)
        self._bells = (page.doorbell_bar, page.doorbell_offset, page.doorbell_stride)
        first, count = page.irq_base, page.irq_count
        self.sources = slice(first, first + count) if first + count <= IrqPage.SOURCES else slice(0, 0)

    def turn_to(self, page: Shared, calls: list[int]) -> None:
        """Have another page and other calls from now on (while the harts stand still); ``settle`` comes next."""
        self.shared, self.page, self.calls = page, DevicePage(page), calls
        if calls:
            self.counters.setdefault("calls", 0)

    def call_sources(self) -> list[tuple[int, int]]:
        """Return the source of each call, and its eventfd or -1."""
        first = self.page.irq_base + self.page.irq_count - len(self.calls)
        return list(enumerate(self.calls, first))

    @property
    def source_numbers(self) -> range:
        """The numbers of its words."""
        return range(self.sources.start, self.sources.stop)

    def words(self, irq: IrqPage) -> list[int]:
        """Return its words in the interrupt page: the level of its wire, then counts of messages."""
        first = IrqPage.WORDS >> 3
        return irq.shared.u64[first + self.sources.start : first + self.sources.stop].tolist()

    @property
    def connected(self) -> bool:
        """Whether there is a process that serves it."""
        return self._link is not None

    # life cycle, from the thread of the bus

    def connect(self, link: Link, pid: int, epoch: int) -> None:
        """Take the link of a new incarnation; writes the old one never finished are sent again."""
        with self._lock:
            self._link, self.pid, self.epoch = link, pid, epoch
            self._forget_processed()
            for old in self._unacknowledged:
                link.send(messages.Write(epoch, old.seq, old.bar, old.offset, old.size, old.value))
            self._push()
            self._lock.notify_all()

    def lose(self) -> None:
        """Drop the link: the process is gone. Reads wait for the next incarnation."""
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None
            self._lock.notify_all()

    def close(self) -> None:
        """End: waiting reads return all ones; descriptors and memory go."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self.lose()

    def release(self) -> None:
        """Close descriptors and unmap the page; no thread may use the function any more."""
        for fd in [*self.doorbells, *self.calls, self.held]:
            if fd >= 0:
                os.close(fd)
        self.doorbells, self.calls, self.held = [], [], -1
        self.matches.close()
        for memory in self.memory.values():
            memory.close()
        self.memory = {}
        self.shared.unlink()
        self.shared.close()

    # registers

    def bar_address(self, index: int) -> int:
        """Return the guest address that BAR ``index`` decodes, 0 when it does not."""
        raise NotImplementedError

    def bars(self) -> list[tuple[int, int, int]]:
        """Return (index, guest address or 0, size) of each implemented BAR."""
        return [(index, self.bar_address(index), place.size) for index, place in self._places.items()]

    def bar_read(self, index: int, offset: int, size: int) -> int:
        """Read from a BAR."""
        entry = self._places[index]
        if entry.memory:
            return self.memory[index].read(offset, size)
        return self.read_image(index, entry.image, entry.kinds, offset, size)

    def bar_write(self, index: int, offset: int, size: int, value: int) -> None:
        """Write to a BAR."""
        started = time.monotonic_ns() if self.trace else 0
        number = self._bar_write(index, offset, size, value)
        if self.trace and number >= 0:
            self.trace.access(Kind.WRITE, index, (offset, size), value, number, started)

    def _bar_write(self, index: int, offset: int, size: int, value: int) -> int:
        """Do it; return the number of the message that it took, 0 for none, -1 for a doorbell."""
        entry = self._places[index]
        if entry.memory:  # compiled code does what is allowed
            self.counters["undefined"] += 1
            return 0
        kinds = {kind >> 4 for kind in self.shared.u8[entry.kinds + offset : entry.kinds + offset + size]}
        if kinds == {WriteKind.STORE}:
            self.shared.store(entry.image + offset, size, value)
        elif kinds == {WriteKind.DROP}:
            self.counters["undefined"] += 1
        elif kinds == {WriteKind.MATCH}:
            fd = self.matches.fd(value) if size == _MATCH_SIZE else None
            self.counters["doorbells" if fd is not None else "undefined"] += 1
            if fd is not None:
                with suppress(BlockingIOError):  # rung 2^64 - 2 times, and nobody has looked
                    os.eventfd_write(fd, 1)
        elif kinds in ({WriteKind.DOORBELL}, {WriteKind.RING}):
            if WriteKind.RING in kinds:
                self.shared.store(entry.image + offset, size, value)
            self.ring(offset, size, value)
            return -1
        else:
            return self.post(index, offset, size, value, sync=WriteKind.SYNC in kinds)
        return 0

    def ring(self, offset: int, size: int, value: int) -> None:
        """Ring the doorbell that a store into the doorbell range means."""
        _bar, first, stride = self._bells
        by_value = value & 0xFFFF if (offset, size) == (first, 4) else -1
        index = (offset - first) // stride if stride else by_value
        if 0 <= index < len(self.doorbells):
            self.counters["doorbells"] += 1
            if self.trace:
                self.trace.kick(index)
            os.eventfd_write(self.doorbells[index], 1)
        else:
            self.counters["undefined"] += 1

    def rows(self, python_stores: int = -1) -> list[list[int]]:
        """Return the rows from which compiled code serves the BARs (``engine.state``).

        Stores into BAR ``python_stores`` come to ``bar_write``; so do doorbells while it is traced, or all accesses.
        """
        memory = [self._memory_row(index) for index, place in self._places.items() if place.memory]
        rows = [row for row in memory if row[st.W_BASE]]
        if self.trace and self.trace.registers:
            return rows
        base = address_of(self.shared)
        posted = base + DevicePage.posted.offset  # type: ignore[attr-defined]
        processed = base + DevicePage.processed.offset  # type: ignore[attr-defined]
        bell_bar, first, stride = self._bells
        for index, place in self._places.items():
            address = self.bar_address(index)
            if not address or place.memory:
                continue
            row = [0] * st.WINDOW_WORDS
            row[:7] = [
                address, place.size, base + place.image, base + place.kinds, posted, processed,
                int(index != python_stores),
            ]  # fmt: skip
            if index == bell_bar and self.doorbells and not self.trace:
                row[st.W_DOORBELL_OFFSET : st.W_DOORBELL_FDS + 1] = [
                    first,
                    stride,
                    len(self.doorbells),
                    ctypes.addressof(self._doorbell_fds),
                ]
            if len(self.matches) and not self.trace:
                row[st.W_MATCHES] = self.matches.host
            rows.append(row)
        return rows

    def _memory_row(self, index: int) -> list[int]:
        memory = self.memory[index]
        row = [0] * st.WINDOW_WORDS
        row[st.W_BASE], row[st.W_SIZE], row[st.W_IMAGE] = self.bar_address(index), memory.size, memory.host
        row[st.W_CODE], row[st.W_MEMORY] = 1, 2 if memory.writable else 1
        return row

    # the link

    def read_image(self, bar: int, image: int, kinds_at: int, offset: int, size: int) -> int:
        """Read registers whose image and kind bytes begin there in the page."""
        if not self.trace:
            return self._read_image(bar, image, kinds_at, offset, size)[0]
        started = time.monotonic_ns()
        value, number = self._read_image(bar, image, kinds_at, offset, size)
        self.trace.access(Kind.READ, bar, (offset, size), value, number, started)
        return value

    def _read_image(self, bar: int, image: int, kinds_at: int, offset: int, size: int) -> tuple[int, int]:
        """Do it; return also the number of the message that it took, or 0."""
        kinds = {kind & 15 for kind in self.shared.u8[kinds_at + offset : kinds_at + offset + size]}
        if kinds == {ReadKind.ZERO}:
            self.counters["undefined"] += 1
            return 0, 0
        if ReadKind.MESSAGE in kinds:
            value = self._ask(lambda epoch, seq: messages.Read(epoch, seq, bar, offset, size))
            return value, self._requests
        if self.page.posted != self.page.processed:
            self.barrier("flush")
        self.counters["page_reads"] += 1
        return int.from_bytes(self.shared.bytes(image + offset, size), "little"), 0

    def barrier(self, what: str) -> int:
        """Have the device act on everything sent so far; return all ones if the machine ends meanwhile."""
        return self._ask(lambda epoch, seq: messages.Barrier(epoch, seq, what))

    def post(self, bar: int, offset: int, size: int, value: int, *, sync: bool = False) -> int:
        """Send a write and go on, or with ``sync`` wait until it has had its effect; return its number."""
        if len(self._unacknowledged) >= _POSTED_MAX:
            self.barrier("flush")  # a device that does not keep up holds the hart, not the host's memory
        with self._lock:
            self.counters["writes"] += 1
            self._forget_processed()
            seq = self.page.posted + 1 & _ONES
            write = messages.Write(self.epoch, seq, bar, offset, size, value)
            self._unacknowledged.append(write)
            self.page.posted = seq
            if self._link is not None:
                self._link.send(write)
                self._push()
        if sync:
            self.barrier("flush")
        return seq

    def _push(self) -> None:
        """Hand over what the device was not yet there for, now and then: it may be the last that comes for a while."""
        with self._lock:
            if self._link is not None and not self._link.flush() and not self._closed:
                again = threading.Timer(_PUSH_S, self._push)
                again.daemon = True
                again.start()

    def _forget_processed(self) -> None:
        processed = self.page.processed
        while self._unacknowledged and self._unacknowledged[0].seq <= processed:
            self._unacknowledged.popleft()

    def _look_for(self, seq: int) -> bool:
        """Tell whether the answer to ``seq`` comes within a moment, by looking at the page.

        Only where the device can run meanwhile. Its message comes too and is passed over later.
        """
        if not _SPARE_CORE:
            return False
        words, at = self.shared.u64, DevicePage.reply_seq.offset >> 3  # type: ignore[attr-defined]
        until = time.monotonic() + _LOOK_S
        while words[at] != seq:
            if time.monotonic() > until:
                return False
        return True

    def _pass_over(self) -> None:
        """Take messages off the link whose answers were found in the page."""
        while self._link is not None and self._link.receive() is not None:
            pass

    def _ask(self, make: Callable[[int, int], messages.Any]) -> int:
        """Send a request and wait for its answer: for ever, across incarnations, until the machine ends."""
        self.counters["reads"] += 1
        started = time.monotonic()
        stalled = False
        try:
            with self._lock:
                self._requests += 1
                seq = self._requests
                if seq % _PASS_OVER == 0:
                    self._pass_over()
                asked: Link | None = None
                while not self._closed:
                    if self._link is None:
                        asked = None
                        self._lock.wait(_POLL_S)
                    else:
                        if asked is not self._link:
                            asked = self._link
                            asked.send(make(self.epoch, seq))
                            if self._look_for(seq):
                                return self.page.reply_value
                        answer = asked.receive(_POLL_S)
                        if isinstance(answer, messages.Value) and answer.seq == seq:
                            return answer.value
                        if isinstance(answer, messages.Done) and answer.seq == seq:
                            return 0
                    if not stalled and time.monotonic() - started > _STALL_AFTER_S:
                        stalled = True
                        self.counters["stalls"] += 1
                        self._stalled(self.id)
                    self._lock.wait(_YIELD_S)  # unlocked, so that the thread of the bus can change the link
            return _ONES
        finally:
            if stalled:
                self._stalled(None)
