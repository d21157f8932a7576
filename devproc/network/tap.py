"""A tap interface of the host: frames go between the guest's memory and the kernel in one system call each, uncopied.

The header before each frame is virtio-net's own, so that checksums and segments are left to whoever is best at them.
The kernel may still refuse a header that the card let pass; such a frame is counted and lost.

How long the next frame will be nobody knows. Room for the longest is many pieces of the guest's memory, so it is only
asked for after a long one. A frame that is longer than the room ends in memory of ours, behind it, and is delivered
from there; so is every frame while the guest has not agreed to checksums, for the kernel's header may speak of them.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial

from devproc.descriptors import GONE, READ, WRITE, Descriptors
from devproc.network import tun
from devproc.network.backend import PLAIN, Base, Buffer, Card, Pieces
from devproc.network.features import LARGE, NetFeature
from devproc.network.frame import ETHERNET, FRAME_MAX, HEADER, MTU_DEFAULT
from protocol.errors import ConfigError, HostError

_BURST = 64  # frames from one queue before the others have their turn
_SHORT = HEADER + ETHERNET + MTU_DEFAULT  # the least that any driver has room for
_LONG = 65562  # what virtio 1.2 §5.1.6.3.1 has a driver with segments make room for
_PIECES = 1000  # the kernel takes 1024 (IOV_MAX)
_PAIRS_MAX = 256  # MAX_TAP_QUEUES
_REASONS = {
    errno.EINVAL: "frames_refused",
    errno.EIO: "frames_interface_down",
    errno.EBADFD: "frames_interface_gone",
}


@dataclass(frozen=True)
class TapConfig:
    """A tap: its name, or descriptors of it that were handed to us, one per pair."""

    interface: str = ""
    pairs: int = 1
    fds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.interface) == bool(self.fds):
            raise ConfigError("a tap has an interface or descriptors", hint='interface = "tap0"')
        if not 1 <= self.pairs <= _PAIRS_MAX or (self.fds and len(self.fds) != self.pairs):
            raise ConfigError(f"{self.pairs} pairs: from 1 to {_PAIRS_MAX}, and a descriptor for each")
        if self.interface:
            tun.check_name(self.interface)


class Queue:
    """One queue of the tap, for one pair."""

    def __init__(self, pair: int, fd: int) -> None:
        self.pair = pair
        self.fd = fd
        self.attached = True
        self.long = False
        """Whether its last frame was one."""
        self.held = False
        """Whether the card had no room."""
        self.refused = False
        """Whether the card waits until it is writable."""
        self.kept: bytes | None = None
        """A frame that was read and not delivered, behind its header."""


class Tap(Base):
    """A tap behind a card."""

    def __init__(self, config: TapConfig) -> None:
        """Open it.

        Raises:
            ConfigError: a descriptor is no tap's.
            HostError: the kernel does not let us; the hint is what to do.
        """
        self.interface = config.interface or tun.interface_of(config.fds[0])
        for fd in config.fds[1:]:
            tun.interface_of(fd)
        fds = list(config.fds) or tun.attach(config.interface, config.pairs)
        try:
            self.offloads = tun.prepare(fds[0])
        except OSError as error:
            for fd in set(fds) - set(config.fds):
                os.close(fd)
            raise HostError(f"interface {self.interface}: {error.strerror}") from error
        self.pairs = config.pairs
        mtu = tun.mtu_of(self.interface)
        self.mtu = 0 if mtu == MTU_DEFAULT else min(mtu, 65535)
        self._whole = max(_SHORT, HEADER + ETHERNET + mtu)
        self._queues = [Queue(pair, fd) for pair, fd in enumerate(fds)]
        self._counters: Counter[str] = Counter(
            dict.fromkeys((*_REASONS.values(), "offloads_refused", "queues_refused"), 0)
        )
        self._spill = memoryview(bytearray(HEADER + FRAME_MAX))
        self._card: Card | None = None
        self._plain = True
        """Whether the guest has not agreed to checksums, so that it gets no header of the kernel's."""
        self._longest = 0
        self._wanted = True
        self._gone = False
        self.use(1)

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch its queues."""
        self._card, self._descriptors = card, descriptors
        for queue in self._queues:
            if queue.attached:
                self._watch(queue)

    def _watch(self, queue: Queue) -> None:
        self._descriptors.watch(queue.fd, partial(self._happened, queue), self._events(queue))

    def _events(self, queue: Queue) -> int:
        reads = self._wanted and not queue.held
        writes = queue.refused or (reads and queue.kept is not None)  # what is kept wakes nobody, but a tap is writable
        return (READ if reads else 0) | (WRITE if writes else 0)

    def _want(self, queue: Queue) -> None:
        if self._card is not None and queue.attached and not self._gone:
            self._descriptors.want(queue.fd, self._events(queue))

    # from the guest

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Give the kernel a frame."""
        queue = self._queues[pair if pair < len(self._queues) and self._queues[pair].attached else 0]
        if self._gone:
            self._counters["frames_interface_gone"] += 1
            return True
        try:
            os.writev(queue.fd, (header, *frame) if len(frame) < _PIECES else (header, b"".join(frame)))
        except BlockingIOError:
            queue.refused = True
            self._want(queue)
            return False
        except OSError as error:
            self._counters[_REASONS.get(error.errno or 0, "frames_refused")] += 1
        return True

    # to the guest

    def _happened(self, queue: Queue, events: int) -> None:
        if events & GONE:  # of a tap it only means that the interface has been deleted, and it means it for ever
            self._vanish()
            return
        if events & WRITE and queue.refused:
            queue.refused = False
            self._want(queue)
            assert self._card is not None
            self._card.writable()
        if self._wanted and not queue.held and queue.attached and not self._gone:
            self._read(queue)

    def _vanish(self) -> None:
        if self._gone:
            return
        self._gone = True
        for queue in self._queues:
            if queue.attached:
                self._descriptors.unwatch(queue.fd)
        if any(queue.refused for queue in self._queues) and self._card is not None:
            self._card.writable()

    def _read(self, queue: Queue) -> None:
        card, pair, fd = self._card, queue.pair, queue.fd
        assert card is not None
        spill = self._spill
        for _ in range(_BURST):
            if queue.kept is not None and not self._deliver(queue, queue.kept):
                return
            room = self._room(card, queue)
            if not room and not self._wanted:
                self._hold(queue)
                return
            try:
                length = os.readv(fd, (*room, spill))
            except BlockingIOError:
                return
            except OSError:
                return  # it is down or gone, and the events say so
            queue.long = length > _SHORT
            size = sum(map(len, room))
            if length <= size:
                card.filled(pair, length)
                continue
            if not self._deliver(queue, b"".join((*room, spill[: length - size]))):
                return

    def _room(self, card: Card, queue: Queue) -> list[memoryview]:
        """Return room for the next frame; none is no reason not to read it while the card still listens."""
        if self._plain:
            return []
        room = None
        if queue.long:
            room = card.room(queue.pair, self._longest)
        if room is None and self._wanted:
            room = card.room(queue.pair, _SHORT)
        return room if room is not None and len(room) < _PIECES else []

    def _deliver(self, queue: Queue, whole: bytes) -> bool:
        """Deliver a frame from our memory, or keep it until there is room."""
        assert self._card is not None
        header = PLAIN if self._plain else whole[:HEADER]
        if self._card.deliver(memoryview(whole)[HEADER:], header, queue.pair):
            if queue.kept is not None:
                queue.kept = None
                self._want(queue)
            return True
        queue.kept = whole
        self._hold(queue)
        return False

    def _hold(self, queue: Queue) -> None:
        queue.held = True
        self._want(queue)

    def listen(self, *, wanted: bool) -> None:
        """Read, or leave frames in the kernel, which drops what is beyond the interface's queue."""
        self._wanted = wanted
        for queue in self._queues:
            queue.held = queue.held and not wanted
            self._want(queue)

    # agreements

    def agree(self, features: int) -> None:
        """Have the kernel leave to the guest what it has agreed to."""
        agreed = features & self.offloads
        self._plain = not agreed & NetFeature.GUEST_CSUM
        self._longest = _LONG if agreed & LARGE else self._whole
        if not self._gone and not tun.set_offloads(self._queues[0].fd, agreed):
            self._counters["offloads_refused"] += 1

    def use(self, pairs: int) -> None:
        """Attach the queues in use, and detach the others."""
        if self._gone:
            return
        for queue in self._queues[1:]:
            attached = queue.pair < pairs
            if attached == queue.attached:
                continue
            if not attached and self._card is not None:
                self._descriptors.unwatch(queue.fd)  # a queue without its interface is readable for ever
            try:
                tun.set_queue(queue.fd, attached=attached)
            except OSError:
                self._counters["queues_refused"] += 1
                attached = False
            queue.attached, queue.held, queue.refused, queue.kept = attached, False, False, None
            if attached and self._card is not None:
                self._watch(queue)

    # words

    def counters(self) -> dict[str, int]:
        """Return what was lost, and why."""
        return dict(self._counters)

    def describe(self) -> str:
        """Say which interface it is."""
        pairs = f", {self.pairs} pairs" if self.pairs > 1 else ""
        return f"tap {self.interface}{pairs}{', which has gone' if self._gone else ''}"

    def close(self) -> None:
        """Let go of it; if we have made it, it is gone."""
        for queue in self._queues:
            if self._card is not None and queue.attached and not self._gone:
                self._descriptors.unwatch(queue.fd)
            os.close(queue.fd)
        self._queues, self._card, self._gone = [], None, True
