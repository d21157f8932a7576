"""A place among the peers of a server, kept when the server ends: it is asked for again when there is one again.

What was had before and is the same afterwards keeps its descriptors, so that whoever watches them, or has handed them
on, notices nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from devproc.ivshmem.joining import DIALECT_SUFFIX, Joining
from protocol.errors import HostError, PeerGone, ProtocolError, Refused
from protocol.ivshmem import Joined, Left, Receiver, Session, Stage, TryAgain, close_all, same_doorbells
from protocol.ivshmem_hello import Hello, checked_lifeline, checked_name

RECONNECT_S = 0.5


@dataclass(frozen=True)
class ServerGone:
    """The server has ended; memory and doorbells stay, nobody is told who comes and goes."""


@dataclass(frozen=True)
class ServerBack:
    """A server is there again, and this client has a place there: its own, if nobody else has it."""


@dataclass(frozen=True)
class Torn:
    """Somebody made the memory shorter: what is gone reads as zeros, and is shared with nobody any more."""


Event = Joined | Left | ServerGone | ServerBack | Torn


@dataclass(frozen=True)
class Before:
    """What a predecessor had, whose place a client takes; the descriptors become the client's."""

    id: int
    own: list[int]
    peers: dict[int, list[int]]
    memory: int = -1
    """If it is known: then a server with other memory is refused."""

    def session(self) -> Session:
        """Return it as what a server has said."""
        return Session(True, len(self.own), Stage.PEERS, self.id, self.memory, self.own, self.peers)


class Membership:
    """A place; ``session`` is what the server said last, ``events`` what has happened and nobody has taken."""

    def __init__(
        self, path: Path, name: str, timeout_s: float, *, readonly: bool, lifeline: int | None, before: Before | None
    ) -> None:
        """Ask for it, and wait for the answer; with ``before`` a server need not be there.

        Raises:
            HostError: nobody listens there.
            ProtocolError: what listens there is no server, or does not take us; a name or lifeline is none.
        """
        self.name, self._path, self._timeout_s, self._readonly = name, path, timeout_s, readonly
        self.events: deque[Event] = deque()
        self.session = Session() if before is None else before.session()
        self._socket: socket.socket | None = None
        self._receiver: Receiver | None = None
        self._joining: Joining | None = None
        self._lifeline: int | None = None
        self._again = 0.0
        try:
            checked_name(name.encode())
            self._lifeline = None if lifeline is None else os.dup(checked_lifeline(lifeline))
            is_ours = before is not None or path.with_name(path.name + DIALECT_SUFFIX).exists()
            self._enter(is_ours, is_first=before is None)
        except BaseException:
            self.close()
            raise

    def _enter(self, is_ours: bool, *, is_first: bool) -> None:
        try:
            hello = Hello(name=self.name, readonly=self._readonly, lifeline=self._lifeline) if is_first else self._hello
            joining = Joining(self._path, hello, self._timeout_s, is_ours=is_ours, wait_s=self._timeout_s)
            while not joining.step():
                joining.wait()
        except (HostError, PeerGone, TryAgain):
            if is_first:
                raise
            self._lost()
            return
        self._adopt(joining)
        if is_first:
            self.events.clear()  # who was there before is no news

    @property
    def _hello(self) -> Hello:
        known = {self.session.id: self.session.own, **self.session.peers}
        return Hello(self.session.id, self.name, known, self._readonly, self._lifeline)

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._socket is not None

    def fileno(self) -> int:
        """The descriptor that is readable when ``process`` has something to do; -1 without a server."""
        sock = self._joining.socket if self._joining is not None else self._socket
        return -1 if sock is None else sock.fileno()

    @property
    def wake_s(self) -> float | None:
        """How long ``process`` has nothing to do if nothing is readable; ``None``: for ever."""
        if self._joining is not None:
            return self._joining.wake_s
        if self._socket is not None or not self.session.dialect:
            return None
        return max(0.0, self._again - time.monotonic())

    def process(self) -> None:
        """Take in what the server said, or ask again for the place; never waits.

        Raises:
            ProtocolError: a server that was started again has other memory, or does not take us.
        """
        if self._receiver is None:
            if self.session.dialect and (self._joining is not None or time.monotonic() >= self._again):
                self._reconnect()
            return
        try:
            while (message := self._receiver.receive()) is not None:
                event = self.session.take(message)
                if event is not None:
                    self.events.append(event)
        except ProtocolError as error:
            self._lost()
            if not isinstance(error, PeerGone):
                self.session.dialect = False  # not again
                raise

    def _lost(self) -> None:
        self._hang_up()
        self._again = time.monotonic() + RECONNECT_S
        self.events.append(ServerGone())

    def _reconnect(self) -> None:
        joining, self._joining = self._joining, None
        self._again = time.monotonic() + RECONNECT_S
        try:
            if joining is None:
                joining = Joining(self._path, self._hello, self._timeout_s, is_ours=True)
            if not joining.step():
                self._joining = joining
                return
        except (HostError, PeerGone, TryAgain):
            return
        except ProtocolError:
            self.session.dialect = False
            raise
        self.events.append(ServerBack())
        self._adopt(joining)

    def _adopt(self, joining: Joining) -> None:
        """Have the new session in place of the old one."""
        old, new = self.session, joining.session
        if old.memory >= 0 and not os.path.sameopenfile(old.memory, new.memory):
            joining.close()
            old.dialect = False
            raise Refused("the server was started again with other memory", hint="--memory NAME keeps it")
        self._socket, self._receiver, self.session = joining.socket, joining.receiver, new
        if old.memory >= 0:
            old.memory, new.memory = new.memory, old.memory
        _keep(old.own, new.own)
        same = {peer for peer in old.peers.keys() & new.peers.keys() if _keep(old.peers[peer], new.peers[peer])}
        self.events.extend(Left(peer) for peer in sorted(old.peers.keys() - same))
        self.events.extend(Joined(peer) for peer in sorted(new.peers.keys() - same))
        old.close()

    def _hang_up(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Leave, and give every descriptor back."""
        self._hang_up()
        if self._joining is not None:
            self._joining.close()
            self._joining = None
        self.session.close()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _keep(old: list[int], new: list[int]) -> bool:
    """Return whether the doorbells are the same, and then have the descriptors of old in the new place."""
    if not same_doorbells(old, new):
        return False
    close_all(new)
    new.extend(old)
    old.clear()
    return True
