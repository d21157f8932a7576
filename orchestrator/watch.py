"""What a supervisor sees of the machine itself: its progress, over the bus its state, and who is missing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.launch import Running
from orchestrator.plan import CPU
from orchestrator.record import BY_HAND
from orchestrator.report import Report
from protocol.bus import BusError, Disconnected
from protocol.errors import BusvmError, NotFound

if TYPE_CHECKING:
    from orchestrator.client import Client

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_SLOW_POLL_S = 1.0
_PATIENCE_S = 10.0
_PROGRESS = "progress: "
RUNS = frozenset({"running", "paused", "stalled", "off"})


class Watcher:
    """Follows one machine, over one bus after the other."""

    def __init__(self, running: Running, report: Report) -> None:
        self.has_run = False
        self._running = running
        self._report = report
        self._client: Client | None = None
        self._log_at = running.children[CPU].log_from
        self._fragment = ""
        self._stalled = 0

    async def run(self) -> None:
        """Watch until the machine is gone."""
        self._announce_by_hand()
        while True:
            try:
                await self._until_running()
                while True:
                    await asyncio.sleep(_SLOW_POLL_S)
                    await self._look()
            except Disconnected:
                continue  # the supervisor starts the bus again
            except BusvmError as error:
                logger.warning("no more news of the machine: %s", error.message)
                return

    def _announce_by_hand(self) -> None:
        for device in self._running.plan.devices:
            if self._running.record.entries[device.id].state == BY_HAND and not self._running.adopted:
                self._report.say(f"{device.id} is yours to start; in another terminal, in {device.cwd}:")
                self._report.say(f"  {device.command}")

    async def _until_running(self) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.time() + _PATIENCE_S
        while not self.has_run:
            self._show_progress()
            state = await self._state()
            if state in RUNS:
                self.has_run = True
                self._report.ran()
                return
            if state == "waiting" and loop.time() > patience:
                patience = loop.time() + 6 * _PATIENCE_S
                await self._say_missing()
            await asyncio.sleep(_POLL_S)

    async def _connected(self) -> Client:
        if self._client is None or not self._client.bus.is_connected:
            from orchestrator.client import Client

            self._client = None
            self._client = await Client.connect(self._running.runtime)
        return self._client

    async def _state(self) -> str:
        try:
            return await (await self._connected()).state()
        except (NotFound, TimeoutError, Disconnected):
            return "starting"

    def _show_progress(self) -> None:
        """Show what the machine says about lasting work."""
        try:
            with Path(self._running.plan.process(CPU).log).open("rb") as file:
                file.seek(self._log_at)
                data = file.read()
        except OSError:
            return
        self._log_at += len(data)
        *lines, self._fragment = (self._fragment + data.decode(errors="replace")).split("\n")
        for line in lines:
            if line.startswith(_PROGRESS):
                self._report.say(line.removeprefix(_PROGRESS))

    async def _say_missing(self) -> None:
        functions = await (await self._connected()).functions()
        missing = [name for name, shown in functions.items() if shown.get("State") != "attached"]
        yours = {d.id for d in self._running.plan.devices if self._running.record.entries[d.id].state == BY_HAND}
        if set(missing) - yours:
            self._report.say(
                f"still waiting for {', '.join(missing)} to attach (`orchestrator logs {self._running.plan.vm}`)"
            )

    async def _look(self) -> None:
        try:
            shown = await (await self._connected()).machine_properties()
        except (NotFound, BusError, TimeoutError):
            return
        self._stalled = self._stalled + 1 if shown.get("State") == "stalled" else 0
        if self._stalled == 2:  # longer than a restart takes
            self._report.say(f"guest time stands still: {shown.get('StateReason')}")

    # orders

    async def ask_has_run(self) -> bool:
        """Tell whether the guest has begun to run, by asking the machine if need be."""
        if not self.has_run:
            try:
                self.has_run = await self._state() in RUNS
            except BusvmError:
                return False
        return self.has_run

    async def ask_guest(self) -> bool:
        """Press the power button; tell whether the guest listens."""
        from orchestrator.client import PowerOff

        try:
            return await PowerOff(await self._connected()).ask_guest()
        except BusvmError:
            return False

    async def quit(self) -> bool:
        """End the machine; tell whether it took the order."""
        from orchestrator.client import PowerOff

        try:
            return await PowerOff(await self._connected()).quit()
        except BusvmError:
            return False

    def close(self) -> None:
        """Leave the bus."""
        if self._client is not None:
            self._client.close()
