"""A stream socket as a wire: QEMU's ``-netdev stream`` and ``-netdev socket``, each frame behind its length.

Connecting or listening, over UNIX or TCP. Who connects tries again when the other end has gone; who listens takes the
next that comes. Without a peer frames are lost, as on a wire that is not plugged in.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from devproc.alarm import Alarm
from devproc.descriptors import WRITE, Descriptors
from devproc.listening import Socket
from devproc.network.address import Address
from devproc.network.backend import Base, Buffer, Card, Pieces
from devproc.network.features import GUEST, HOST, NetFeature
from devproc.network.framing import Framing, Sink
from devproc.network.whole import Whole
from protocol.errors import HostError

logger = logging.getLogger(__name__)

RECONNECT_S = 1.0
_NOT = NetFeature.HOST_UFO | NetFeature.GUEST_UFO  # nobody could cut them for a peer that does not take them
_SOCKET_BUFFER = 1 << 20  # room for a burst of the largest frames, where the host allows it


class Connector:
    """Connects to an address, again and again until it has: ``connected`` gets the socket."""

    def __init__(
        self,
        address: Address,
        descriptors: Descriptors,
        connected: Callable[[socket.socket], None],
        again_s: float = RECONNECT_S,
    ) -> None:
        self.address = address
        self._descriptors = descriptors
        self._done = connected
        self._again_s = again_s
        self._alarm = Alarm()
        self._peer: socket.socket | None = None
        descriptors.watch(self._alarm.fd, self._rang)

    def connect(self) -> None:
        """Try it."""
        peer = socket.socket(self.address.family, socket.SOCK_STREAM)
        peer.setblocking(False)
        failed = peer.connect_ex(self.address.place)
        if failed == errno.EINPROGRESS:
            self._peer = peer
            self._descriptors.watch(peer.fileno(), self._answered, WRITE)
        elif failed:
            peer.close()
            self.later()
        else:
            self._done(peer)

    def _answered(self, _events: int) -> None:
        peer, self._peer = self._peer, None
        assert peer is not None
        self._descriptors.unwatch(peer.fileno())
        if peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            peer.close()
            self.later()
        else:
            self._done(peer)

    def later(self) -> None:
        """Try it after a while."""
        self._alarm.set(self._again_s)

    def _rang(self, _events: int) -> None:
        self._alarm.acknowledge()
        if self._peer is None:
            self.connect()

    def close(self) -> None:
        """Try no more."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._alarm.close()


class Stream(Base):
    """One end of a stream; with ``headers`` both ends are ours and frames keep the header of virtio-net."""

    def __init__(
        self, address: Address, *, server: bool = False, reconnect_s: float = RECONNECT_S, headers: bool = False
    ) -> None:
        """Listen, if that is wanted.

        Raises:
            HostError: the address cannot be listened at.
        """
        self.address = address
        self.offloads = int((HOST | GUEST) & ~_NOT) if headers else 0
        self._headers = headers
        self._reconnect_s = reconnect_s
        self._place = Place.at(address) if server else None
        self._connector: Connector | None = None
        self._framing: Framing | None = None
        self._wanted = True
        self._counters = {"connections": 0, "frames_without_peer": 0}

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Wait for the peer, or look for it."""
        self._descriptors = descriptors
        self._whole = Whole(card, self._counters) if self._headers else None
        self._sink: Sink = self._whole or card
        if self._place:
            descriptors.watch(self._place.fileno(), self._accept)
        else:
            self._connector = Connector(self.address, descriptors, self._plug, self._reconnect_s)
            self._connector.connect()

    # the connection

    def _accept(self, _events: int) -> None:
        assert self._place is not None
        try:
            peer, _ = self._place.accept()
        except OSError:
            return
        if self._framing is not None:
            peer.close()  # a wire has two ends
            return
        self._plug(peer)

    def _plug(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._counters["connections"] += 1
        self._framing = Framing(
            peer, self._descriptors, self._sink, self._ended, self._counters, headers=self._headers,
            listening=self._wanted,
        )  # fmt: skip

    def _ended(self, reason: str) -> None:
        logger.info("%s: the other end %s", self.address, reason)
        self._framing = None
        if self._whole:
            self._whole.forget()
        if self._connector:
            self._connector.later()

    # frames

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Send a frame; without a peer it is lost."""
        if self._framing is None:
            self._counters["frames_without_peer"] += 1
            return True
        return self._framing.send(header, frame)

    def flush(self) -> None:
        """Send what has gathered."""
        if self._framing is not None:
            self._framing.flush()

    def listen(self, *, wanted: bool) -> None:
        """Read from the peer, or leave it waiting."""
        self._wanted = wanted
        if self._framing is not None:
            self._framing.listen(wanted=wanted)

    def agree(self, features: int) -> None:
        """Do for the driver what it has not agreed to."""
        if self._whole:
            self._whole.agree(features)

    def counters(self) -> dict[str, int]:
        """Return what was lost."""
        return dict(self._counters)

    def describe(self) -> str:
        """Say where it leads."""
        return f"stream {'at' if self._place else 'to'} {self.address}{'' if self._framing else ', nobody there'}"

    def close(self) -> None:
        """Close everything."""
        if self._framing is not None:
            self._framing.close()
            self._framing = None
        if self._connector:
            self._connector.close()
        if self._place:
            self._place.close()


class Place:
    """Where peers connect: a UNIX socket of this user's alone, or a TCP port."""

    def __init__(self, listener: socket.socket, named: Socket | None) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._named = named

    @classmethod
    def at(cls, address: Address) -> Place:
        """Listen.

        Raises:
            HostError: somebody listens there already, or the host does not let us.
        """
        if address.path:
            named = Socket.at(Path(address.path))
            return cls(named.socket, named)
        try:
            return cls(socket.create_server((address.host, address.port), family=address.family), None)
        except OSError as error:
            raise HostError(f"{address}: {error.strerror}", hint="another port, or end who listens there") from error

    def fileno(self) -> int:
        """The descriptor that is readable when somebody comes."""
        return self._listener.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        """Take who has come; raises ``OSError`` when nobody has."""
        return self._listener.accept()

    def close(self) -> None:
        """Listen no more."""
        if self._named:
            self._named.close()
        else:
            self._listener.close()
