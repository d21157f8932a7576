"""Datagrams as a wire: QEMU's ``-netdev dgram``, one frame each, over UNIX or UDP; a multicast group is a hub.

Nothing tells whether the peer is there, and what it does not take in time is lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from devproc.descriptors import READ, Descriptors
from devproc.network.address import Address
from devproc.network.backend import Base, Buffer, Card, Pieces
from devproc.network.frame import ETHERNET, FRAME_MAX
from protocol.errors import ConfigError, HostError

_BURST = 64
_SOCKET_BUFFER = 1 << 20


class Dgram(Base):
    """One end: frames go to ``remote``, those sent to ``local`` arrive."""

    def __init__(self, local: Address | None, remote: Address) -> None:
        """Bind.

        Raises:
            ConfigError: the addresses do not go together.
            HostError: ``local`` cannot be had.
        """
        if local and local.family != remote.family:
            raise ConfigError(f"{local} and {remote} are not of one kind")
        group = not remote.path and _is_group(remote.host)
        if local is None and not group:
            raise ConfigError("dgram needs a local address, where frames arrive", hint="--local unix:PATH or HOST:PORT")
        self.local, self.remote = local, remote
        self._socket = socket.socket(remote.family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._inode: int | None = None
        try:
            self._bind(local, remote, group=group)
        except OSError as error:
            self.close()
            raise HostError(f"{local or remote}: {error.strerror or error}", hint="is it in use?") from error
        self._card: Card | None = None
        self._held: bytes | None = None
        self._wanted = True
        self._counters = {"frames_lost": 0, "frames_too_short": 0, "frames_too_long": 0}

    def _bind(self, local: Address | None, remote: Address, *, group: bool) -> None:
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, buffer, _SOCKET_BUFFER)
        if group:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((remote.host, remote.port))
            interface = socket.inet_aton(local.host if local else "127.0.0.1")  # not out of this host by default
            member = socket.inet_aton(remote.host) + interface
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            return
        assert local is not None
        if local.path:
            self._take_name(local)
        else:
            self._socket.bind(local.place)

    def _take_name(self, local: Address) -> None:
        """Bind to a path, of which a socket that nobody reads any more gives way."""
        assert local.path is not None
        path = local.path
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise HostError(f"{path} is there and no socket")
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise HostError(f"{path}: another process reads there")
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._inode = path.stat().st_ino

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch the socket."""
        self._card, self._descriptors = card, descriptors
        descriptors.watch(self._socket.fileno(), self._readable)

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Send a frame, or lose it."""
        try:
            self._socket.sendmsg(frame, (), 0, self.remote.place)
        except OSError:  # nobody there, full, too long for a datagram
            self._counters["frames_lost"] += 1
        return True

    def _readable(self, _events: int) -> None:
        assert self._card is not None
        for _ in range(_BURST):
            frame = self._held
            if frame is None:
                try:
                    frame = self._socket.recv(FRAME_MAX + 1)
                except OSError:  # nothing more; or an earlier datagram found nobody
                    return
                if not ETHERNET <= len(frame) <= FRAME_MAX:
                    self._counters["frames_too_short" if len(frame) < ETHERNET else "frames_too_long"] += 1
                    continue
            self._held = None if self._card.deliver(frame) else frame
            if self._held is not None:
                return

    def listen(self, *, wanted: bool) -> None:
        """Read, or let the socket's buffer fill."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._descriptors.want(self._socket.fileno(), READ if wanted else 0)

    def counters(self) -> dict[str, int]:
        """Return what was lost."""
        return dict(self._counters)

    def describe(self) -> str:
        """Say where it leads."""
        return f"dgram {self.local or 'group'} to {self.remote}"

    def close(self) -> None:
        """Close the socket; take its name away if it is still ours."""
        self._socket.close()
        if self.local and self.local.path and self._inode is not None:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # as in ``devproc.listening``
                if self.local.path.stat().st_ino == self._inode:
                    self.local.path.unlink()


def _is_group(host: str) -> bool:
    return ":" not in host and 224 <= int(host.split(".", 1)[0]) <= 239
