"""Stream sockets of networks: places where peers connect, and connecting until it has worked."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path

from devproc.alarm import Alarm
from devproc.descriptors import WRITE, Descriptors
from devproc.listening import Socket
from devproc.network.address import Address
from protocol.errors import HostError

RECONNECT_S = 1.0
_BUFFER = 1 << 20  # room for a burst of the largest frames, where the host allows it


def prepare(peer: socket.socket) -> None:
    """Make a connection one for frames: room for bursts, and no waiting for more."""
    with contextlib.suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


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
        """Take who has come; raises ``OSError`` when nobody has who may."""
        return (self._named.accept(), None) if self._named else self._listener.accept()

    def close(self) -> None:
        """Listen no more."""
        if self._named:
            self._named.close()
        else:
            self._listener.close()
