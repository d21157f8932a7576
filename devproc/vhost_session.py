"""A virtio device for a vhost-user front-end: its messages, on a device over ``virtio_vhost_user``.

One ``Session`` lasts as long as a front-end's connection and holds what came over it: memory, in-flight tables, and
per ring its setup and descriptors. All of it runs on the thread of the event loop; changes of memory and rings first
finish host I/O (``drain``), because it goes straight to and from guest memory.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from devproc import rings
from devproc.events import EventLoop
from devproc.split_queue import SplitQueue
from devproc.virtio import VirtioDevice
from devproc.virtio_vhost_user import VirtioVhostUser
from devproc.virtqueue import QUEUE_MAX
from protocol.errors import HostError, Malformed, PeerGone, ProtocolError
from protocol.memory import Shared
from protocol.vhost_user.back_end import Answer, BackEnd, Serve
from protocol.vhost_user.connection import Connection, Message
from protocol.vhost_user.messages import BACK_END, PROTOCOL_FEATURES, BackendRequest, ProtocolFeature, Request
from protocol.vhost_user.payloads import (
    U64,
    ConfigSpace,
    Inflight,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)
from protocol.vhost_user.regions import Regions

logger = logging.getLogger(__name__)

_P = ProtocolFeature
OFFERED = (
    _P.MQ
    | _P.REPLY_ACK
    | _P.BACKEND_REQ
    | _P.CONFIG
    | _P.INFLIGHT_SHMFD
    | _P.RESET_DEVICE
    | _P.CONFIGURE_MEM_SLOTS
    | _P.STATUS
)
MEMORY_SLOTS = 64
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


class Session:
    """One front-end's connection."""

    def __init__(self, device: VhostUserDevice, loop: EventLoop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.device = device
        self.ended = False
        self._loop = loop
        self._rings = [Ring(index) for index in range(device.queue_count)]
        self._regions = Regions()
        self._inflight: Shared | None = None
        self._tables: tuple[int, Inflight] | None = None
        self._channel: Connection | None = None
        self._all_enabled = True
        device.machine.memory = self._regions.memory
        device.on_used, device.on_config, device.on_broken = self._used, self._config_changed, self._broken
        self.back_end = BackEnd(
            Connection(sock), self._handlers(), features=lambda: device.offered, protocol_features=OFFERED
        )
        loop.watch(sock.fileno(), self._readable)

    def _handlers(self) -> dict[Request, Serve]:
        r = Request
        return {
            r.SET_OWNER: lambda _message: None,
            r.RESET_OWNER: lambda _message: None,  # deprecated, and of no meaning any more
            r.SET_FEATURES: self._set_features,
            r.GET_QUEUE_NUM: lambda _message: U64(self.device.queue_count),
            r.GET_CONFIG: self._get_config,
            r.SET_CONFIG: self._set_config,
            r.SET_MEM_TABLE: self._set_mem_table,
            r.GET_MAX_MEM_SLOTS: lambda _message: U64(MEMORY_SLOTS),
            r.ADD_MEM_REG: self._add_region,
            r.REM_MEM_REG: self._remove_region,
            r.SET_VRING_NUM: self._set_num,
            r.SET_VRING_ADDR: self._set_addr,
            r.SET_VRING_BASE: self._set_base,
            r.GET_VRING_BASE: self._get_base,
            r.SET_VRING_KICK: self._set_kick,
            r.SET_VRING_CALL: self._set_call,
            r.SET_VRING_ERR: self._set_err,
            r.SET_VRING_ENABLE: self._enable,
            r.SET_BACKEND_REQ_FD: self._set_channel,
            r.GET_INFLIGHT_FD: self._get_inflight,
            r.SET_INFLIGHT_FD: self._set_inflight,
            r.RESET_DEVICE: lambda _message: self._reset(),
            r.SET_STATUS: self._set_status,
            r.GET_STATUS: lambda _message: U64(self.device.device_status),
        }

    # the connection

    def _readable(self) -> None:
        try:
            for _ in range(64):
                if not self.back_end.step():
                    return
        except PeerGone as error:
            logger.info("front-end: %s", error.message)
            self.ended = True
        except (ProtocolError, HostError) as error:
            logger.warning("front-end: %s; hanging up", error.message)
            self.ended = True

    def close(self) -> None:
        """Finish host I/O, and give up everything that came over the connection."""
        self._loop.unwatch(self.back_end.connection.fileno())
        self._reset()
        device = self.device
        device.fit()
        self._regions.close()
        device.machine.memory = self._regions.memory
        for ring in self._rings:
            _close(ring.call)
            _close(ring.err)
        if self._inflight is not None:
            self._inflight.close()
        if self._channel is not None:
            self._channel.close()
        self.back_end.connection.close()

    # serving

    def timeout(self) -> float | None:
        """Return how long the loop may wait."""
        return POLL_S if any(ring.polled and self._active(ring) for ring in self._rings) else None

    def serve(self) -> bool:
        """Serve what has been kicked; return whether more can be done without waiting."""
        device = self.device
        for ring in self._rings:
            if ring.polled:
                device.pending.add(ring.index)
        for index in sorted(device.pending):
            device.pending.discard(index)
            if self._active(self._rings[index]) and device.doorbell(index):
                device.pending.add(index)
        return bool(device.pending)

    def _active(self, ring: Ring) -> bool:
        return ring.started and (ring.enabled or self._all_enabled)

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
            except ProtocolError as error:
                logger.warning("ring %s: %s", ring.index, error.message)
                self._drop_kick(ring)
                return
        self.device.pending.add(ring.index)

    # notifications

    def _used(self, index: int) -> None:
        self._signal(self._rings[index].call)

    def _broken(self, index: int) -> None:
        self._signal(self._rings[index].err)

    def _signal(self, fd: int) -> None:
        if fd < 0:
            return
        try:
            os.eventfd_write(fd, 1)
        except BlockingIOError:
            pass  # it is full, so somebody will look
        except OSError:
            self.device.counters["lost_calls"] += 1

    def _config_changed(self) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(BackendRequest.CONFIG_CHANGE_MSG)
        except PeerGone:
            self._channel.close()
            self._channel = None

    def _set_channel(self, message: Message) -> None:
        fd = message.take_fd()
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            os.close(fd)
            raise Malformed(f"the back-end's channel is no socket: {error.strerror}") from error
        sock.setblocking(False)
        if self._channel is not None:
            self._channel.close()
        self._channel = Connection(sock, BACK_END)

    # features, config space, status

    def _set_features(self, message: Message) -> None:
        features = message.get(U64).value
        self.device.accept(features & ~PROTOCOL_FEATURES)
        self._all_enabled = not features & PROTOCOL_FEATURES

    def _get_config(self, message: Message) -> ConfigSpace:
        wanted = message.get(ConfigSpace)
        start = self.device.images[0] + wanted.offset
        return ConfigSpace(wanted.offset, wanted.flags, self.device.shared.bytes(start, len(wanted.data)))

    def _set_config(self, message: Message) -> None:
        new = message.get(ConfigSpace)
        if new.offset + len(new.data) > self.device.config_size:
            raise Malformed(f"SET_CONFIG of {len(new.data)} bytes at {new.offset}")
        place, data = new.offset, new.data
        while data:
            size = next(size for size in (8, 4, 2, 1) if not place % size and size <= len(data))
            self.device.write(0, place, size, int.from_bytes(data[:size], "little"))
            place, data = place + size, data[size:]

    def _set_status(self, message: Message) -> None:
        status = message.get(U64).value
        if status == 0:
            self._reset()
        else:
            self.device.set_status(status)

    def _reset(self) -> None:
        """Return device and rings to where they were after connecting; memory and calls stay."""
        self.device.set_status(0)
        for ring in self._rings:
            self._drop_kick(ring)
            ring.started = ring.enabled = False
            ring.size = ring.base = 0
            ring.addr = None

    # memory

    def _set_mem_table(self, message: Message) -> None:
        regions = message.get(MemTable).regions
        pairs = [(region, message.take_fd()) for region in regions]
        self._exchange(lambda: self._regions.set(pairs))

    def _add_region(self, message: Message) -> None:
        if len(self._regions.all) >= MEMORY_SLOTS:
            raise Malformed(f"more than {MEMORY_SLOTS} regions")
        fd = message.take_fd()
        self._exchange(lambda: self._regions.add(message.get(SingleRegion).region, fd))

    def _remove_region(self, message: Message) -> None:
        self._exchange(lambda: self._regions.remove(message.get(SingleRegion).region))

    def _exchange(self, change: Callable[[], None]) -> None:
        """Change the memory while no ring uses it; rings go on where they were."""
        running = [ring for ring in self._rings if ring.started]
        self.device.drain()
        for ring in running:
            ring.base = self.device.stop_ring(ring.index)
            ring.started = False
        try:
            change()
        finally:
            self.device.machine.memory = self._regions.memory
            for ring in running:
                self._start(ring)

    # rings

    @property
    def _kind(self) -> rings.RingKind:
        return rings.kind(self.device.negotiated)

    def _ring(self, index: int) -> Ring:
        if index >= len(self._rings):
            raise Malformed(f"ring {index}, there are {len(self._rings)}")
        return self._rings[index]

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
        ring.addr = addr

    def _get_base(self, message: Message) -> VringState:
        ring = self._ring(message.get(VringState).index)
        if ring.started:
            ring.base = self.device.stop_ring(ring.index)
            ring.started = False
        self._drop_kick(ring)
        return VringState(ring.index, ring.base)

    def _enable(self, message: Message) -> None:
        state = message.get(VringState)
        if state.num > 1:
            raise Malformed(f"SET_VRING_ENABLE {state.num}")
        self._ring(state.index).enabled = bool(state.num)
        self.device.pending.add(state.index)

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
        self.device.pending.add(ring.index)  # there may be requests of before

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
        self.device.start_ring(ring.index, ring.size, (desc, avail, used), ring.base, self._table(ring))
        ring.started = True

    # in-flight tables

    def _table(self, ring: Ring) -> tuple[Shared, int] | None:
        if self._inflight is None or self._tables is None or ring.index >= self._tables[1].num_queues:
            return None
        offset, tables = self._tables
        if ring.size > tables.queue_size:
            raise Malformed(f"ring {ring.index} of {ring.size}, in-flight tables for {tables.queue_size}")
        stride = self._stride(tables.queue_size)
        if stride * tables.num_queues > tables.mmap_size:
            raise Malformed("in-flight tables for another kind of ring")
        return self._inflight, offset + ring.index * stride

    def _stride(self, entries: int) -> int:
        return -(-self._kind.Table.size(entries) // 64) * 64

    def _get_inflight(self, message: Message) -> Answer:
        wanted = message.get(Inflight)
        if not 1 <= wanted.num_queues <= self.device.queue_count or not 1 <= wanted.queue_size <= QUEUE_MAX:
            raise Malformed(f"in-flight tables for {wanted.num_queues} rings of {wanted.queue_size}")
        size = wanted.num_queues * self._stride(wanted.queue_size)
        fd = os.memfd_create("busvm-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        _seal(fd)
        return Answer(Inflight(size, 0, wanted.num_queues, wanted.queue_size), (fd,), lambda: os.close(fd))

    def _set_inflight(self, message: Message) -> None:
        tables = message.get(Inflight)
        if any(ring.started for ring in self._rings):
            raise Malformed("SET_INFLIGHT_FD while rings are running")
        needed = tables.num_queues * self._stride(tables.queue_size)
        if tables.mmap_offset % 64 or needed > tables.mmap_size:
            raise Malformed(f"in-flight tables {tables} of {needed} bytes")
        fd = message.take_fd()
        try:
            shared = Shared(fd, tables.mmap_offset + tables.mmap_size)
        except (HostError, OSError) as error:
            os.close(fd)
            raise Malformed(f"in-flight tables: {error}") from error
        if self._inflight is not None:
            self._inflight.close()
        self._inflight, self._tables = shared, (tables.mmap_offset, tables)


def _seal(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _event(message: Message) -> int:
    """Take the descriptor of an event; writing to it must not hold us."""
    fd = message.take_fd()
    if fd >= 0:
        os.set_blocking(fd, False)
    return fd


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
