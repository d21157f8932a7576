"""Starts traces in the processes of a VM, and gathers what they write, until it is closed."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator
from typing import Any

from orchestrator.client import REGISTERS1, Client
from orchestrator.tracing.decode import Decoder, Entry, Names
from protocol import names
from protocol.bus import BusError, Fd, Variant
from protocol.errors import BusvmError, NotFound
from protocol.tasks import Tasks
from protocol.trace import Event, Reader, Side, create

TRACE1 = "org.busvm.Trace1"
_BACK_NS = 20_000_000  # an event may be seen so much later than its time says


class _Traced:
    """One device: its page, its two rings, and what decodes them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.page = create()
        self.decoder = Decoder(device, Names())
        self.readers = {side: Reader(self.page, side) for side in Side}


class Session:
    """Traces ``devices`` of the VM that ``client`` is connected to."""

    def __init__(self, client: Client, devices: list[str], *, registers: bool) -> None:
        self._client = client
        self._registers = registers
        self._traced = {device: _Traced(device) for device in devices}
        self._ours, self._theirs = os.pipe2(os.O_CLOEXEC)[::-1]  # they see the end of it when this process ends
        self._waiting: list[tuple[int, int, Event, Side, _Traced]] = []
        self._seen = 0
        self._tasks = Tasks()

    @property
    def lost(self) -> int:
        """Events that were overwritten before they were read."""
        return sum(reader.lost for traced in self._traced.values() for reader in traced.readers.values())

    async def start(self) -> None:
        """Start everywhere.

        Raises:
            BusvmError: a process refuses, because somebody else traces the device.
        """
        await self._client.bus.watch_names(self._on_name)
        for traced in self._traced.values():
            await self._begin(names.MACHINE_NAME, traced, {"registers": Variant("b", self._registers)})
            await self._follow(traced)

    def _on_name(self, name: str, _old: str, new: str) -> None:
        traced = self._traced.get(name.removeprefix(names.DEVICE_NAME_PREFIX))
        if traced is not None and new:
            self._tasks.start(self._follow(traced))

    async def _follow(self, traced: _Traced) -> None:
        """Start in the device's process if there is one: at the beginning, and in each that comes later."""
        owner, path = names.device_name(traced.device), names.device_path(traced.device)
        try:
            rows = (await self._client.bus.call(owner, path, REGISTERS1, "List", timeout_s=5.0))[0]
            shown = await self._client.properties(owner, path, TRACE1)
            await self._begin(owner, traced, {})
        except NotFound:
            return  # it is gone
        traced.decoder.names = Names(
            {(bar, offset): (name, width) for name, bar, offset, width, _access, _doc in rows},
            shown["Request"],
            shown["Answer"],
        )

    async def _begin(self, owner: str, traced: _Traced, options: dict[str, Any]) -> None:
        path, body = names.device_path(traced.device), [Fd(traced.page.shared.fd), Fd(self._theirs), options]
        try:
            await self._client.bus.call(owner, path, TRACE1, "Start", "hha{sv}", body, timeout_s=5.0)
        except BusError as error:
            raise BusvmError(f"{traced.device} cannot be traced: {error.message}") from error

    def entries(self, *, all_of_them: bool = False) -> Iterator[Entry]:
        """Yield what has come, in the order of its time.

        What is so new that something older may still come waits, unless ``all_of_them`` are asked for.
        """
        for traced in self._traced.values():
            for side, reader in traced.readers.items():
                for event in reader.take():
                    self._seen += 1
                    heapq.heappush(self._waiting, (event.time_ns, self._seen, event, side, traced))
        until = time.monotonic_ns() - _BACK_NS
        while self._waiting and (all_of_them or self._waiting[0][0] < until):
            _time, _seen, event, side, traced = heapq.heappop(self._waiting)
            yield traced.decoder(event, side)

    async def close(self) -> None:
        """Stop everywhere."""
        for traced in self._traced.values():
            for owner in (names.MACHINE_NAME, names.device_name(traced.device)):
                path = names.device_path(traced.device)
                try:
                    await self._client.bus.call(owner, path, TRACE1, "Stop", timeout_s=2.0)
                except (BusvmError, TimeoutError):
                    continue  # gone, or about to go: the lifeline tells it
        os.close(self._ours)
        os.close(self._theirs)

    def release(self) -> None:
        """Unmap the pages, after the last ``entries``."""
        for traced in self._traced.values():
            traced.page.shared.close()
