"""The thread on which a process of ours is on the bus: it connects, shows objects, takes a name, and stays.

When the bus dies, the process works on, and is there again with the next one; only when none comes does it end.

It runs the only asyncio loop of the process, and never touches what it shows: that belongs to the process's own loop,
on which calls are made.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from devproc.events import EventLoop
from protocol import names
from protocol.access import Guard, asking_machine
from protocol.bus import Bus, Disconnected
from protocol.errors import BusvmError
from protocol.objects import Tree
from protocol.staying import stay

Work = Callable[[Bus | None], Coroutine[Any, Any, None]]


class Ahead:
    """The thread, and a connection that it goes on with: a process that stands by is connected before it has one.

    It has none then, because a sandbox does not hold for threads that were there before it.
    """

    def __init__(self, address: str) -> None:
        self.thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._address = address
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._bus: Bus | None = None
        self._work: Work

    def connect(self) -> None:
        """Connect, if there is a bus."""
        self._asyncio = asyncio.new_event_loop()
        with suppress(BusvmError):  # whoever shows something says it, or finds it there again
            self._bus = self._asyncio.run_until_complete(Bus.connect(self._address))

    def begin(self, work: Work) -> None:
        """Do ``work`` on the thread, with the connection if there is one already."""
        self._work = work
        self.thread.start()

    def close(self) -> None:
        """Disconnect, if nothing has begun."""
        if self._bus is not None:
            self._bus.close()
        if self._asyncio is not None:
            self._asyncio.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._asyncio or asyncio.new_event_loop()) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        for _ in range(2):
            await asyncio.sleep(0)  # what was said meanwhile: perhaps that the bus is gone
        await self._work(self._bus if self._bus and self._bus.is_connected else None)


class BusThread:
    """Connects and shows what ``show`` adds; ``finished`` ends with the bus, or with what went wrong."""

    def __init__(self, loop: EventLoop, address: str, ahead: Ahead | None = None) -> None:
        self.finished: Future[None] = Future()
        self._loop = loop
        self._address = address
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._ahead = ahead or Ahead(address)

    async def show(self, bus: Bus, tree: Tree) -> None:
        """Add the objects, then take the name."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin."""
        self._ahead.begin(self._run)

    async def _run(self, bus: Bus | None) -> None:
        try:
            await self._main(bus)
            self.finished.set_result(None)
        except BusvmError as error:
            self.finished.set_exception(error)
        finally:
            self._loop.stop()

    async def _main(self, bus: Bus | None) -> None:
        self._asyncio = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        bus = bus or await Bus.connect(self._address)
        await self.show(bus, Tree(bus, names.ROOT_PATH, Guard(asking_machine(bus))))
        closing = asyncio.create_task(self._closing.wait())
        staying = asyncio.create_task(stay(bus))
        await asyncio.wait([closing, staying], return_when=asyncio.FIRST_COMPLETED)
        for task in (closing, staying):
            task.cancel()
        bus.close()
        if not self._closing.is_set():
            await staying  # with what it has failed with, if it has
            raise Disconnected("the bus is gone for good")

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
        self._ahead.thread.join(timeout=5)
