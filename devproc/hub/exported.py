"""The hub on the bus: org.busvm.Hub1, served from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from devproc.events import EventLoop
from devproc.hub.hub import Hub
from protocol import names
from protocol.bus import Bus
from protocol.errors import BusvmError
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


class BusThread:
    """Shows a hub on a VM's bus until ``close``, or until the bus is gone: then the hub ends too."""

    def __init__(self, loop: EventLoop, hub: Hub, address: str, hub_id: str) -> None:
        self._loop, self._hub, self._address, self._id = loop, hub, address, hub_id
        self.finished: Future[None] = Future()
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._closing: asyncio.Event | None = None

    def start(self) -> None:
        """Connect."""
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
            self.finished.set_result(None)
        except BusvmError as error:
            self.finished.set_exception(error)
        finally:
            self._loop.stop()

    async def _main(self) -> None:
        loop = self._asyncio = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        bus = await Bus.connect(self._address)
        tree = Tree(bus, names.ROOT_PATH)
        path = names.hub_path(self._id)
        tree.add(path, HUB1, Hub1(self._loop, self._hub))
        self._hub.changed = lambda: self._from_hub(loop, lambda: tree.changed(path, HUB1, "Ports"))
        await bus.request_name(names.hub_name(self._id))
        closed = [asyncio.create_task(bus.wait_closed()), asyncio.create_task(self._wait())]
        await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        for task in closed:
            task.cancel()
        bus.close()

    async def _wait(self) -> None:
        assert self._closing is not None
        await self._closing.wait()

    @staticmethod
    def _from_hub(loop: asyncio.AbstractEventLoop, action: object) -> None:
        try:
            loop.call_soon_threadsafe(action)  # type: ignore[arg-type]
        except RuntimeError:
            return  # the bus thread has ended already

    def close(self) -> None:
        """Disconnect and wait for the thread."""
        if self._asyncio is not None and self._closing is not None:
            self._from_hub(self._asyncio, self._closing.set)
        self._thread.join(timeout=5)
