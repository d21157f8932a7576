"""A peer in a host program: shares the memory, rings others, waits to be rung.

    with client.connect("shared/socket") as me:
        me.memory[0:5] = b"hello"
        me.ring(peer=0, vector=0)
        me.wait(vector=0, timeout_s=1)

One thread at a time. With a server of ours the dialect is spoken: when the server ends, memory and doorbells stay, and
``process`` connects again, with the same id, when there is one again. With another server version 0 is spoken. For
asyncio: ``await client.connect_async(path)``. ``python -m devproc.ivshmem.client`` is the same as a command.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from protocol.errors import HostError, NotFound, PeerGone, ProtocolError, Refused
from protocol.ivshmem import Hello, Joined, Left, Receiver, Session, Stage, checked_name, send

if TYPE_CHECKING:
    from devproc.ivshmem.asynchronous import AsyncClient

DIALECT_SUFFIX = ".busvm"
RECONNECT_S = 0.5
_QUIET_S = 0.05  # a server of version 0 does not say how many vectors there are: it says no more


@dataclass(frozen=True)
class ServerGone:
    """The server has ended; memory and doorbells stay, nobody is told who comes and goes."""


@dataclass(frozen=True)
class ServerBack:
    """A server is there again, and this client has its id."""


Event = Joined | Left | ServerGone | ServerBack


class Client:
    """A connected peer; ``id``, ``peers`` and ``memory`` are as the server said last."""

    def __init__(self, path: Path, *, name: str = "", timeout_s: float = 5.0) -> None:
        """Connect.

        Raises:
            HostError: nobody listens there, or the memory cannot be mapped.
            ProtocolError: what listens there is no server, or does not take us.
        """
        checked_name(name.encode())
        self.name = name
        self._path = path
        self._timeout_s = timeout_s
        self._events: deque[Event] = deque()
        self._again = 0.0
        self._socket: socket.socket | None = None
        self._session, self._receiver = self._connect(Hello(name=name))
        try:
            self._map = mmap.mmap(self._session.memory, 0)
        except (OSError, ValueError) as error:
            self._session.close()
            self._hang_up()
            raise HostError(f"cannot map the shared memory: {error}") from error
        self.memory = memoryview(self._map)

    @property
    def id(self) -> int:
        """The id by which others ring this one."""
        return self._session.id

    @property
    def peers(self) -> dict[int, int]:
        """How many vectors each other peer has, by id."""
        return {peer: len(fds) for peer, fds in sorted(self._session.peers.items())}

    @property
    def vectors(self) -> int:
        """How many vectors this one has."""
        return len(self._session.own)

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._socket is not None

    def fileno(self) -> int:
        """The descriptor that is readable when ``process`` has something to do; -1 without a server."""
        return self._socket.fileno() if self._socket else -1

    def doorbell(self, vector: int) -> int:
        """Return the eventfd of an own vector.

        Raises:
            NotFound: there is no such vector.
        """
        return _one(self._session.own, vector, "we have")

    # doorbells

    def ring(self, peer: int, vector: int = 0) -> None:
        """Ring a peer, or oneself.

        Raises:
            NotFound: there is no such peer or vector.
        """
        self.process()
        fds = self._session.own if peer == self.id else self._session.peers.get(peer)
        if fds is None:
            raise NotFound(f"no peer {peer}", hint=f"there are {', '.join(map(str, self.peers)) or 'none'}")
        try:
            os.eventfd_write(_one(fds, vector, f"peer {peer} has"), 1)
        except BlockingIOError:
            pass  # it has been rung 2^64 - 2 times and has not looked

    def wait(self, vector: int = 0, timeout_s: float | None = None) -> int:
        """Return how often this vector was rung since the last time; 0: not in ``timeout_s``.

        Raises:
            NotFound: there is no such vector.
        """
        self.doorbell(vector)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            fd = self.doorbell(vector)  # another one perhaps, after a server was started again
            try:
                return os.eventfd_read(fd)
            except BlockingIOError:
                pass
            if not self._poll([fd], deadline):
                return 0
            self.process()

    def wait_event(self, timeout_s: float | None = None) -> Event | None:
        """Return who came or went next; ``None``: nobody in ``timeout_s``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self.process()
            if self._events:
                return self._events.popleft()
            if not self._poll([], deadline):
                return None

    def _poll(self, fds: list[int], deadline: float | None) -> bool:
        """Wait for something; return whether the time is not over."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        poll = select.poll()
        for fd in [*fds, *([self.fileno()] if self._socket else [])]:
            poll.register(fd, select.POLLIN)
        if self._socket is None:
            left = RECONNECT_S if left is None else min(left, RECONNECT_S)
        poll.poll(None if left is None else left * 1000)
        return True

    # the server

    def process(self) -> None:
        """Take in what the server said, or connect again; never waits for a server that is not there.

        Raises:
            ProtocolError: a server that was started again has other memory, or does not take us.
        """
        if self._socket is None:
            if self._session.dialect and time.monotonic() >= self._again:
                self._reconnect()
            return
        try:
            while (message := self._receiver.receive()) is not None:
                event = self._session.take(message)
                if event is not None:
                    self._events.append(event)
        except ProtocolError as error:
            self._hang_up()
            self._events.append(ServerGone())
            if not isinstance(error, PeerGone):
                self._session.dialect = False  # not again
                raise

    def _reconnect(self) -> None:
        self._again = time.monotonic() + RECONNECT_S
        old = self._session
        known = {old.id: old.own, **old.peers}
        try:
            session, self._receiver = self._connect(Hello(old.id, self.name, known))
        except (HostError, PeerGone):
            return
        if not os.path.sameopenfile(old.memory, session.memory):
            session.close()
            self._hang_up()
            self._session.dialect = False
            raise Refused("the server was started again with other memory", hint="--memory NAME keeps it")
        self._session = session
        self._events.append(ServerBack())
        self._events.extend(Left(peer) for peer in old.peers.keys() - session.peers.keys())
        self._events.extend(Joined(peer) for peer in session.peers.keys() - old.peers.keys())
        old.close()

    def _connect(self, hello: Hello) -> tuple[Session, Receiver]:
        """Connect and take in all up to our own vectors."""
        dialect = self._path.with_name(self._path.name + DIALECT_SUFFIX)
        is_ours = dialect.exists() or hello.id >= 0
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        session, receiver = Session(is_ours), Receiver(sock)
        deadline = time.monotonic() + self._timeout_s
        try:
            sock.settimeout(self._timeout_s)
            sock.connect(str(dialect if is_ours else self._path))
            if is_ours:
                for value, fd in hello.words():
                    send(sock, value, fd)
            sock.setblocking(False)
            while not _settled(session, sock, receiver, deadline):
                pass
        except OSError as error:
            session.close()
            receiver.close()
            sock.close()
            raise HostError(f"{self._path}: {error.strerror or error}", hint="is the server there?") from error
        except BaseException:
            session.close()
            receiver.close()
            sock.close()
            raise
        self._socket = sock
        return session, receiver

    def _hang_up(self) -> None:
        self._receiver.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Leave; the memory must not be used any more."""
        self._hang_up()
        self.memory.release()
        self._map.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _settled(session: Session, sock: socket.socket, receiver: Receiver, deadline: float) -> bool:
    """Take in one message; return whether all is there."""
    if session.complete and session.vectors:
        return True
    try:
        message = receiver.receive()
    except PeerGone:
        if not session.complete:
            raise
        session.vectors = len(session.own)
        return True  # `process` will tell
    if message is not None:
        session.take(message)
        return False
    left = _QUIET_S if session.complete else deadline - time.monotonic()
    if left > 0 and select.select([sock], [], [], left)[0]:
        return False
    if not session.complete:
        stage = "our vectors" if session.stage is Stage.PEERS else session.stage.value
        raise PeerGone(f"the server does not go on: {stage} did not come")
    session.vectors = len(session.own)
    return True


def _one(fds: list[int], vector: int, who: str) -> int:
    if not 0 <= vector < len(fds):
        raise NotFound(f"no vector {vector}: {who} {len(fds)}")
    return fds[vector]


def connect(path: Path | str, *, name: str = "", timeout_s: float = 5.0) -> Client:
    """Return a client of the server at ``path``; by ``name`` another process gets the same id later."""
    return Client(Path(path), name=name, timeout_s=timeout_s)


async def connect_async(path: Path | str, *, name: str = "", timeout_s: float = 5.0) -> AsyncClient:
    """Return a client for asyncio."""
    from devproc.ivshmem.asynchronous import AsyncClient

    return await AsyncClient.connect(Path(path), name=name, timeout_s=timeout_s)


if __name__ == "__main__":
    from devproc.ivshmem.commands import main

    sys.exit(main())
