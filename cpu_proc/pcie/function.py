"""A PCI function that lives in another process, as the CPU process sees it: its page, its link, its doorbells.

Everything about one device that survives the death of its process is here and in the page. ``read`` and ``write`` run
on the hart's thread; ``connect`` and ``lose`` on the thread of the bus; ``_lock`` keeps them apart.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cpu_proc.engine import state as st
from cpu_proc.hart import address_of
from protocol import messages
from protocol.layout import BARS, CONFIG_BAR, CONFIG_SIZE, BarFlags, DevicePage, IrqPage, ReadKind, WriteKind
from protocol.link import Link
from protocol.memory import Shared

logger = logging.getLogger(__name__)

COMMAND, BAR0 = 0x04, 0x10
COMMAND_MEMORY = 0x2
_STALL_AFTER_S = 0.05
_POLL_S = 0.02
_YIELD_S = 0.001
_LOOK_S = 300e-6
_PASS_OVER = 64
_POSTED_MAX = 1024
_SPARE_CORE = len(os.sched_getaffinity(0)) > 1
_ONES = (1 << 64) - 1
_FIRST = DevicePage.STATE  # images and kind bytes lie behind the header and configuration space

Stalled = Callable[[str | None], None]  # told when a device does not answer, and when it does again


@dataclass(frozen=True)
class Place:
    """A BAR: bytes decoded, where image and kind bytes lie in the page, and whether its address has 64 bits."""

    size: int
    image: int
    kinds: int
    wide: bool


@dataclass(frozen=True)
class Msix:
    """MSI-X: vectors, the BAR with the table, where table and pending bits lie in the page, and the capability."""

    vectors: int
    bar: int
    table: int
    pending: int
    capability: int


class Function:
    """The proxy of one remote function in slot ``slot`` of bus 0."""

    def __init__(self, device_id: str, slot: int, page: Shared, doorbells: int, stalled: Stalled) -> None:
        self.id = device_id
        self.slot = slot
        self.shared = page
        self.page = DevicePage(page)
        self.epoch = 0
        self.pid = 0
        self.doorbells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(doorbells)]
        self._doorbell_fds = (ctypes.c_int32 * max(1, doorbells))(*self.doorbells)
        self._link: Link | None = None
        self._lock = threading.Condition()
        self._unacknowledged: deque[messages.Write] = deque()
        self._requests = 0
        self._closed = False
        self._stalled = stalled
        self.counters = {"reads": 0, "writes": 0, "page_reads": 0, "doorbells": 0, "undefined": 0, "stalls": 0}
        self.last_words: list[int] = []
        self._places: dict[int, Place] = {}
        self._bells = (-1, 0, 0)  # BAR, offset, stride
        self.msix: Msix | None = None
        self.sources = slice(0, 0)  # its words in the interrupt page

    def settle(self) -> None:
        """Take over what the device says of its layout, once, and only what lies inside its page.

        From here on nothing that a device writes there makes this process, or compiled code, leave the page.
        """
        page, room = self.page, self.shared.size
        self._places = {}
        for index in range(BARS):
            entry = page.bar(index)
            place = Place(entry.size, entry.image, entry.kinds, bool(entry.flags & BarFlags.BITS64))
            inside = max(place.image, place.kinds) + place.size <= room and min(place.image, place.kinds) >= _FIRST
            if place.size and not place.size & place.size - 1 and inside and not place.image & 7:
                self._places[index] = place
            elif place.size:
                logger.warning("dev=%s BAR %d does not lie in its page: left out", self.id, index)
        self._bells = (page.doorbell_bar, page.doorbell_offset, page.doorbell_stride)
        first, count = page.irq_base, page.irq_count
        self.sources = slice(first, first + count) if first + count <= IrqPage.SOURCES else slice(0, 0)
        self.msix = self._find_msix()

    def _find_msix(self) -> Msix | None:
        page = self.page
        vectors, capability = page.msix_vectors, page.msix_cap
        if not vectors:
            return None
        place = self._places.get(page.msix_bar)
        table, pending = page.msix_table, page.msix_pba
        fits = place is not None and table + 16 * vectors <= place.size and pending + (vectors + 7) // 8 <= place.size
        known = vectors < self.sources.stop - self.sources.start
        if place is None or not fits or not known or table & 7 or capability & 3 or capability > CONFIG_SIZE - 12:
            logger.warning("dev=%s MSI-X does not lie in its page: left out", self.id)
            return None
        return Msix(vectors, page.msix_bar, place.image + table, place.image + pending, capability)

    # life cycle, from the thread of the bus

    def connect(self, link: Link, pid: int, epoch: int) -> None:
        """Take the link of a new incarnation; writes the old one never finished are sent again."""
        with self._lock:
            self._link, self.pid, self.epoch = link, pid, epoch
            self._forget_processed()
            for old in self._unacknowledged:
                link.send(messages.Write(epoch, old.seq, old.bar, old.offset, old.size, old.value))
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
        for fd in self.doorbells:
            os.close(fd)
        self.doorbells = []
        self.shared.unlink()
        self.shared.close()

    # configuration space

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return self._read(CONFIG_BAR, DevicePage.CONFIG, DevicePage.CONFIG_KINDS, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> bool:
        """Write configuration space under its mask; return whether decoding or MSI-X may have changed."""
        kinds = self.shared.u8[DevicePage.CONFIG_KINDS + offset : DevicePage.CONFIG_KINDS + offset + size]
        if any(kind >> 4 == WriteKind.POST for kind in kinds):
            self._post(CONFIG_BAR, offset, size, value)
            return False
        for i in range(size):
            at = offset + i
            mask = self.shared.u8[DevicePage.CONFIG_MASK + at]
            old = self.shared.u8[DevicePage.CONFIG + at]
            self.shared.u8[DevicePage.CONFIG + at] = (old & ~mask) | (value >> (8 * i) & mask)
        cap = self.msix.capability if self.msix else 0
        return offset < BAR0 + 4 * BARS or (cap != 0 and cap <= offset + size and offset < cap + 4)

    def config(self, offset: int, size: int) -> int:
        """Return what configuration space holds, without side effects."""
        return int.from_bytes(self.shared.bytes(DevicePage.CONFIG + offset, size), "little")

    # BARs

    def bar_address(self, index: int) -> int:
        """Return the guest address that BAR ``index`` decodes, 0 when it does not."""
        place = self._places.get(index)
        if place is None or not self.config(COMMAND, 2) & COMMAND_MEMORY:
            return 0
        width = 8 if place.wide else 4
        address = self.config(BAR0 + 4 * index, width) & -16
        top = (1 << (8 * width)) - place.size
        return 0 if address == 0 or address > top else address

    def bars(self) -> list[tuple[int, int, int]]:
        """Return (index, guest address or 0, size) of each implemented BAR."""
        return [(index, self.bar_address(index), place.size) for index, place in self._places.items()]

    def bar_read(self, index: int, offset: int, size: int) -> int:
        """Read from a BAR."""
        entry = self._places[index]
        return self._read(index, entry.image, entry.kinds, offset, size)

    def bar_write(self, index: int, offset: int, size: int, value: int) -> None:
        """Write to a BAR."""
        entry = self._places[index]
        kinds = {kind >> 4 for kind in self.shared.u8[entry.kinds + offset : entry.kinds + offset + size]}
        if kinds == {WriteKind.STORE}:
            self.shared.store(entry.image + offset, size, value)
        elif kinds == {WriteKind.DROP}:
            self.counters["undefined"] += 1
        elif kinds == {WriteKind.DOORBELL}:
            self.ring(offset)
        else:
            self._post(index, offset, size, value)

    def ring(self, offset: int) -> None:
        """Ring the doorbell at ``offset`` of the doorbell BAR."""
        _bar, first, stride = self._bells
        index = (offset - first) // stride if stride else -1
        if 0 <= index < len(self.doorbells):
            self.counters["doorbells"] += 1
            os.eventfd_write(self.doorbells[index], 1)

    def windows(self, config_base: int) -> list[list[int]]:
        """Return the rows from which compiled code serves this function (``engine.state``)."""
        base = address_of(self.shared)
        posted = base + DevicePage.posted.offset  # type: ignore[attr-defined]
        processed = base + DevicePage.processed.offset  # type: ignore[attr-defined]
        config = [config_base, 0x1000, base + DevicePage.CONFIG, base + DevicePage.CONFIG_KINDS, posted, processed]
        rows = [config]
        bell_bar, first, stride = self._bells
        for index, place in self._places.items():
            address = self.bar_address(index)
            if not address:
                continue
            bells = index == bell_bar and self.doorbells
            row = [0] * st.WINDOW_WORDS
            row[:7] = [
                address, place.size, base + place.image, base + place.kinds, posted, processed,
                0 if self.msix and index == self.msix.bar else 1,  # masking needs a look
            ]  # fmt: skip
            if bells:
                row[st.W_DOORBELL_OFFSET : st.W_DOORBELL_FDS + 1] = [
                    first,
                    stride,
                    len(self.doorbells),
                    ctypes.addressof(self._doorbell_fds),
                ]
            rows.append(row)
        return rows

    # the link

    def _read(self, bar: int, image: int, kinds_at: int, offset: int, size: int) -> int:
        kinds = {kind & 15 for kind in self.shared.u8[kinds_at + offset : kinds_at + offset + size]}
        if kinds == {ReadKind.ZERO}:
            self.counters["undefined"] += 1
            return 0
        if ReadKind.MESSAGE in kinds:
            return self._ask(lambda epoch, seq: messages.Read(epoch, seq, bar, offset, size))
        if self.page.posted != self.page.processed:
            self.barrier("flush")
        self.counters["page_reads"] += 1
        return int.from_bytes(self.shared.bytes(image + offset, size), "little")

    def barrier(self, what: str) -> int:
        """Have the device act on everything sent so far; return all ones if the machine ends meanwhile."""
        return self._ask(lambda epoch, seq: messages.Barrier(epoch, seq, what))

    def _post(self, bar: int, offset: int, size: int, value: int) -> None:
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
