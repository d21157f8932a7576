"""The hub on the bus: org.busvm.Hub1, served from a thread of its own."""

from __future__ import annotations

from devproc.bus_thread import BusThread
from devproc.events import EventLoop
from devproc.hub.hub import Hub
from protocol import names
from protocol.bus import Bus
from protocol.objects import Tree

HUB1 = "org.busvm.Hub1"


class Hub1:
    """org.busvm.Hub1; what is shown is asked of the hub's own thread."""

    def __init__(self, loop: EventLoop, hub: Hub) -> None:
        self._loop = loop
        self._hub = hub

    @property
    def ports(self) -> list[tuple[str, bool, dict[str, int]]]:
        """Return name, whether it is a card of ours, and counters of each port."""
        return self._loop.call(lambda: [(p.name, p.headers, dict(p.counters)) for p in self._hub.ports]).result(5)

    @property
    def macs(self) -> dict[str, tuple[str, float]]:
        """Return port and age in seconds of each address that was heard."""
        return self._loop.call(self._hub.switch.macs).result(5)

    @property
    def counters(self) -> dict[str, int]:
        """Return what the switch counts."""
        return self._loop.call(lambda: dict(self._hub.switch.counters)).result(5)


class HubOnBus(BusThread):
    """A hub on a VM's bus, until ``close`` or until the bus is gone: then the hub ends too."""

    def __init__(self, loop: EventLoop, hub: Hub, address: str, hub_id: str) -> None:
        super().__init__(loop, address)
        self._hub, self._id = hub, hub_id

    async def show(self, bus: Bus, tree: Tree) -> None:
        """Add Hub1."""
        path = names.hub_path(self._id)
        tree.add(path, HUB1, Hub1(self._loop, self._hub))
        self._hub.changed = lambda: self.later(lambda: tree.changed(path, HUB1, "Ports"))
        await bus.request_name(names.hub_name(self._id))
