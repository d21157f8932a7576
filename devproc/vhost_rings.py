"""The rings of a vhost-user front-end: how each is set up, when it runs, and the descriptors that wake either side.

A ring is served while it is started and enabled. It starts with its kick and stops with ``GET_VRING_BASE``, which
first finishes host I/O (``drain``), because that goes straight to and from guest memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from devproc.events import EventLoop
from devproc.rings import RingKind, kind, make_queue
from devproc.split_queue import SplitQueue
from devproc.vhost_inflight import InflightTables
from devproc.vhost_log import FrontEndLog, make_logged
from devproc.virtio import VirtioDevice
from devproc.virtio_vhost_user import VirtioVhostUser
from devproc.virtqueue import QUEUE_MAX
from protocol.errors import HostError, Malformed, ProtocolError
from protocol.vhost_user.back_end import Serve
from protocol.vhost_user.connection import Message
from protocol.vhost_user.messages import Request
from protocol.vhost_user.payloads import U64, VringAddr, VringState
from protocol.vhost_user.regions import Regions

logger = logging.getLogger(__name__)

POLL_S = 0.001  # how often a ring is looked at whose front-end gives no descriptor for kicks

if TYPE_CHECKING:

    class VhostUserDevice(VirtioDevice, VirtioVhostUser):
        """What ``VirtioDevice.over("vhost-user")`` is."""


@dataclass
class Ring:
    """A ring as the front-end has set it up so far."""

    index: int
    size: int = 0
    base: int = 0
    addr: VringAddr | None = None
    kick: int = -1
    call: int = -1
    err: int = -1
    polled: bool = False
    enabled: bool = False
    started: bool = False


class Rings:
    """All rings of one front-end, in the memory of ``regions``."""

    def __init__(
        self,
        device: VhostUserDevice,
        loop: EventLoop,
        *,
        regions: Regions,
        inflight: InflightTables,
        log: FrontEndLog,
    ) -> None:
        self.all = [Ring(index) for index in range(device.queue_count)]
        self.always_enabled = True
        """Whether the front-end knows nothing of ``SET_VRING_ENABLE``: protocol features were not agreed on."""
        self._device = device
        self._loop = loop
        self._regions = regions
        self._inflight = inflight
        self._log = log
        device.on_used, device.on_broken = self._used, self._broken

    def handlers(self) -> dict[Request, Serve]:
        """Return what serves the messages about rings."""
        r = Request
        return {
            r.GET_QUEUE_NUM: lambda _message: U64(self._device.front_end_queues),
            r.SET_VRING_NUM: self._set_num,
            r.SET_VRING_ADDR: self._set_addr,
            r.SET_VRING_BASE: self._set_base,
            r.GET_VRING_BASE: self._get_base,
            r.SET_VRING_KICK: self._set_kick,
            r.SET_VRING_CALL: self._set_call,
            r.SET_VRING_ERR: self._set_err,
            r.SET_VRING_ENABLE: self._enable,
        }

    # serving

    def timeout(self) -> float | None:
        """Return how long the loop may wait."""
        return POLL_S if any(ring.polled and self._active(ring) for ring in self.all) else None

    def serve(self) -> bool:
        """Serve what has been kicked; return whether more can be done without waiting."""
        device = self._device
        for ring in self.all:
            if ring.polled:
                device.pending.add(ring.index)
        for index in sorted(device.pending):
            device.pending.discard(index)
            if self._active(self.all[index]) and device.doorbell(index):
                device.pending.add(index)
        return bool(device.pending)

    def _active(self, ring: Ring) -> bool:
        return ring.started and (ring.enabled or self.always_enabled)

    def _kicked(self, ring: Ring) -> None:
        try:
            if not os.read(ring.kick, 8):
                self._drop_kick(ring)
        except BlockingIOError:
            pass
        except OSError:
            self._drop_kick(ring)
        if not ring.started:
            try:
                self._start(ring)
            except (ProtocolError, HostError) as error:
                logger.warning("ring %s: %s", ring.index, error.message)
                self._drop_kick(ring)
                return
        self._device.ring(ring.index)

    # notifications

    def _used(self, index: int) -> None:
        self._signal(self.all[index].call)

    def _broken(self, index: int) -> None:
        self._signal(self.all[index].err)

    def _signal(self, fd: int) -> None:
        if fd < 0:
            return
        try:
            os.eventfd_write(fd, 1)
        except BlockingIOError:
            pass  # it is full, so somebody will look
        except OSError:
            self._device.counters["lost_calls"] += 1

    # setting up

    @property
    def _kind(self) -> RingKind:
        return kind(self._device.negotiated)

    def _ring(self, index: int) -> Ring:
        if index >= len(self.all):
            raise Malformed(f"ring {index}, there are {len(self.all)}")
        return self.all[index]

    def _stopped(self, index: int) -> Ring:
        ring = self._ring(index)
        if ring.started:
            raise Malformed(f"ring {index} is running")
        return ring

    def _set_num(self, message: Message) -> None:
        state = message.get(VringState)
        if not self._kind.fits(state.num):
            raise Malformed(f"ring of {state.num} descriptors; at most {QUEUE_MAX}, if not packed a power of two")
        self._stopped(state.index).size = state.num

    def _set_base(self, message: Message) -> None:
        state = message.get(VringState)
        if state.num > 0xFFFF and self._kind is SplitQueue:  # packed: two positions with their wrap counters
            raise Malformed(f"ring position {state.num:#x}")
        self._stopped(state.index).base = state.num

    def _set_addr(self, message: Message) -> None:
        addr = message.get(VringAddr)
        ring = self._ring(addr.index)
        old = ring.addr
        if ring.started and old and (old.desc, old.avail, old.used) != (addr.desc, addr.avail, addr.used):
            raise Malformed(f"ring {addr.index} is running elsewhere")
        if ring.started and old and (old.flags, old.log) != (addr.flags, addr.log):
            self._stop(ring)
            ring.addr = addr
            self._start(ring)
        ring.addr = addr

    def _enable(self, message: Message) -> None:
        state = message.get(VringState)
        if state.num > 1:
            raise Malformed(f"SET_VRING_ENABLE {state.num}")
        ring = self._ring(state.index)
        ring.enabled = bool(state.num)
        self._device.ring_enabled(ring.index, ring.enabled or self.always_enabled)
        self._device.pending.add(ring.index)

    def _set_kick(self, message: Message) -> None:
        word = message.get(U64)
        ring = self._ring(word.index)
        self._drop_kick(ring)
        ring.polled = word.no_fd
        fd = message.take_fd()
        if fd >= 0:
            try:
                os.set_blocking(fd, False)
                self._loop.watch(fd, partial(self._kicked, ring))
            except OSError as error:
                os.close(fd)
                raise Malformed(f"kick of ring {ring.index}: {error.strerror}") from error
            ring.kick = fd
        if ring.addr is not None and not ring.started:
            self._start(ring)
        self._device.pending.add(ring.index)  # there may be requests of before

    def _drop_kick(self, ring: Ring) -> None:
        ring.polled = False
        if ring.kick >= 0:
            self._loop.unwatch(ring.kick)
            os.close(ring.kick)
            ring.kick = -1

    def _set_call(self, message: Message) -> None:
        ring = self._ring(message.get(U64).index)
        _close(ring.call)
        ring.call = _event(message)
        self._signal(ring.call)  # what was used under the old one may not have been told

    def _set_err(self, message: Message) -> None:
        ring = self._ring(message.get(U64).index)
        _close(ring.err)
        ring.err = _event(message)

    # starting and stopping

    @property
    def running(self) -> bool:
        """Whether a ring has been started."""
        return any(ring.started for ring in self.all)

    def _start(self, ring: Ring) -> None:
        addr = ring.addr
        if addr is None or not ring.size:
            raise Malformed(f"ring {ring.index} has no {'size' if addr else 'addresses'}")
        wanted = zip((addr.desc, addr.avail, addr.used), self._kind.areas(ring.size), strict=True)
        places = [self._regions.translate(uaddr, length) for uaddr, length in wanted]
        desc, avail, used = places
        if desc is None or avail is None or used is None:
            raise Malformed(f"ring {ring.index} is not in memory")
        if any(place % alignment for place, alignment in zip((desc, avail, used), self._kind.alignment, strict=True)):
            raise Malformed(f"ring {ring.index} is misaligned")
        self._device.claim()
        memory = self._regions.memory
        table = self._inflight.table(ring.index, ring.size)
        log = self._log.for_ring(addr.flags, addr.log, memory.base + memory.size)
        make = make_logged(log) if log else make_queue
        self._device.start_ring(ring.index, ring.size, (desc, avail, used), ring.base, table, make)
        ring.started = True

    def _stop(self, ring: Ring) -> None:
        if ring.started:
            ring.base = self._device.stop_ring(ring.index)
            ring.started = False

    def _get_base(self, message: Message) -> VringState:
        ring = self._ring(message.get(VringState).index)
        self._stop(ring)
        self._drop_kick(ring)
        self._unclaim()
        return VringState(ring.index, ring.base)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all rings that run for as long as the caller changes what they use; they go on where they were."""
        running = [ring for ring in self.all if ring.started]
        self._device.drain()
        for ring in running:
            self._stop(ring)
        try:
            yield
        finally:
            for ring in running:
                self._start(ring)

    def reset(self) -> None:
        """Finish everything, and return all rings to where they were after connecting; positions and calls stay.

        QEMU 7.2 stops a guest with ``SET_STATUS`` 0, and asks for the positions thereafter.
        """
        for ring in self.all:
            self._stop(ring)
            self._drop_kick(ring)
            ring.enabled = False
            self._device.ring_enabled(ring.index, self.always_enabled)
            ring.size = 0
            ring.addr = None
        self._unclaim()

    def _unclaim(self) -> None:
        if not self.running:
            self._device.unclaim()

    def forget_positions(self) -> None:
        """Let all rings begin at 0."""
        for ring in self.all:
            ring.base = 0

    def close(self) -> None:
        """Close what came with the rings, which have been reset."""
        for ring in self.all:
            _close(ring.call)
            _close(ring.err)


def _event(message: Message) -> int:
    """Take the descriptor of an event; writing to it must not hold us."""
    fd = message.take_fd()
    if fd >= 0:
        os.set_blocking(fd, False)
    return fd


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
