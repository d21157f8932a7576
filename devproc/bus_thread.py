"""The thread on which a process of ours is on the bus: it connects, shows objects, takes a name, and ends with the bus.

It runs the only asyncio loop of the process, and never touches what it shows: that belongs to the process's own loop,
on which calls are made.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from devproc.events import EventLoop
from protocol import names
from protocol.access import Guard, asking_machine
from protocol.bus import Bus, Disconnected
from protocol.errors import BusvmError
from protocol.objects import Tree


class BusThread:
    """Connects and shows what ``show`` adds; ``finished`` ends with the connection, or with what went wrong."""

    def __init__(self, loop: EventLoop, address: str) -> None:
        self.finished: Future[None] = Future()
        self._loop = loop
        self._address = address
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)

    async def show(self, bus: Bus, tree: Tree) -> None:
        """Add the objects, then take the name."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread."""
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
        self._asyncio = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        bus = await Bus.connect(self._address)
        await self.show(bus, Tree(bus, names.ROOT_PATH, Guard(asking_machine(bus))))
        await self._until_closed(bus)
        bus.close()

    async def _until_closed(self, bus: Bus) -> None:
        assert self._closing is not None
        waits: list[Coroutine[Any, Any, Any]] = [bus.wait_closed(), self._closing.wait()]
        tasks = [asyncio.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if not self._closing.is_set():
            raise Disconnected("the bus is gone")

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, and nobody closes it."""
        return self._closing is not None and not self._closing.is_set()

    def later(self, action: Callable[[], object]) -> None:
        """Do something on this thread; callable from any."""
        if self._asyncio is None:
            return
        try:
            self._asyncio.call_soon_threadsafe(action)
        except RuntimeError:
            return  # the thread has ended already

    def close(self) -> None:
        """Disconnect and wait for the thread."""
        if self._closing is not None:
            self.later(self._closing.set)
        self._thread.join(timeout=5)
