"""A peer as the server has it: its doorbells, and what it has not been told yet.

A peer may be away: its process has ended, or that of an earlier server was told of by others. Its doorbells are kept
and the others are told nothing, until it is back, or until what stands for it ends: its lifeline, its process, a time.

What waits for a peer that does not read is bounded by who there is, not by what has happened: when another leaves, what
was still to be said of its coming is struck out, and so is its leaving if nothing of it was said. No descriptor of a
peer is in a queue once it has left.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum

from protocol import ivshmem
from protocol.ivshmem_hello import hung_up
from protocol.peer import credentials


class Kind(Enum):
    """How a peer speaks."""

    PLAIN = "plain"  # version 0: QEMU and others
    BUSVM = "busvm"  # the dialect
    DETACHED = "detached"  # of an earlier server, without a name: others ring it, and it hears of nobody


def process_of(sock: socket.socket) -> int:
    """Return the process at the other end of a UNIX socket; 0: the host does not show it here."""
    return credentials(sock).pid


def ended(process: int) -> bool:
    """Return whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def new_doorbells(vectors: int) -> list[int]:
    """Return an eventfd for each vector; raises ``OSError`` when there are no more descriptors."""
    made: list[int] = []
    try:
        for _ in range(vectors):
            made.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    except OSError:
        ivshmem.close_all(made)
        raise
    return made


@dataclass(eq=False)
class Peer:
    """One peer; ``failed`` says why it has to go."""

    id: int
    pid: int
    kind: Kind
    doorbells: list[int]
    socket: socket.socket | None = None
    name: str = ""
    readonly: bool = False
    lifelines: list[int] = field(default_factory=list)
    """Of its last processes; who stands behind the peer is gone when all have hung up."""
    process: int = -1  # a pidfd of one that is away
    expires: float | None = None  # when one is gone that is away
    hearsay: bool = False  # its doorbells are those that others said it had
    crowded: bool = False  # more descriptors are on their way, to all peers, than the host allows
    failed: str = ""
    since: float = field(default_factory=time.time)
    counters: dict[str, int] = field(default_factory=lambda: {"messages": 0, "queued_most": 0, "waited": 0})
    waiting_since: float | None = None
    _outbox: deque[tuple[int, int | None]] = field(default_factory=deque)
    _told: set[int] = field(default_factory=set)

    @property
    def away(self) -> bool:
        """Whether it is not connected."""
        return self.socket is None

    def stands_for(self) -> list[int]:
        """Return the descriptors whose end is the peer's."""
        return [*self.lifelines, *([self.process] if self.process >= 0 else [])]

    @property
    def lives(self) -> bool:
        """Whether it has a lifeline that has not hung up."""
        return not all(map(hung_up, self.lifelines))

    def greet(self, vectors: int, memory: int, others: list[Peer]) -> None:
        """Tell a newcomer everything, in the protocol's order."""
        words: list[tuple[int, int | None]] = [(ivshmem.VERSION, None)]
        if self.kind is Kind.BUSVM:
            words.append((vectors, None))
        self._queue([*words, (self.id, None), (ivshmem.MEMORY, memory)])
        for other in others:
            self.introduce(other)
        self._queue([(self.id, fd) for fd in self.doorbells])

    def introduce(self, other: Peer) -> None:
        """Tell that another one joins."""
        self._queue([(other.id, fd) for fd in other.doorbells])

    def forget(self, other: Peer) -> None:
        """Tell that another one leaves."""
        self._outbox = deque(word for word in self._outbox if word[1] is None or word[0] != other.id)
        if other.id in self._told:
            self._told.discard(other.id)
            self._queue([(other.id, None)])

    def untold(self, left: int) -> bool:
        """Return whether it has still to be told that one of id ``left`` is gone."""
        return (left, None) in self._outbox

    def _queue(self, words: list[tuple[int, int | None]]) -> None:
        if self.socket is not None:
            self._outbox.extend(words)
            self.counters["queued_most"] = max(self.counters["queued_most"], len(self._outbox))

    def flush(self, now: float) -> bool:
        """Send what there is room for; return whether nothing waits."""
        self.crowded = False
        while self._outbox and self.socket is not None and not self.failed:
            value, fd = self._outbox[0]
            try:
                ivshmem.send(self.socket, value, fd)
            except OSError as error:
                self.crowded = error.errno == errno.ETOOMANYREFS  # which the socket does not tell the end of
                if self.crowded or isinstance(error, BlockingIOError):
                    if self.waiting_since is None:
                        self.counters["waited"] += 1
                        self.waiting_since = now
                    return False
                self.failed = f"cannot be sent to: {error.strerror}"
                return False
            self._outbox.popleft()
            self.waiting_since = None
            self.counters["messages"] += 1
            if fd is not None and value not in (ivshmem.MEMORY, self.id):
                self._told.add(value)
        return True

    def hang_up(self) -> None:
        """Be away."""
        self._outbox.clear()
        self._told.clear()
        self.waiting_since, self.crowded, self.failed = None, False, ""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def let_go(self) -> None:
        """Close what stands for it."""
        ivshmem.close_all(self.lifelines)
        self.forget_process()

    def forget_process(self) -> None:
        """Stay no longer for the process's sake."""
        if self.process >= 0:
            os.close(self.process)
        self.process, self.expires = -1, None

    def close(self) -> None:
        """Give everything back."""
        self.hang_up()
        self.let_go()
        ivshmem.close_all(self.doorbells)


@dataclass(frozen=True)
class Busy(Container[int]):
    """Ids that nobody gets now: of who is there, and of who left and not everybody knows it."""

    peers: dict[int, Peer]

    def __contains__(self, peer: object) -> bool:
        return peer in self.peers or any(isinstance(peer, int) and p.untold(peer) for p in self.peers.values())
