"""A peer in a host program: shares the memory, rings others, waits to be rung.

    with client.connect("shared/socket") as me:
        me.memory[0:5] = b"hello"
        me.ring(peer=0, vector=0)
        me.wait(vector=0, timeout_s=1)

One thread at a time. With a server of ours the dialect is spoken: when the server ends, memory and doorbells stay, and
``process`` connects again, with the same id, when there is one again. With another server version 0 is spoken, which
knows neither names nor lifelines nor who only reads. For asyncio: ``await client.connect_async(path)``.
``python -m devproc.ivshmem.client`` is the same as a command.
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from devproc.ivshmem.mapping import Mapping
from devproc.ivshmem.membership import RECONNECT_S, Before, Event, Membership, ServerBack, ServerGone, Torn
from protocol.errors import HostError, NotFound
from protocol.ivshmem import Joined, Left

if TYPE_CHECKING:
    from devproc.ivshmem.asynchronous import AsyncClient

__all__ = [
    "RECONNECT_S", "Before", "Client", "Event", "Joined", "Left", "ServerBack", "ServerGone", "Torn", "connect",
    "connect_async",
]  # fmt: skip


class Client:
    """A connected peer; ``id``, ``peers`` and ``memory`` are as the server said last."""

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        timeout_s: float = 5.0,
        readonly: bool = False,
        lifeline: int | None = None,
        before: Before | None = None,
    ) -> None:
        """Connect; with ``before``, a server that is not there is ``ServerGone`` and looked for later.

        While the ``lifeline``, of which the client keeps a copy, does not hang up, others do not notice that this
        process has ended, and who comes with its name has its id and doorbells.

        Raises:
            HostError: nobody listens there.
            ProtocolError: what listens there is no server, or does not take us; a name or lifeline is none.
        """
        self._mapping: Mapping | None = None
        self._size = 0
        self._readonly = readonly
        self._place = Membership(path, name, timeout_s, readonly=readonly, lifeline=lifeline, before=before)
        self._size = self.memory_size  # before anybody makes it shorter

    @property
    def name(self) -> str:
        """The name by which another process has the same id later."""
        return self._place.name

    @property
    def id(self) -> int:
        """The id by which others ring this one."""
        return self._place.session.id

    @property
    def peers(self) -> dict[int, int]:
        """How many vectors each other peer has, by id."""
        return {peer: len(fds) for peer, fds in sorted(self._place.session.peers.items())}

    @property
    def vectors(self) -> int:
        """How many vectors this one has."""
        return len(self._place.session.own)

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._place.connected

    @property
    def readonly(self) -> bool:
        """Whether the memory is mapped for reading only."""
        return self._readonly

    # memory

    @property
    def memory_fd(self) -> int:
        """The shared memory's descriptor, which stays the client's; -1: no server was there yet."""
        return self._place.session.memory

    @property
    def memory_size(self) -> int:
        """How many bytes the memory had when it came; 0: no server was there yet."""
        if not self._size and self.memory_fd >= 0:
            self._size = os.fstat(self.memory_fd).st_size
        return self._size

    @property
    def memory(self) -> memoryview:
        """The shared memory, mapped when it is first asked for; raises ``HostError`` if that cannot be."""
        if self._mapping is None:
            if self.memory_fd < 0:
                raise HostError("no shared memory: no server was there yet")
            self._mapping = Mapping(self.memory_fd, self.memory_size, readonly=self._readonly)
        return self._mapping.view

    # doorbells

    @property
    def own(self) -> list[int]:
        """The eventfds that this one is rung by; they stay the client's."""
        return list(self._place.session.own)

    def doorbell(self, vector: int) -> int:
        """Return the eventfd of an own vector.

        Raises:
            NotFound: there is no such vector.
        """
        return _one(self._place.session.own, vector, "we have")

    def doorbells_of(self, peer: int) -> list[int]:
        """Return the eventfds that ring another one; they stay the client's.

        Raises:
            NotFound: there is no such peer.
        """
        fds = self._place.session.peers.get(peer)
        if fds is None:
            raise NotFound(f"no peer {peer}", hint=f"there are {', '.join(map(str, self.peers)) or 'none'}")
        return list(fds)

    def ring(self, peer: int, vector: int = 0) -> None:
        """Ring a peer, or oneself.

        Raises:
            NotFound: there is no such peer or vector.
        """
        self.process()
        fds = self._place.session.own if peer == self.id else self.doorbells_of(peer)
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

    # the server

    def process(self) -> None:
        """Take in what the server said, or connect again; never waits.

        Raises:
            ProtocolError: a server that was started again has other memory, or does not take us.
        """
        if self._mapping is not None and self._mapping.has_torn():
            self._place.events.append(Torn())
        self._place.process()

    def wait_event(self, timeout_s: float | None = None) -> Event | None:
        """Return who came or went next; ``None``: nobody in ``timeout_s``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self.process()
            if self._place.events:
                return self._place.events.popleft()
            if not self._poll([], deadline):
                return None

    def fileno(self) -> int:
        """The descriptor that is readable when ``process`` has something to do; -1 without a server."""
        return self._place.fileno()

    @property
    def wake_s(self) -> float | None:
        """How long ``process`` has nothing to do if nothing is readable; ``None``: for ever."""
        return self._place.wake_s

    def _poll(self, fds: list[int], deadline: float | None) -> bool:
        """Wait for something; return whether the time is not over."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        poll = select.poll()
        for fd in (*fds, self.fileno()):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        times = [seconds for seconds in (left, self.wake_s) if seconds is not None]
        poll.poll(min(times) * 1000 + 1 if times else None)
        return True

    def close(self) -> None:
        """Leave; the memory must not be used any more."""
        self._place.close()
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _one(fds: list[int], vector: int, who: str) -> int:
    if not 0 <= vector < len(fds):
        raise NotFound(f"no vector {vector}: {who} {len(fds)}")
    return fds[vector]


def connect(path: Path | str, *, name: str = "", timeout_s: float = 5.0, readonly: bool = False) -> Client:
    """Return a client of the server at ``path``; by ``name`` another process gets the same id later."""
    return Client(Path(path), name=name, timeout_s=timeout_s, readonly=readonly)


async def connect_async(
    path: Path | str, *, name: str = "", timeout_s: float = 5.0, readonly: bool = False
) -> AsyncClient:
    """Return a client for asyncio."""
    from devproc.ivshmem.asynchronous import AsyncClient

    return await AsyncClient.connect(Path(path), name=name, timeout_s=timeout_s, readonly=readonly)


if __name__ == "__main__":
    from devproc.ivshmem.commands import main

    sys.exit(main())
