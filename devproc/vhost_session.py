"""A virtio device for a vhost-user front-end: its messages, on a device over ``virtio_vhost_user``.

One ``Session`` lasts as long as a front-end's connection. Rings, memory and in-flight tables are modules of their own;
here are the connection, features, config space, status and reset. All of it runs on the thread of the event loop.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from devproc.events import EventLoop
from devproc.rings import kind
from devproc.vhost_inflight import InflightTables
from devproc.vhost_log import FrontEndLog
from devproc.vhost_memory import FrontEndMemory
from devproc.vhost_rings import Rings
from protocol.errors import HostError, Malformed, PeerGone, ProtocolError
from protocol.vhost_user.back_end import BackEnd, Serve
from protocol.vhost_user.connection import Connection, Message
from protocol.vhost_user.messages import (
    BACK_END,
    LOG_ALL,
    PROTOCOL_FEATURES,
    BackendRequest,
    ProtocolFeature,
    Request,
)
from protocol.vhost_user.payloads import U64, ConfigSpace
from protocol.vhost_user.regions import Regions

if TYPE_CHECKING:
    from devproc.vhost_rings import VhostUserDevice

logger = logging.getLogger(__name__)

_P = ProtocolFeature
OFFERED = (
    _P.MQ
    | _P.LOG_SHMFD
    | _P.REPLY_ACK
    | _P.BACKEND_REQ
    | _P.CONFIG
    | _P.INFLIGHT_SHMFD
    | _P.RESET_DEVICE
    | _P.CONFIGURE_MEM_SLOTS
    | _P.STATUS
)
_BURST = 64  # messages served before the loop looks at rings again


class Session:
    """One front-end's connection."""

    def __init__(self, device: VhostUserDevice, loop: EventLoop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.device = device
        self.ended = False
        self._loop = loop
        self._regions = Regions()
        self._inflight = InflightTables(device.queue_count, lambda: kind(device.negotiated))
        self._log = FrontEndLog()
        self.rings = Rings(device, loop, regions=self._regions, inflight=self._inflight, log=self._log)
        self._memory = FrontEndMemory(device, self._regions, self.rings)
        self._channel: Connection | None = None
        device.on_config = self._config_changed
        self.back_end = BackEnd(
            Connection(sock), self._handlers(), features=lambda: device.offered | LOG_ALL, protocol_features=OFFERED
        )
        loop.watch(sock.fileno(), self._readable)

    def _handlers(self) -> dict[Request, Serve]:
        r = Request
        own: dict[Request, Serve] = {
            r.SET_OWNER: lambda _message: None,
            r.RESET_OWNER: lambda _message: None,  # deprecated, and of no meaning any more
            r.SET_FEATURES: self._set_features,
            r.GET_CONFIG: self._get_config,
            r.SET_CONFIG: self._set_config,
            r.SET_LOG_BASE: self._set_log,
            r.SET_LOG_FD: self._log.set_event,
            r.SET_BACKEND_REQ_FD: self._set_channel,
            r.GET_INFLIGHT_FD: self._inflight.make,
            r.SET_INFLIGHT_FD: self._set_inflight,
            r.RESET_DEVICE: self._reset_device,
            r.SET_STATUS: self._set_status,
            r.GET_STATUS: lambda _message: U64(self.device.device_status),
        }
        return own | self.rings.handlers() | self._memory.handlers()

    # the connection

    def _readable(self) -> None:
        try:
            for _ in range(_BURST):
                if not self.back_end.step():
                    return
        except PeerGone as error:
            logger.info("front-end: %s", error.message)
            self.ended = True
        except (ProtocolError, HostError) as error:
            logger.warning("front-end: %s; hanging up", error.message)
            self.ended = True

    def serve(self) -> bool:
        """Serve the rings; return whether more can be done without waiting."""
        more = self.rings.serve()
        if self._regions.torn or self._inflight.torn or self._log.torn:
            logger.error("front-end: it has made shared memory shorter; hanging up")
            self.ended = more = True
        return more

    def close(self) -> None:
        """Finish host I/O, and give up everything that came over the connection."""
        self._loop.unwatch(self.back_end.connection.fileno())
        self._reset()
        self.device.fit()
        self._memory.close()
        self.rings.close()
        self._inflight.close()
        self._log.close()
        if self._channel is not None:
            self._channel.close()
        self.back_end.connection.close()

    # the channel for our own messages

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
        self.device.accept(features & ~(PROTOCOL_FEATURES | LOG_ALL))
        self.rings.always_enabled = not features & PROTOCOL_FEATURES
        everything = bool(features & LOG_ALL)
        if everything != self._log.everything:
            with self.rings.paused():
                self._log.everything = everything

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

    def _set_inflight(self, message: Message) -> None:
        if self.rings.running:
            raise Malformed("SET_INFLIGHT_FD while rings are running")
        self._inflight.take(message)

    def _set_log(self, message: Message) -> U64:
        with self.rings.paused():
            return self._log.set_base(message)

    def _set_status(self, message: Message) -> None:
        status = message.get(U64).value
        if status == 0:
            self._reset()
        else:
            self.device.set_status(status)

    def _reset_device(self, _message: Message) -> None:
        self._reset()
        self.rings.forget_positions()

    def _reset(self) -> None:
        """Return device and rings to where they were after connecting; memory and calls stay."""
        self.rings.reset()
        self.device.set_status(0)
        self._log.reset()
