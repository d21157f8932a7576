"""The front-end's half: asks a back-end, waits for its answers, gives it memory and rings.

A back-end may ask too, on the channel of ``listen``, and may wait for its answer before it gives one: while ``ask`` and
``tell`` wait they acknowledge what comes there, and ``hear`` tells of it afterwards.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from protocol.errors import PeerGone
from protocol.vhost_user.connection import BadMessage, Connection, Message
from protocol.vhost_user.messages import (
    BACK_END,
    PROTOCOL_FEATURES,
    BackendRequest,
    Flag,
    Kind,
    ProtocolFeature,
    Request,
)
from protocol.vhost_user.payloads import (
    NOTHING,
    U64,
    ConfigSpace,
    Inflight,
    MemTable,
    Payload,
    Region,
    SingleRegion,
    VringAddr,
    VringState,
)

P = TypeVar("P", bound=Payload)


class FrontEnd:
    """One conversation with a back-end; every call waits for at most ``timeout_s``."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 10.0) -> None:
        sock.settimeout(timeout_s)
        self.connection = Connection(sock, BACK_END)
        self.channel: Connection | None = None
        """Where the back-end asks, after ``listen``."""
        self.offered = 0
        self.features = 0
        self.protocol_features = ProtocolFeature(0)
        self._timeout_s = timeout_s
        self.heard: list[Kind] = []
        """What the back-end has asked and ``hear`` has not told yet."""

    @classmethod
    def connect(cls, path: Path, *, timeout_s: float = 10.0) -> Self:
        """Connect to the socket at ``path``.

        Raises:
            PeerGone: nobody listens there.
        """
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise PeerGone(f"{path}: {error.strerror}") from error
        return cls(sock, timeout_s=timeout_s)

    def close(self) -> None:
        """End the conversation."""
        self.connection.close()
        if self.channel is not None:
            self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # any request

    def ask(self, request: Request, payload: Payload = NOTHING, fds: Sequence[int] = ()) -> Message:
        """Send a request that has an answer, and return it."""
        kind = request
        self.connection.send(kind, payload, fds)
        self._await(kind)
        return self.connection.receive_reply(kind)

    def tell(self, request: Request, payload: Payload = NOTHING, fds: Sequence[int] = ()) -> None:
        """Send a request without an answer; with REPLY_ACK, wait until it is done.

        Raises:
            Refused: the back-end says no.
        """
        kind = request
        acknowledged = ProtocolFeature.REPLY_ACK in self.protocol_features
        self.connection.send(kind, payload, fds, flags=Flag.NEED_REPLY if acknowledged else 0)
        if acknowledged:
            self._await(kind)
            self.connection.receive_reply(kind, ack=True).close()

    def _await(self, kind: Kind) -> None:
        """Wait for an answer, and acknowledge what the back-end asks meanwhile."""
        if self.channel is None:
            return  # the connection's own timeout will do
        deadline = time.monotonic() + self._timeout_s
        while True:
            both = [self.connection, self.channel]
            ready, _, _ = select.select(both, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise PeerGone(f"no answer to {kind.name}")
            if self.connection in ready:
                return
            self._acknowledge()

    def _payload(self, request: Request, layout: type[P], payload: Payload = NOTHING) -> P:
        with self.ask(request, payload) as answer:
            if not isinstance(answer.payload, layout):
                raise BadMessage(f"{answer.kind.name} with another payload", number=request, flags=answer.flags)
            return answer.payload

    def word(self, request: Request) -> int:
        """Return the word that answers a request."""
        return self._payload(request, U64).value

    # the usual ones

    def negotiate(self, features: int, protocol_features: ProtocolFeature) -> None:
        """Agree on what both sides have of these virtio and protocol features."""
        self.accept(self.meet(protocol_features) & features)

    def meet(self, protocol_features: ProtocolFeature) -> int:
        """Agree on protocol features and own the back-end; return the virtio features that it offers."""
        self.offered = self.word(Request.GET_FEATURES)
        if self.offered & PROTOCOL_FEATURES:
            both = protocol_features & ProtocolFeature(self.word(Request.GET_PROTOCOL_FEATURES))
            self.tell(Request.SET_PROTOCOL_FEATURES, U64(int(both)))
            self.protocol_features = both
        self.tell(Request.SET_OWNER)
        return self.offered & ~PROTOCOL_FEATURES

    def accept(self, features: int) -> None:
        """Tell which of the virtio features are in force, once the driver has chosen."""
        self.features = features | self.offered & PROTOCOL_FEATURES
        self.tell(Request.SET_FEATURES, U64(self.features))

    def config(self, size: int, offset: int = 0) -> bytes:
        """Return a part of the device's config space; empty when the back-end refuses."""
        return self._payload(Request.GET_CONFIG, ConfigSpace, ConfigSpace(offset, 0, bytes(size))).data

    def set_config(self, offset: int, data: bytes) -> None:
        """Write to the device's config space."""
        self.tell(Request.SET_CONFIG, ConfigSpace(offset, 0, data))

    def share(self, regions: Iterable[tuple[Region, int]]) -> None:
        """Give the back-end all memory there is, each region with its descriptor."""
        pairs = list(regions)
        self.tell(Request.SET_MEM_TABLE, MemTable(tuple(region for region, _ in pairs)), [fd for _, fd in pairs])

    def add_region(self, region: Region, fd: int) -> None:
        """Give the back-end one more region."""
        self.tell(Request.ADD_MEM_REG, SingleRegion(region), [fd])

    def remove_region(self, region: Region) -> None:
        """Take a region back."""
        self.tell(Request.REM_MEM_REG, SingleRegion(region))

    def start_ring(
        self, index: int, size: int, rings: tuple[int, int, int], kick: int, call: int, base: int = 0, err: int = -1
    ) -> None:
        """Set up and enable a ring; ``rings`` are descriptors, available and used ring in this process's addresses.

        ``kick``, ``call`` and ``err`` are eventfds: buffers are available, are used, the ring is broken.
        """
        desc, avail, used = rings
        self.tell(Request.SET_VRING_NUM, VringState(index, size))
        self.tell(Request.SET_VRING_BASE, VringState(index, base))
        self.tell(Request.SET_VRING_ADDR, VringAddr(index, 0, desc, used, avail, 0))
        if err >= 0:
            self.tell(Request.SET_VRING_ERR, U64(index), [err])
        self.tell(Request.SET_VRING_CALL, U64(index), [call])
        self.tell(Request.SET_VRING_KICK, U64(index), [kick])
        if self.features & PROTOCOL_FEATURES:
            self.tell(Request.SET_VRING_ENABLE, VringState(index, 1))

    def stop_ring(self, index: int) -> int:
        """Stop a ring and return the next position in its available ring."""
        return self._payload(Request.GET_VRING_BASE, VringState, VringState(index, 0)).num

    def inflight(self, num_queues: int, queue_size: int) -> tuple[Inflight, int]:
        """Return fresh in-flight tables and their descriptor, which is the caller's."""
        wanted = Inflight(0, 0, num_queues, queue_size)
        with self.ask(Request.GET_INFLIGHT_FD, wanted) as answer:
            if not isinstance(answer.payload, Inflight) or not answer.fds:
                raise BadMessage("GET_INFLIGHT_FD without tables", number=answer.kind, flags=answer.flags)
            return answer.payload, answer.take_fd()

    def back_channel(self) -> Connection:
        """Give the back-end a socket for its own requests, and return the end to read them from."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mine.settimeout(self.connection.socket.gettimeout())
        try:
            self.tell(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return Connection(mine, BACK_END)

    def listen(self) -> Connection:
        """Have the back-end ask on a channel that ``hear`` attends to, and return it to be watched."""
        self.channel = self.back_channel()
        return self.channel

    def hear(self) -> list[Kind]:
        """Return what the back-end has asked since the last call; it has its answer already.

        Raises:
            Malformed: what it asks is none of the protocol's requests.
            PeerGone: it has closed the channel.
        """
        while self.channel is not None and select.select([self.channel], [], [], 0)[0]:
            self._acknowledge()
        heard, self.heard = self.heard, []
        return heard

    def _acknowledge(self) -> None:
        """Take one request of the back-end; of those with an answer only a change of the config space is done here."""
        channel = self.channel
        message = channel.receive() if channel is not None else None
        if channel is None or message is None:
            return
        with message:
            self.heard.append(message.kind)
            if message.wants_ack or message.kind.row.reply is not None:
                channel.acknowledge(message.kind, done=message.kind == BackendRequest.CONFIG_CHANGE_MSG)


def event() -> int:
    """Return an eventfd as front-ends give them for kick and call."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
