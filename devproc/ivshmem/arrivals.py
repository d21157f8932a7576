"""Who is about to join: connections of both sockets, until it is said who it is.

At ``socket`` nothing is said, so that whoever connects joins. At ``socket``.busvm a hello is awaited, for
``patience_s`` in all. Hellos bring descriptors; when there is room for no more of them, the one that has brought most
gives way, and is told that it is full: a peer of ours comes again. A descriptor is kept in reserve, so that somebody
who finds no room is told so, and does not stay at the door.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devproc.descriptors import Descriptors
from devproc.ivshmem.peer import Kind
from devproc.network.address import Address
from devproc.network.sockets import Place
from protocol import ivshmem
from protocol.errors import ProtocolError
from protocol.ivshmem import Refusal, close_all
from protocol.ivshmem_hello import Hello
from protocol.limits import raise_limit

logger = logging.getLogger(__name__)

HELLOS_MAX = 256
DIALECT_SUFFIX = ".busvm"
_BESIDE = 5  # a peer's socket, and its lifelines
_RESERVE = 128  # descriptors for sockets, the bus, the process itself


@dataclass(eq=False)
class _Coming:
    """A peer of ours that has not said all yet."""

    socket: socket.socket
    receiver: ivshmem.Receiver
    said: Hello
    since: float
    held: int = 0


class Arrivals:
    """Calls ``join`` with each that has said who it is; the socket is then the caller's."""

    def __init__(
        self,
        path: Path,
        descriptors: Descriptors,
        join: Callable[[socket.socket, Hello, Kind], None],
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        vectors: int,
        there: Mapping[int, object],
    ) -> None:
        """Listen; ``wake`` is to have ``expire`` called after the patience that there is, ``there`` who has joined.

        Raises:
            HostError: another process listens there, or the host does not let us.
        """
        self.refused = 0
        self._there = there
        self._descriptors, self._join, self._clock, self._wake, self._vectors = descriptors, join, clock, wake, vectors
        self._coming: set[_Coming] = set()
        self._places: list[Place] = []
        self._room = raise_limit() - _RESERVE
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        dialect = path.with_name(path.name + DIALECT_SUFFIX)
        try:
            for at, come in ((path, self._plain), (dialect, self._ours)):
                place = Place.at(Address(at))
                self._places.append(place)
                descriptors.watch(place.fileno(), partial(self._come, place, come))
        except BaseException:
            self.close()
            raise

    @property
    def waiting(self) -> bool:
        """Whether somebody has not said all yet."""
        return bool(self._coming)

    def _come(self, place: Place, come: Callable[[socket.socket], None], _events: int) -> None:
        try:
            sock, _ = place.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away(place)
            return
        sock.setblocking(False)
        come(sock)

    def _turn_away(self, place: Place) -> None:
        """Accept with the descriptor in reserve, for who is not accepted is heard again and again."""
        os.close(self._reserve)
        try:
            sock, _ = place.accept()
            sock.setblocking(False)
            self.refuse(sock, Refusal.FULL, "no descriptors are left")
        except OSError:
            pass
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _plain(self, sock: socket.socket) -> None:
        self._join(sock, Hello(), Kind.PLAIN)

    def _ours(self, sock: socket.socket) -> None:
        if len(self._coming) >= HELLOS_MAX:
            self.refuse(sock, Refusal.FULL, "too many are about to join")
            return
        coming = _Coming(sock, ivshmem.Receiver(sock), Hello(), self._clock())
        self._coming.add(coming)
        self._descriptors.watch(sock.fileno(), lambda _events: self._listen(coming))
        self._wake()

    def has_room(self, more: int) -> bool:
        """Return whether there may be ``more`` descriptors."""
        used = len(self._there) * (self._vectors + _BESIDE)
        return used + sum(coming.held for coming in self._coming) + more <= self._room

    def _listen(self, coming: _Coming) -> None:
        said = coming.said
        try:
            while not said.complete and (message := coming.receiver.receive()) is not None:
                said.take(message, self._vectors)
                if message.fd is not None and not self._keep(coming, message.value):
                    return
        except ProtocolError as error:
            self._end(coming)
            self.refuse(coming.socket, Refusal.BAD_HELLO, error.message)
            return
        if said.complete:
            self._end(coming, keep=True)
            self._join(coming.socket, said, Kind.BUSVM)
            said.close()

    def _keep(self, coming: _Coming, peer: int) -> bool:
        """Keep a descriptor of a peer if it is new; return whether who said it is still welcome."""
        said = coming.said
        if peer in self._there and peer != said.id and peer in said.known:
            close_all(said.known.pop(peer))
            return True
        coming.held += 1
        if self.has_room(0):
            return True
        most = max(self._coming, key=lambda one: one.held)
        self._end(most)
        self.refuse(most.socket, Refusal.FULL, "its hello brings more descriptors than there is room for")
        return most is not coming

    def _end(self, coming: _Coming, *, keep: bool = False) -> None:
        self._coming.discard(coming)
        self._descriptors.unwatch(coming.socket.fileno())
        coming.receiver.close()
        if not keep:
            coming.said.close()

    def refuse(self, sock: socket.socket, refusal: Refusal, reason: str) -> None:
        """Say why somebody is not taken, and hang up."""
        self.refused += 1
        logger.warning("a peer was turned away: %s", reason)
        try:
            ivshmem.send(sock, refusal)
        except OSError:
            pass
        sock.close()

    def expire(self, late: float) -> None:
        """Turn those away who came at ``late`` or before and have not said who they are."""
        for coming in [one for one in self._coming if one.since <= late]:
            self._end(coming)
            self.refuse(coming.socket, Refusal.LATE, "it does not say who it is")

    def close(self) -> None:
        """Listen no more, and hang up on who is about to join."""
        for coming in list(self._coming):
            self._end(coming)
            coming.socket.close()
        for place in self._places:
            place.close()
        os.close(self._reserve)
