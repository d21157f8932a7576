"""The server without its command line: who comes, who goes, and who is told.

Two sockets of this user alone. At ``socket`` version 0 is spoken, for QEMU and its like; at ``socket``.busvm the
dialect of ``protocol.ivshmem``, for peers of ours, which connect again to a server started again and get their ids
back, by name or because they are the same process. They hand in the descriptors that they have: their own, by which
QEMU still rings them, and those of QEMU's peers, which cannot connect again and have theirs for as long as they live.

No peer is waited for. One that says anything at ``socket``, or takes nothing for ``patience_s`` while something waits
for it, is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devproc.alarm import Alarm
from devproc.descriptors import READ, WRITE, Descriptors
from devproc.ivshmem.ids import Ids, Owner
from devproc.ivshmem.memory import Memory, checked_size, path_of
from devproc.ivshmem.peer import Busy, Kind, Peer, new_doorbells, process_of
from devproc.network.address import Address
from devproc.network.sockets import Place
from protocol import ivshmem
from protocol.errors import ConfigError, ProtocolError, Refused
from protocol.ivshmem import NOBODY, Refusal

logger = logging.getLogger(__name__)

PEERS_MAX = 256
VECTORS_MAX = 64  # as QEMU's own server
DIALECT_SUFFIX = ".busvm"
STATE_SUFFIX = ".peers"


@dataclass(frozen=True)
class Config:
    """Where, how much, how many; ``memory`` is a name or path, empty for sealed memory."""

    socket: Path
    size: int = 4 << 20
    vectors: int = 1
    memory: str = ""
    patience_s: float = 5.0

    def check(self) -> None:
        """Check it.

        Raises:
            ConfigError: a value is wrong.
        """
        checked_size(self.size)
        if not 0 < self.vectors <= VECTORS_MAX:
            raise ConfigError(f"{self.vectors} vectors", hint=f"1 to {VECTORS_MAX}")
        if self.memory:
            path_of(self.memory)


@dataclass(eq=False)
class _Hello:
    """A peer of ours that has not said all yet."""

    socket: socket.socket
    receiver: ivshmem.Receiver
    said: ivshmem.Hello
    since: float


class Service:
    """Peers and what they share; ``joined`` and ``left`` are called with each that comes and goes."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the memory and listen.

        Raises:
            ConfigError: a value is wrong, or not that of the memory that there is.
            HostError: the sockets or the memory cannot be had.
        """
        config.check()
        self.config = config
        self.peers: dict[int, Peer] = {}
        self.counters = dict.fromkeys(
            ("joined", "left", "resumed", "restored", "dropped_slow", "dropped_input", "refused"), 0
        )
        self.joined: Callable[[Peer], None] = lambda _peer: None
        self.left: Callable[[Peer], None] = lambda _peer: None
        self.descriptors = Descriptors()
        self._clock = clock
        self._hellos: set[_Hello] = set()
        self._places: list[Place] = []
        self._alarm = Alarm()
        self.memory: Memory | None = None
        _raise_limit()
        try:
            plain, dialect = Address(config.socket), Address(_beside(config.socket, DIALECT_SUFFIX))
            for address, come in ((plain, self._plain), (dialect, self._ours)):
                place = Place.at(address)  # before the state is touched: another server may be alive there
                self._places.append(place)
                self.descriptors.watch(place.fileno(), partial(self._come, place, come))
            self.ids = Ids.load(_beside(config.socket, STATE_SUFFIX))
            self.memory = self._open()
            self.ids.begin(self.memory.identity)
        except BaseException:
            self.close()
            raise
        self.descriptors.watch(self._alarm.fd, self._rang)

    def _open(self) -> Memory:
        if self.config.memory:
            return Memory.named(path_of(self.config.memory), self.config.size)
        return Memory.anonymous(self.config.size, self.ids.memory, self.ids.processes())

    def turn(self) -> None:
        """Handle what there is."""
        self.descriptors.turn(self._sweep)

    # who comes

    def _come(self, place: Place, come: Callable[[socket.socket], None], _events: int) -> None:
        try:
            sock, _ = place.accept()
        except OSError:
            return
        sock.setblocking(False)
        come(sock)

    def _plain(self, sock: socket.socket) -> None:
        self._join(sock, ivshmem.Hello(), Kind.PLAIN)

    def _ours(self, sock: socket.socket) -> None:
        if len(self._hellos) >= PEERS_MAX:
            self._refuse(sock, Refusal.FULL, "too many are about to join")
            return
        hello = _Hello(sock, ivshmem.Receiver(sock), ivshmem.Hello(), self._clock())
        self._hellos.add(hello)
        self.descriptors.watch(sock.fileno(), lambda _events: self._listen(hello))
        self._alarm.set(self.config.patience_s)

    def _listen(self, hello: _Hello) -> None:
        try:
            while not hello.said.complete and (message := hello.receiver.receive()) is not None:
                hello.said.take(message, self.config.vectors)
        except ProtocolError as error:
            self._end(hello)
            self._refuse(hello.socket, Refusal.BAD_HELLO, error.message)
            return
        if hello.said.complete:
            self._end(hello, keep=True)
            self._join(hello.socket, hello.said, Kind.BUSVM)
            hello.said.close()

    def _end(self, hello: _Hello, *, keep: bool = False) -> None:
        self._hellos.discard(hello)
        self.descriptors.unwatch(hello.socket.fileno())
        hello.receiver.close()
        if not keep:
            hello.said.close()

    def _refuse(self, sock: socket.socket, refusal: Refusal, reason: str) -> None:
        self.counters["refused"] += 1
        logger.warning("a peer was turned away: %s", reason)
        try:
            ivshmem.send(sock, refusal)
        except OSError:
            pass
        sock.close()

    def _join(self, sock: socket.socket, said: ivshmem.Hello, kind: Kind) -> None:
        pid = process_of(sock)
        named = self.ids.of_name(said.name)
        if named in self.peers and not self._gone(self.peers[named]):
            self._refuse(sock, Refusal.NAME_TAKEN, f"{said.name!r} is there already")
            return
        if len(self.peers) >= PEERS_MAX:
            self._refuse(sock, Refusal.FULL, f"there are {PEERS_MAX}")
            return
        try:
            own = said.known.pop(said.id, []) if said.id != NOBODY else []
            owner = Owner.of(pid, said.name)
            self._come_back(said.id, owner)
            wanted = NOBODY if said.id in self.peers else said.id
            given = self.ids.take(owner, wanted, Busy(self.peers))
            if given != said.id or len(own) != self.config.vectors:
                _close(own)
                own = new_doorbells(self.config.vectors)
        except (OSError, Refused) as error:
            self._refuse(sock, Refusal.FULL, str(error))
            return
        self._restore(said)
        self.counters["resumed"] += given == said.id
        peer = Peer(given, pid, kind, own, sock, said.name)
        self.descriptors.watch(sock.fileno(), lambda events: self._heard(peer, events))
        self._add(peer)

    def _come_back(self, wanted: int, owner: Owner) -> None:
        """Let a peer itself be in place of what another one has said of it."""
        there = self.peers.get(wanted)
        if there is not None and there.kind is Kind.DETACHED and self.ids.held(wanted) == owner:
            self._fail(there, "it has come back itself")
            self._sweep()
            self.ids.owners[wanted] = owner

    def _restore(self, said: ivshmem.Hello) -> None:
        """Take in peers of version 0 of an earlier server, which a peer of ours still knows."""
        for known, fds in list(said.known.items()):
            owner = self.ids.held(known)
            if owner is None or known in self.peers or len(fds) != self.config.vectors:
                continue
            try:
                process = os.pidfd_open(owner.pid)
            except OSError:
                continue
            del said.known[known]
            self.counters["restored"] += 1
            peer = Peer(known, owner.pid, Kind.DETACHED, fds, process=process)
            self.descriptors.watch(process, lambda _events, peer=peer: self._fail(peer, "its process has ended"))  # type: ignore[misc]
            self._add(peer)

    def _add(self, peer: Peer) -> None:
        assert self.memory is not None
        others = list(self.peers.values())
        self.peers[peer.id] = peer
        for other in others:
            other.introduce(peer)
            self._flush(other)
        if peer.socket is not None:
            peer.greet(self.config.vectors, self.memory.fd, others)
            self._flush(peer)
        self.counters["joined"] += 1
        logger.info("peer %d joined (%s, process %d)", peer.id, peer.kind.value, peer.pid)
        self.joined(peer)

    # who is there

    def _heard(self, peer: Peer, events: int) -> None:
        if events & WRITE:
            self._flush(peer)
        if not events & ~WRITE:
            return
        assert peer.socket is not None
        try:
            data = peer.socket.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.counters["dropped_input"] += 1
        self._fail(peer, "it speaks, which no peer does" if data else "it hung up")

    def _flush(self, peer: Peer) -> None:
        if peer.socket is None or peer.failed:
            return
        empty = peer.flush(self._clock())
        if not peer.failed:
            self.descriptors.want(peer.socket.fileno(), READ if empty else READ | WRITE)
            if not empty:
                self._alarm.set(self.config.patience_s)

    def _rang(self, _events: int) -> None:
        self._alarm.acknowledge()
        late = self._clock() - self.config.patience_s * 0.99  # an alarm may be a little early
        waiting = False
        for peer in self.peers.values():
            if peer.waiting_since is not None and peer.waiting_since <= late:
                self.counters["dropped_slow"] += 1
                self._fail(peer, "it does not read")
            waiting |= peer.waiting_since is not None
        for hello in [h for h in self._hellos if h.since <= late]:
            self._end(hello)
            self._refuse(hello.socket, Refusal.BAD_HELLO, "it does not say who it is")
        if waiting or self._hellos:
            self._alarm.set(self.config.patience_s / 2)

    # who goes

    def _fail(self, peer: Peer, reason: str) -> None:
        peer.failed = peer.failed or reason

    def _gone(self, peer: Peer) -> bool:
        """Return whether a peer is, whose end was not heard yet; then it has left."""
        if peer.socket is not None and not peer.failed:
            self._heard(peer, READ)
        self._sweep()
        return self.peers.get(peer.id) is not peer

    def _sweep(self) -> None:
        """Take those away who failed, and tell the others, of whom some may fail by that."""
        while failed := [peer for peer in self.peers.values() if peer.failed]:
            for peer in failed:
                self._leave(peer)

    def _leave(self, peer: Peer) -> None:
        logger.info("peer %d left: %s", peer.id, peer.failed)
        del self.peers[peer.id]
        self.descriptors.unwatch(peer.process if peer.socket is None else peer.socket.fileno())
        for other in self.peers.values():
            other.forget(peer)
            self._flush(other)
        peer.close()
        self.ids.release(peer.id)
        self.counters["left"] += 1
        self.left(peer)

    def close(self) -> None:
        """Hang up on everybody; ids and named memory are kept for the next server."""
        for hello in list(self._hellos):
            self._end(hello)
            hello.socket.close()
        for peer in self.peers.values():
            peer.close()
        self.peers.clear()
        for place in self._places:
            place.close()
        self._alarm.close()
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        self.descriptors.close()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()


def _raise_limit() -> None:
    """Have as many descriptors as the host allows: each vector of each peer is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
