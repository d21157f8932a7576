"""The server on the bus: org.busvm.Ivshmem1, served from a thread of its own."""

from __future__ import annotations

from devproc.bus_thread import BusThread
from devproc.events import EventLoop
from devproc.ivshmem.peer import Peer
from devproc.ivshmem.service import Service
from protocol import names
from protocol.bus import Bus
from protocol.objects import Tree

IVSHMEM1 = "org.busvm.Ivshmem1"

Shown = tuple[int, int, str, int, str, bool, bool, dict[str, int]]


class Ivshmem1:
    """org.busvm.Ivshmem1; what is shown is asked of the server's own thread."""

    def __init__(self, loop: EventLoop, service: Service) -> None:
        self._loop = loop
        self._service = service

    @property
    def peers(self) -> list[Shown]:
        """Return who is there."""
        return self._loop.call(lambda: [_shown(peer) for peer in self._service.peers.values()]).result(5)

    @property
    def vectors(self) -> int:
        """Return how many doorbells each peer has."""
        return self._service.config.vectors

    @property
    def size(self) -> int:
        """Return the bytes of the memory."""
        return self._service.config.size

    @property
    def counters(self) -> dict[str, int]:
        """Return what the server counts."""
        return self._loop.call(lambda: dict(self._service.counters)).result(5)


def _shown(peer: Peer) -> Shown:
    kind, counters = peer.kind.value, dict(peer.counters)
    return peer.id, max(0, peer.pid), peer.name, int(peer.since), kind, peer.away, peer.readonly, counters


class IvshmemOnBus(BusThread):
    """A server on a bus, until ``close`` or until the bus is gone: then the server ends too."""

    def __init__(self, loop: EventLoop, service: Service, address: str, server_id: str) -> None:
        super().__init__(loop, address)
        self._service, self._id = service, server_id

    async def show(self, bus: Bus, tree: Tree) -> None:
        """Add Ivshmem1."""
        path = names.ivshmem_path(self._id)
        tree.add(path, IVSHMEM1, Ivshmem1(self._loop, self._service))

        def changed() -> None:
            self.later(lambda: tree.changed(path, IVSHMEM1, "Peers"))

        def tell(signal: str, peer: Peer) -> None:
            arguments = peer.id, max(0, peer.pid)
            self.later(lambda: tree.signal(path, IVSHMEM1, signal, *arguments))
            changed()

        self._service.joined = lambda peer: tell("PeerJoined", peer)
        self._service.left = lambda peer: tell("PeerLeft", peer)
        self._service.changed = lambda _peer: changed()
        await bus.request_name(names.ivshmem_name(self._id))
