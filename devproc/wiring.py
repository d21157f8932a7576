"""Wiring over the bus: what a device connects past its process, as calls of the machine's Wiring1.

The device says it on its loop and goes on; the calls follow in order from the thread of the bus, with copies of the
descriptors. ``held`` alone waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from devproc.machine import Wiring
from protocol import names
from protocol.bus import Bus, Disconnected, Fd
from protocol.errors import BusvmError, NotFound

logger = logging.getLogger(__name__)

WIRING1 = "org.busvm.Wiring1"
_BATCH = 250  # descriptors a message (org.busvm.Wiring1.xml)
_HELD_S = 5.0
_BUS_S, _AGAIN_S = 5.0, 0.05  # for a bus that was killed to be there again

Later = Callable[[Callable[[], None]], None]


class BusWiring(Wiring):
    """The wiring of device ``device_id``; ``later`` calls on the thread of the bus."""

    def __init__(self, bus: Bus, device_id: str, later: Later, loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._path = names.device_path(device_id)
        self._later = later
        self._loop = loop
        self._last: asyncio.Task[None] | None = None

    def doorbells(self, connect: Mapping[int, int], forget: Collection[int] = ()) -> None:
        """Have stores of values write eventfds."""
        kept = [value for value in forget if value not in connect]
        if kept:
            self._say("ConnectDoorbells", "a(uh)au", [], lambda _: [[], kept])
        pairs = list(connect.items())
        for some in (pairs[at : at + _BATCH] for at in range(0, len(pairs), _BATCH)):
            values = [value for value, _ in some]
            self._say(
                "ConnectDoorbells",
                "a(uh)au",
                [fd for _, fd in some],
                lambda fds, values=values: [list(zip(values, fds, strict=True)), []],  # type: ignore[misc]
            )

    def calls(self, fds: Sequence[int]) -> None:
        """Have eventfds interrupt the guest."""
        self._say("ConnectCalls", "ah", fds, lambda sent: [sent])

    def hold(self, fd: int) -> None:
        """Have a descriptor kept."""
        self._say("Hold", "h", [fd], lambda sent: [sent[0]])

    def _say(self, member: str, signature: str, fds: Sequence[int], body: Callable[[list[Fd]], list[Any]]) -> None:
        copies = [os.dup(fd) for fd in fds]

        async def call() -> None:
            try:
                await self._insist(member, signature, body([Fd(fd) for fd in copies]))
            except (BusvmError, TimeoutError) as error:
                logger.warning("%s: %s", member, error)
            finally:
                for fd in copies:
                    os.close(fd)

        self._later(lambda: self._follow(call))

    async def _insist(self, member: str, signature: str, body: list[Any]) -> None:
        """Call the machine, again if the bus dies on the way: saying it twice is harmless."""
        patience = time.monotonic() + _BUS_S
        while True:
            try:
                await self._bus.call(names.MACHINE_NAME, self._path, WIRING1, member, signature, body)
            except (Disconnected, NotFound):
                if time.monotonic() > patience:
                    raise
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def _follow(self, call: Callable[[], Awaitable[None]]) -> None:
        before = self._last

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait([before])
            await call()

        self._last = asyncio.get_running_loop().create_task(in_turn())

    def held(self) -> tuple[dict[int, int], list[int]]:
        """Return what a predecessor has connected; nothing if the machine does not say it in time."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            return asked.result(_HELD_S)
        except (BusvmError, TimeoutError) as error:
            asked.cancel()
            logger.warning("what was connected is not known: %s", error)
            return {}, []

    async def _ask(self) -> tuple[dict[int, int], list[int]]:
        found: dict[int, int] = {}
        calls: list[int] = []
        first = 0
        while True:
            some, more = await self._bus.call(names.MACHINE_NAME, self._path, WIRING1, "Held", "u", [first])
            found |= {int(value): int(fd) for value, fd in some}
            calls += [int(fd) for fd in more]
            if not some:
                return found, calls
            first = max(found) + 1
