"""A guest among the peers of a server: whom it can ring, and by what it is rung, connected past this process.

The guest's doorbells are the peers' eventfds, which the machine writes; the eventfds by which others ring this one
interrupt the guest likewise. So a device whose process is killed goes on ringing and being rung. The server has it for
a peer as long as the machine holds the other end of its lifeline, and its successor takes its place.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from devproc.alarm import Alarm
from devproc.descriptors import Descriptors
from devproc.ivshmem.client import Before, Client, Event, ServerBack, ServerGone
from devproc.ivshmem.memory import agreed_size
from devproc.machine import Wiring
from protocol.errors import BusvmError
from protocol.ivshmem import Joined, Left
from protocol.limits import raise_limit
from protocol.sizes import parse_size

logger = logging.getLogger(__name__)

Rung = Callable[[int], None]


@dataclass(frozen=True)
class Config:
    """Which server, and what is known of it without asking."""

    server: Annotated[Path, "the server's socket"]
    name: Annotated[str, "name among the peers, by which a successor has the same id"] = ""
    size: Annotated[str | None, "what the memory must have, such as 4M; without it, what the server has"] = None
    vectors: Annotated[int | None, "doorbells of this device; without it, as many as the server gives"] = None
    readonly: Annotated[bool, "the guest may not write the memory"] = False


def doorbell(peer: int, vector: int) -> int:
    """Return what a guest stores to ring a peer (QEMU docs/specs/ivshmem-spec.rst, "Doorbell")."""
    return peer << 16 | vector


class GuestPeer:
    """One peer; all methods run on the device loop."""

    def __init__(self, config: Config) -> None:
        """Join the server.

        Raises:
            HostError: it is not there, and what it has is not known either.
            ConfigError: it has something else than was expected.
        """
        raise_limit()
        self._config = config
        self._wiring: Wiring | None = None
        self._client: Client | None = None
        self._alarm = Alarm()
        self._descriptors = Descriptors()
        self._descriptors.watch(self._alarm.fd, lambda _: self._look())
        self._server = select.epoll()  # with one descriptor, or none: the client opens and closes it as it likes
        self._watched = -1
        self._descriptors.watch(self._server.fileno(), lambda _: self._look())
        self._rung: Rung | None = None
        self._own: list[int] = []  # those that are watched here
        self._lifeline = -1
        self._known: set[int] = set()  # values that are connected
        try:
            self._begin()
            self.size = self._checked_size()
        except BusvmError:
            self.close()
            raise
        self.vectors = config.vectors or (len(self._client.own) if self._client else 0)

    def _begin(self) -> None:
        """Join, unless nothing has to be asked: a successor comes with what the machine holds of its predecessor.

        A server that does not remember it either, because both were killed at once, takes it for the same peer then.
        """
        if self._config.size is None or self._config.vectors is None:
            self._join()

    def _checked_size(self) -> int:
        wanted = parse_size(self._config.size) if self._config.size is not None else 0
        if self._client is None or self._client.memory_fd < 0:  # the machine has it, if anybody
            return wanted
        return agreed_size(self._client.memory_size, wanted, "the server's memory")

    def _join(self, before: Before | None = None) -> None:
        here, there = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._client = Client(
                self._config.server,
                name=self._config.name,
                readonly=self._config.readonly,
                lifeline=here,
                before=before,
            )
        except BusvmError:
            os.close(there)
            raise
        finally:
            os.close(here)
        self._lifeline = there

    @property
    def id(self) -> int:
        """The id by which others ring this one."""
        return self._client.id if self._client else 0

    @property
    def counters(self) -> dict[str, int]:
        """How many others there are, and whether the server is."""
        client = self._client
        return {"peers": len(client.peers) if client else 0, "server": int(bool(client and client.connected))}

    @property
    def memory(self) -> tuple[int, bool] | None:
        """The memory's descriptor, and whether the guest may write; nothing without a server."""
        if self._client is None or self._client.memory_fd < 0:
            return None
        return self._client.memory_fd, not self._config.readonly

    @property
    def fd(self) -> int:
        """What to watch, and call ``turn`` when it is readable."""
        return self._descriptors.fd

    def turn(self) -> None:
        """Handle what happened."""
        self._descriptors.turn()

    # in a machine

    def attach(self, wiring: Wiring, *, resumed: bool, own_id: int) -> bool:
        """Connect everything in a machine; one that goes on has had the id before.

        Returns whether the machine has what rings this peer, from a predecessor.

        Raises:
            HostError: the server is not there, and the machine does not know it.
        """
        held, calls = wiring.held() if resumed else ({}, [])
        self._known = set(held)
        if self._client is None:
            self._join(_before(own_id, held, calls) if resumed else None)
            self._checked_size()
        else:
            for fd in [*held.values(), *calls]:
                os.close(fd)
            if self._lifeline < 0:  # the machine that held it is gone
                self._client.close()
                self._client = None
                self._join()
        self._wiring = wiring
        wiring.hold(self._lifeline)
        os.close(self._lifeline)
        self._lifeline = -1
        self._connect_all()
        self._look()
        return bool(calls)

    def leave(self) -> None:
        """Leave the machine."""
        self.watch_own(None)
        self._wiring = None

    def hand_over(self) -> None:
        """Have the machine take what rings this peer for interrupts of the guest."""
        self.watch_own(None)
        if self._wiring is not None and self._client is not None:
            self._wiring.calls(self._client.own[: self.vectors])

    def watch_own(self, rung: Rung | None) -> None:
        """Call ``rung`` with the vector when this peer is rung, in this process; ``None``: no more."""
        for fd in self._own:
            self._descriptors.unwatch(fd)
            os.close(fd)
        self._own = []
        self._rung = rung
        if rung is None or self._client is None:
            return
        if self._wiring is not None:
            self._wiring.calls([])
        for vector, fd in enumerate(self._client.own[: self.vectors]):
            copy = os.dup(fd)
            self._own.append(copy)
            self._descriptors.watch(copy, lambda _, vector=vector, fd=copy: self._ring(vector, fd))  # type: ignore[misc]

    def _ring(self, vector: int, fd: int) -> None:
        if self._rung is not None:
            self._rung(vector)
        with suppress(BlockingIOError):  # last: a successor of a process that dies here is rung again
            os.eventfd_read(fd)

    # who comes and goes

    def _connect_all(self) -> None:
        client, wiring = self._client, self._wiring
        if client is None or wiring is None:
            return
        now: dict[int, int] = {}
        for peer in [client.id, *client.peers]:
            now |= self._doorbells(peer)
        wiring.doorbells(now, self._known - now.keys())
        self._known = set(now)

    def _doorbells(self, peer: int) -> dict[int, int]:
        assert self._client is not None
        fds: Sequence[int] = self._client.own if peer == self._client.id else self._client.doorbells_of(peer)
        return {doorbell(peer, vector): fd for vector, fd in enumerate(fds)}

    def _look(self) -> None:
        """Take in what the server says, or look for it."""
        self._alarm.acknowledge()
        client = self._client
        if client is None:
            return
        try:
            while (event := client.wait_event(0)) is not None:
                self._take(event)
        except BusvmError as error:
            logger.error("server: %s", error)
        if self._watched >= 0:
            with suppress(OSError):  # closed, and with that forgotten
                self._server.unregister(self._watched)
        self._watched = client.fileno()
        if self._watched >= 0:
            self._server.register(self._watched, select.EPOLLIN)
        if client.wake_s is not None:
            self._alarm.set(client.wake_s)

    def _take(self, event: Event) -> None:
        wiring = self._wiring
        if isinstance(event, Joined) and self._client is not None and event.peer in self._client.peers:
            fds = self._doorbells(event.peer)
            self._known |= fds.keys()
            if wiring is not None:
                wiring.doorbells(fds)
        elif isinstance(event, Left):
            gone = [value for value in self._known if value >> 16 == event.peer]
            self._known.difference_update(gone)
            if wiring is not None and gone:
                wiring.doorbells({}, gone)
        elif isinstance(event, ServerBack):
            logger.info("the server is back")
            self._connect_all()
            if self._own:
                self.watch_own(self._rung)
            elif wiring is not None:
                self.hand_over()
        elif isinstance(event, ServerGone):
            logger.warning("the server is gone: memory and doorbells stay")
        else:
            logger.error("somebody has made the shared memory shorter: what is missing reads as zeros")

    def close(self) -> None:
        """Leave the server: with the machine's end of the lifeline open, others are told nothing."""
        self.watch_own(None)
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._alarm.close()
        self._server.close()
        self._descriptors.close()


def _before(own_id: int, held: dict[int, int], calls: list[int]) -> Before:
    """Return what a predecessor had; descriptors of its own that nobody needs twice are closed."""
    peers: dict[int, list[int]] = {}
    own: list[int] = []
    for value, fd in sorted(held.items()):
        (own if value >> 16 == own_id else peers.setdefault(value >> 16, [])).append(fd)
    if own:
        for fd in calls:
            os.close(fd)
    return Before(own_id, own or calls, peers)
