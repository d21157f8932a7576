"""The server without its command line: who comes, who goes, and who is told.

Two sockets of this user alone. At ``socket`` version 0 is spoken, for QEMU and its like; at ``socket``.busvm the
dialect of ``protocol.ivshmem_hello``, for peers of ours, which connect again to a server started again and get their
ids back, by name or because they are the same process. They hand in the descriptors that they have: their own, by
which others still ring them, and those of others, who are taken for away until they are back.

A peer with a lifeline whose connection ends is away, too: it keeps its place, and the others are told nothing, until
the lifeline hangs up, and with it those that its processes before had.

No peer is waited for. One that says anything once it is there, or takes nothing for ``patience_s`` while something
waits for it, is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable

from devproc.alarm import Alarm
from devproc.descriptors import READ, WRITE, Descriptors
from devproc.ivshmem.arrivals import Arrivals
from devproc.ivshmem.config import Config
from devproc.ivshmem.ids import Ids, Owner
from devproc.ivshmem.links import Links
from devproc.ivshmem.memory import Memory, path_of
from devproc.ivshmem.peer import Busy, Kind, Peer, ended, new_doorbells, process_of
from protocol.errors import Refused
from protocol.ivshmem import NOBODY, Refusal, close_all, same_doorbells
from protocol.ivshmem_hello import Hello, hung_up

logger = logging.getLogger(__name__)

PEERS_MAX = 256
LIFELINES_MAX = 4  # of a peer
STATE_SUFFIX = ".peers"
_CROWDED_S = 0.02


class Service:
    """Peers and what they share; ``joined``, ``left`` and ``changed`` are called with the peer that did."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the memory and listen.

        Raises:
            ConfigError: a value is wrong, or not that of the memory that there is.
            HostError: the sockets or the memory cannot be had.
        """
        config.check()
        self.config = config
        self.peers: dict[int, Peer] = {}
        self._counters = dict.fromkeys(
            ("joined", "left", "away", "resumed", "restored", "dropped_slow", "dropped_input"), 0
        )
        self.joined: Callable[[Peer], None] = lambda _peer: None
        self.left: Callable[[Peer], None] = lambda _peer: None
        self.changed: Callable[[Peer], None] = lambda _peer: None
        self.descriptors = Descriptors()
        self._clock = clock
        self._alarm = Alarm()
        self._alarm_at: float | None = None
        self.memory: Memory | None = None
        self._arrivals: Arrivals | None = None
        self._links: Links | None = None
        try:
            self._arrivals = Arrivals(  # before the state is touched: another server may be alive there
                config.socket, self.descriptors, self._join,
                clock=clock, wake=lambda: self._wake(config.patience_s), vectors=config.vectors, there=self.peers,
            )  # fmt: skip
            self.ids = Ids.load(config.socket.with_name(config.socket.name + STATE_SUFFIX))
            self.memory = self._open()
            self.ids.begin(self.memory.identity)
            self._links = Links(config.link, config.socket) if config.link else None
            self._earlier = set(self.ids.owners)  # peers of an earlier server that have not been here
        except BaseException:
            self.close()
            raise
        self.descriptors.watch(self._alarm.fd, self._rang)

    def _open(self) -> Memory:
        if self.config.memory:
            return Memory.named(path_of(self.config.memory), self.config.size)
        return Memory.anonymous(self.config.size, self.ids.memory, self.ids.processes())

    @property
    def counters(self) -> dict[str, int]:
        """What has happened how often."""
        return {**self._counters, "refused": self._arrivals.refused if self._arrivals else 0}

    def turn(self) -> None:
        """Handle what there is."""
        self.descriptors.turn(self._sweep)

    # who comes

    def _join(self, sock: socket.socket, said: Hello, kind: Kind) -> None:
        assert self._arrivals is not None
        refuse = self._arrivals.refuse
        owner = Owner.of(process_of(sock), said.name)
        there = self._place_of(said, owner)
        if there is not None and not there.away:
            refuse(sock, Refusal.NAME_TAKEN, f"{said.name!r} is there already")
            return
        if there is not None:
            self._resume(there, sock, said, owner)
            return
        if len(self.peers) >= PEERS_MAX or not self._arrivals.has_room(self.config.vectors):
            refuse(sock, Refusal.FULL, f"there are {len(self.peers)} of {self.config.vectors} vectors each")
            return
        try:
            own = said.known.pop(said.id, []) if said.id != NOBODY else []
            wanted = NOBODY if said.id in self.peers else said.id
            given = self.ids.take(owner, wanted, Busy(self.peers))
            if given != said.id or len(own) != self.config.vectors:
                close_all(own)
                own = new_doorbells(self.config.vectors)
        except (OSError, Refused) as error:
            refuse(sock, Refusal.FULL, str(error))
            return
        close_all(said.known.pop(given, []))  # it was another's, who is gone
        self._restore(said)
        self._counters["resumed"] += given == said.id
        self._add(Peer(given, owner.pid, kind, own, name=said.name))
        self._connect(self.peers[given], sock, said)
        self.joined(self.peers[given])

    def _place_of(self, said: Hello, owner: Owner) -> Peer | None:
        """Return the peer that this one is: of its name, or with its lifeline or process."""
        named = self.ids.of_name(said.name)
        peer = self.peers.get(named) if named is not None else self._nameless(said, owner)
        if peer is None or (said.name and named is None):
            return None
        if peer.socket is not None and not peer.failed:
            self._heard(peer, READ)  # its end may not have been heard yet
        own = said.known.get(peer.id, [])
        if peer.lifelines and not peer.lives:
            self._fail(peer, "its lifeline hung up")
        elif peer.hearsay and own and not same_doorbells(own, peer.doorbells):
            self._fail(peer, "it has come back itself, with other doorbells than others said")
        self._sweep()
        return peer if self.peers.get(peer.id) is peer and (peer.away or named is not None) else None

    def _nameless(self, said: Hello, owner: Owner) -> Peer | None:
        for peer in self.peers.values() if said.lifeline is not None else ():
            if any(os.path.sameopenfile(said.lifeline or 0, fd) for fd in peer.lifelines):
                return peer
        is_its = not owner.name and self.ids.owners.get(said.id) == owner
        return self.peers.get(said.id) if is_its else None

    def _resume(self, peer: Peer, sock: socket.socket, said: Hello, owner: Owner) -> None:
        """Have a peer in its own place again, with its doorbells; the others notice nothing."""
        if peer.process >= 0:
            self.descriptors.unwatch(peer.process)
        peer.forget_process()
        for old in peer.lifelines[: -LIFELINES_MAX + 1] if said.lifeline is not None else list(peer.lifelines):
            self._cut(peer, old)
        peer.pid, peer.kind, peer.hearsay = owner.pid, Kind.BUSVM, False
        peer.name = said.name or peer.name
        self.ids.give(peer.id, Owner(owner.pid, owner.started, peer.name), Busy(self.peers))
        self._restore(said)
        self._counters["resumed"] += 1
        logger.info("peer %d is back (process %d)", peer.id, peer.pid)
        self._connect(peer, sock, said)
        self.changed(peer)

    def _connect(self, peer: Peer, sock: socket.socket, said: Hello) -> None:
        """Give a peer its connection, and tell it everything."""
        assert self.memory is not None
        peer.socket, peer.readonly = sock, said.readonly
        if said.lifeline is not None:
            new, said.lifeline = said.lifeline, None
            peer.lifelines.append(new)
            self.descriptors.watch(new, lambda _events: self._lifeline(peer, new), select.EPOLLRDHUP)
        self.descriptors.watch(sock.fileno(), lambda events: self._heard(peer, events))
        try:
            memory = self.memory.readonly if peer.readonly else self.memory.fd
        except OSError as error:
            self._fail(peer, f"no memory for reading: {error.strerror}")
            return
        peer.greet(self.config.vectors, memory, [other for other in self.peers.values() if other is not peer])
        self._flush(peer)

    def _restore(self, said: Hello) -> None:
        """Take in peers of an earlier server, which a peer of ours still knows, as away."""
        for known, fds in list(said.known.items()):
            owner = self.ids.owners.get(known)
            if owner is None or known not in self._earlier or len(fds) != self.config.vectors:
                continue
            peer = Peer(known, owner.pid, Kind.BUSVM if owner.name else Kind.DETACHED, fds, name=owner.name)
            peer.hearsay = True
            if not self._stand_for(peer, owner):
                continue
            del said.known[known]
            self._counters["restored"] += 1
            self._add(peer)
            self.joined(peer)

    def _stand_for(self, peer: Peer, owner: Owner) -> bool:
        """Have a peer that is away stay for as long as its process lives; one with a name also a while longer."""
        try:
            peer.process = os.pidfd_open(owner.pid) if owner.lives else -1
        except OSError:
            pass
        if peer.process >= 0:
            self.descriptors.watch(peer.process, lambda _events: self._ended(peer))
        elif owner.name:
            self._await(peer)
        return peer.process >= 0 or peer.expires is not None

    def _await(self, peer: Peer) -> None:
        """Give its next process time to come."""
        peer.expires = self._clock() + self.config.patience_s
        self._wake(self.config.patience_s)

    def _add(self, peer: Peer) -> None:
        others = list(self.peers.values())
        self.peers[peer.id] = peer
        self._earlier.discard(peer.id)
        for other in others:
            other.introduce(peer)
            self._flush(other)
        self._counters["joined"] += 1
        logger.info("peer %d joined (%s, process %d)", peer.id, peer.kind.value, peer.pid)

    # who is there

    def _heard(self, peer: Peer, events: int) -> None:
        if events & WRITE:
            self._flush(peer)
        if not events & ~WRITE or peer.socket is None:
            return
        try:
            data = peer.socket.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._counters["dropped_input"] += 1
        self._fail(peer, "it speaks, which no peer does" if data else "it hung up")

    def _flush(self, peer: Peer) -> None:
        if peer.socket is None or peer.failed:
            return
        empty = peer.flush(self._clock())
        if not peer.failed:
            self.descriptors.want(peer.socket.fileno(), READ if empty or peer.crowded else READ | WRITE)
            if not empty:
                self._wake(_CROWDED_S if peer.crowded else self.config.patience_s)

    def _wake(self, seconds: float) -> None:
        """Have ``_rang`` called then, or before."""
        at = self._clock() + seconds
        if self._alarm_at is None or at < self._alarm_at:
            self._alarm_at = at
            self._alarm.set(seconds)

    def _rang(self, _events: int) -> None:
        assert self._arrivals is not None
        self._alarm.acknowledge()
        self._alarm_at = None
        now = self._clock()
        late = now - self.config.patience_s * 0.99  # an alarm may be a little early
        for peer in self.peers.values():
            if peer.crowded:
                self._flush(peer)
            if peer.waiting_since is not None and peer.waiting_since <= late:
                self._counters["dropped_slow"] += 1
                self._fail(peer, "it does not read")
            if peer.expires is not None and peer.expires <= now + self.config.patience_s * 0.01:
                self._fail(peer, "it has not come back")
        self._arrivals.expire(late)
        if self._arrivals.waiting or any(p.waiting_since is not None or p.expires for p in self.peers.values()):
            self._wake(self.config.patience_s / 2)

    # who goes

    def _lifeline(self, peer: Peer, lifeline: int) -> None:
        """Hear that one hung up, perhaps that of a process that has ended before the machine had it."""
        if not peer.lives:
            self._fail(peer, "its lifeline hung up")
        elif hung_up(lifeline):
            self._cut(peer, lifeline)

    def _cut(self, peer: Peer, lifeline: int) -> None:
        self.descriptors.unwatch(lifeline)
        peer.lifelines.remove(lifeline)
        os.close(lifeline)

    def _ended(self, peer: Peer) -> None:
        if not ended(peer.process):
            return
        if not peer.name:
            self._fail(peer, "its process has ended")
            return
        self.descriptors.unwatch(peer.process)
        peer.forget_process()
        self._await(peer)

    def _fail(self, peer: Peer, reason: str) -> None:
        peer.failed = peer.failed or reason

    def _sweep(self) -> None:
        """Take those away who failed, and tell the others, of whom some may fail by that."""
        while failed := [peer for peer in self.peers.values() if peer.failed]:
            for peer in failed:
                if peer.socket is not None and peer.lives:
                    self._go_away(peer)
                else:
                    self._leave(peer)

    def _go_away(self, peer: Peer) -> None:
        logger.info("peer %d is away: %s", peer.id, peer.failed)
        assert peer.socket is not None
        self.descriptors.unwatch(peer.socket.fileno())
        peer.hang_up()
        self._counters["away"] += 1
        self.changed(peer)

    def _leave(self, peer: Peer) -> None:
        logger.info("peer %d left: %s", peer.id, peer.failed)
        del self.peers[peer.id]
        for fd in peer.stands_for() + ([] if peer.socket is None else [peer.socket.fileno()]):
            self.descriptors.unwatch(fd)
        for other in self.peers.values():
            other.forget(peer)
            self._flush(other)
        peer.close()
        self.ids.release(peer.id)
        self._counters["left"] += 1
        self.left(peer)

    def close(self) -> None:
        """Hang up on everybody; ids and named memory are kept for the next server."""
        if self._links is not None:
            self._links.close()
        if self._arrivals is not None:
            self._arrivals.close()
        for peer in self.peers.values():
            peer.close()
        self.peers.clear()
        self._alarm.close()
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        self.descriptors.close()
