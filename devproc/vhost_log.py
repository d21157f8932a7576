"""The log of written pages that a vhost-user front-end asks for while it migrates its guest.

``Logged`` is a queue that tells: where a request's data went when the request is returned, and where the ring itself
was written. A ring is started anew when its log comes or goes, so that a queue without one is what it always was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from devproc.inflight import InflightTable
from devproc.packed_inflight import PackedInflight
from devproc.packed_queue import PackedQueue
from devproc.split_queue import SplitQueue
from devproc.virtio_spec import Feature
from devproc.virtio_vhost_user import QueueMaker
from devproc.virtqueue import Chain, QueueRecord, Virtqueue
from protocol.errors import HostError, Malformed
from protocol.memory import GuestMemory, Shared
from protocol.vhost_user.connection import Message
from protocol.vhost_user.dirty_log import DirtyLog
from protocol.vhost_user.payloads import U64, Log

VRING_LOG = 1  # VHOST_VRING_F_LOG, in the flags of SET_VRING_ADDR


@dataclass(frozen=True)
class RingLog:
    """What a ring is to log: ``data`` buffers, and the used ring at guest address ``used``."""

    mark: Callable[[int, int], None]
    data: bool
    used: int | None


class Logged(Virtqueue):
    """What a queue that marks has beside the kind of ring it is; each mark comes after the write."""

    log: RingLog
    _buffers: dict[int, list[tuple[int, int]]]

    def begin(self, log: RingLog) -> None:
        """Mark from now on."""
        self.log = log
        self._buffers = {}

    def written_areas(self) -> list[tuple[int, int]]:
        """Return guest address and length of what the device writes of the ring itself."""
        raise NotImplementedError

    def recover(self) -> int:
        """Go on where a predecessor was killed."""
        found = super().recover()
        self._mark_ring()
        return found

    def pop(self) -> Chain | None:
        """Take the next request, and keep in mind what it may write."""
        chain = super().pop()
        if chain is not None and self.log.data:
            self._buffers[chain.head] = list(chain.writable)
        return chain

    def push(self, head: int, written: int) -> None:
        """Return a request; all of its buffers count as written, the last byte may be its status."""
        super().push(head, written)
        for offset, length in self._buffers.pop(head, ()):
            self.log.mark(self._base + offset, length)

    def publish(self) -> bool:
        """Show the batch to the guest."""
        wanted = super().publish()
        self._mark_ring()
        return wanted

    def quiet(self) -> None:
        """Ask the guest for no doorbells."""
        super().quiet()
        self._mark_ring()

    def listen(self) -> bool:
        """Ask for a doorbell."""
        result = super().listen()
        self._mark_ring()
        return result

    def _mark_ring(self) -> None:
        if self.log.used is not None:
            for gpa, length in self.written_areas():
                self.log.mark(gpa, length)


class LoggedSplit(Logged, SplitQueue):
    """A split queue that marks."""

    def written_areas(self) -> list[tuple[int, int]]:
        """Return the used ring, where the front-end says that it is."""
        return [(self.log.used or 0, self.areas(self.size)[2])]


class LoggedPacked(Logged, PackedQueue):
    """A packed queue that marks."""

    def written_areas(self) -> list[tuple[int, int]]:
        """Return the descriptor ring, which both sides write, and the device's event suppression structure."""
        ring, _, event = self.areas(self.size)
        return [(self.record.desc, ring), (self.record.device, event)]


def make_logged(log: RingLog) -> QueueMaker:
    """Return what makes a queue as ``rings.make_queue`` does, one that tells ``log``."""

    def make(
        features: int, index: int, memory: GuestMemory, record: QueueRecord, table: tuple[Shared, int]
    ) -> Virtqueue:
        queue = (
            LoggedPacked(index, memory, record, PackedInflight(*table))
            if features & Feature.RING_PACKED
            else LoggedSplit(index, memory, record, InflightTable(*table))
        )
        queue.begin(log)
        return queue

    return make


class FrontEndLog:
    """The log as the front-end has set it up so far."""

    def __init__(self) -> None:
        self.everything = False
        """Whether data is to be logged: the front-end has set ``VHOST_F_LOG_ALL``."""
        self.torn = False
        """Whether a mark could not be made: the front-end has taken the log away, or the host refuses."""
        self._log: DirtyLog | None = None
        self._event = -1

    def for_ring(self, flags: int, used: int, memory_end: int) -> RingLog | None:
        """Return what a ring is to log, if anything.

        Raises:
            Malformed: there is no log, or it is too short for the memory.
        """
        if not self.everything and not flags & VRING_LOG:
            return None
        if self._log is None or not self._log.covers(memory_end):
            raise Malformed(f"no log, or none for addresses up to {memory_end:#x}")
        return RingLog(self._mark, self.everything, used if flags & VRING_LOG else None)

    def set_base(self, message: Message) -> U64:
        """Serve ``SET_LOG_BASE``; no ring is running."""
        place = message.get(Log)
        fresh = DirtyLog(message.take_fd(), place.size, place.offset)
        if self._log is not None:
            self._log.close()
        self._log = fresh
        return U64(0)

    def set_event(self, message: Message) -> None:
        """Serve ``SET_LOG_FD``: an event that tells of marks."""
        if self._event >= 0:
            os.close(self._event)
        self._event = message.take_fd()
        os.set_blocking(self._event, False)

    def _mark(self, gpa: int, length: int) -> None:
        if self._log is not None:
            try:
                self._log.mark(gpa, length)
            except HostError:
                self.torn = True
            self.torn |= self._log.watch.torn
        if self._event >= 0:
            try:
                os.eventfd_write(self._event, 1)
            except OSError:
                pass  # it is full, or no event: the marks are there

    def reset(self) -> None:
        """Log nothing until the front-end asks again."""
        self.everything = False

    def close(self) -> None:
        """Give the log up."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
