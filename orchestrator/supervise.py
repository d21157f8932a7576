"""Watches a VM's processes: restarts devices, ends when the machine ends, leads the way down.

It is on no path of the guest: killed, it leaves a VM that runs on, and a later ``up`` takes over. One event loop;
``Supervisor.run`` belongs to it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time

from orchestrator import faults, orders, requests, spawn
from orchestrator.changing import RELOAD, SWAP, Changer
from orchestrator.config import Config
from orchestrator.launch import ENDING_SIGNALS, Running
from orchestrator.lock import CALL
from orchestrator.plan import BUS, CPU
from orchestrator.plugging import Plugger
from orchestrator.record import BY_HAND, FAILED, RESTARTING, UNPLUGGED
from orchestrator.report import Report
from orchestrator.restart import Again, GiveUp, Policy
from orchestrator.spares import Spares
from orchestrator.spawn import Child, status_text
from orchestrator.watch import Watcher
from protocol.errors import SOFTWARE, BusvmError, HostError
from protocol.tasks import Tasks

logger = logging.getLogger(__name__)

GRACE_S = 10.0  # for a guest to power down
_QUIT_S = 5.0
_SPARE_S = 0.5  # from a start until another process is loaded to stand by


class Supervisor:
    """Supervises one VM until its end."""

    def __init__(self, running: Running, config: Config | None, report: Report) -> None:
        self._running = running
        self._config = config
        self._report = report
        self._watcher = Watcher(running, report)
        self._spares = Spares(running)
        self._plugger = Plugger(running, self._begin, self._end_for_good)
        self._changer = Changer(running, self._spares, self._look_after, self._anew)
        self._policies = {p.id: Policy(p.restart) for p in running.plan.restartable}
        self._bus_policy = Policy("always")
        self._wanted: set[str] = set()  # devices whose end was asked for, to start anew
        self._tasks = Tasks()
        self._asked_down = 0
        self._forced: int | None = None

    async def run(self) -> int:
        """Return the guest's exit status when the VM has ended; its other processes still run then.

        Raises:
            BusvmError: it did not come up, or broke.
        """
        loop = asyncio.get_running_loop()
        self._final: asyncio.Future[int] = loop.create_future()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self.ask_down, 128 + number)
        loop.add_signal_handler(CALL, self._serve_requests)
        for child in list(self._running.children.values()):
            child.watch(self._on_end)
        self._restart_dead()
        for device in self._running.plan.restartable:
            self._stand_by_soon(device.id)
        self._tasks.start(self._watcher.run())
        self._serve_requests()
        try:
            return await self._final
        finally:
            self._tasks.cancel()
            self._watcher.close()
            self._spares.close()

    def _finish(self, result: int | BusvmError) -> None:
        if self._final.done():
            return
        if isinstance(result, BusvmError):
            logger.error("%s", result.message)
            self._final.set_exception(result)
        else:
            logger.info("the guest has ended with status %d", result)
            self._final.set_result(result)

    # the end of a process

    def _on_end(self, child: Child) -> None:
        name = child.process.id
        if self._final.done() or self._running.children.get(name) is not child:
            return
        logger.info("%s (pid %d) %s", name, child.entry.pid, status_text(child.status))
        if name == CPU:
            self._machine_ended(child)
        elif name == BUS:
            self._tasks.start(self._bus_ended(child))
        else:
            self._tasks.start(self._device_ended(child))

    def _machine_ended(self, child: Child) -> None:
        lines = spawn.tail(child)
        status = faults.logged_exit(lines) if child.status is None else child.status
        if self._forced is not None:
            self._finish(self._forced)
        elif status is None:
            self._finish(BusvmError("the machine process ended without an exit status", hint="was it killed?"))
        elif not self._watcher.has_run and (status == SOFTWARE or (status in (2, 4) and faults.said(lines)[0])):
            self._finish(faults.explain(self._config, CPU, status_text(status), status, lines))
        elif status < 0:
            hint = f"its last words: {faults.last_words(lines)}" if faults.last_words(lines) else None
            self._finish(BusvmError(f"the machine process {status_text(status)}", hint=hint))
        else:
            self._finish(status)

    async def _device_ended(self, child: Child) -> None:
        name, how = child.process.id, status_text(child.status)
        if self._plugger.concerns(name):
            return
        if name in self._wanted:
            self._wanted.discard(name)
            await self._again(name, 0.0)
            return
        if not await self._has_begun():
            self._finish(faults.explain(self._config, name, how, child.status, spawn.tail(child)))
            return
        await self._again_after(name, how, self._policies[name].ended(child.status, time.monotonic() - child.began))

    async def _bus_ended(self, child: Child) -> None:
        """Start the bus again: data flows without it meanwhile, and everybody waits for it."""
        how = status_text(child.status)
        if not await self._has_begun():
            said = spawn.last_line(child) or "nothing"
            self._finish(HostError(f"the bus of the VM {how}", hint=f"it said: {said}"))
            return
        await self._again_after(BUS, how, self._bus_policy.ended(child.status, time.monotonic() - child.began))

    async def _has_begun(self) -> bool:
        """Tell whether the guest has begun to run; of a VM that was taken over it is taken for granted."""
        return self._running.adopted or await self._watcher.ask_has_run()

    async def _again_after(self, name: str, how: str, decision: Again | GiveUp) -> None:
        if isinstance(decision, GiveUp):
            self._give_up(name, f"{name} {how} and stays down: {decision.reason}")
            return
        when = f" in {decision.delay_s:.1f} s" if decision.delay_s else ""
        self._report.say(f"{name} {how}; starting it again{when}")
        await self._again(name, decision.delay_s)

    def _give_up(self, name: str, text: str) -> None:
        logger.error("%s", text)
        self._running.note(name, FAILED, text)
        self._report.say(f"{text} (`orchestrator restart {self._running.plan.vm} {name}` starts it)")

    async def _again(self, name: str, delay_s: float) -> None:
        if delay_s:
            self._running.note(name, RESTARTING)
            await asyncio.sleep(delay_s)
        self._start(name)

    def _start(self, name: str) -> None:
        if self._final.done() or self._running.record.entries[name].state == UNPLUGGED:
            return
        self._running.record.entries[name].restarts += 1
        old = self._running.children.pop(name, None)
        if old is not None:
            old.close()
        try:
            child = self._running.start(name, self._spares.take(name))
        except HostError as error:  # the host may have what is missing later: memory, descriptors, room for the log
            policy = self._bus_policy if name == BUS else self._policies[name]
            self._tasks.start(self._again_after(name, f"does not start ({error.message})", policy.ended(1, 0.0)))
            return
        logger.info("%s started again as pid %d", name, child.entry.pid)
        child.watch(self._on_end)
        self._stand_by_soon(name)

    def _stand_by_soon(self, name: str) -> None:
        """Have the next one stand by once this one has joined: the host has no time for both."""
        asyncio.get_running_loop().call_later(_SPARE_S, self._stand_by, name)

    def _stand_by(self, name: str) -> None:
        if not self._final.done():
            self._spares.start(name)

    def _begin(self, name: str) -> None:
        """Start a process that is plugged in."""
        self._look_after(self._running.start(name))

    def _look_after(self, child: Child) -> None:
        """See to a process that was not there from the start."""
        name = child.process.id
        self._policies[name] = Policy(self._running.plan.process(name).restart)
        child.watch(self._on_end)
        self._stand_by_soon(name)

    async def _anew(self, name: str) -> None:
        """End a device's process, for the one that stands by to follow it."""
        self._wanted.add(name)
        self._tasks.start(self._end_device(self._running.children[name]))

    def _restart_dead(self) -> None:
        """After taking over: start what died while nobody looked."""
        if BUS not in self._running.children:
            self._report.say("the bus is not running; starting it again")
            self._start(BUS)
        for device in self._running.plan.restartable:
            entry = self._running.record.entries[device.id]
            if device.id not in self._running.children and entry.state not in (BY_HAND, FAILED, UNPLUGGED):
                self._report.say(f"{device.id} is not running; starting it again")
                self._start(device.id)

    # orders

    def _serve_requests(self) -> None:
        """Restart the devices that ``orchestrator restart`` left a request for; plug and unplug."""
        for order in orders.take(self._running.runtime):
            self._tasks.start((self._changer if order.verb in (RELOAD, SWAP) else self._plugger).obey(order))
        for name in requests.take(self._running.runtime):
            if name not in self._policies:
                continue
            self._policies[name] = Policy(self._running.plan.process(name).restart)
            child = self._running.children.get(name)
            if child is None or child.has_ended:
                self._start(name)
            else:
                self._wanted.add(name)
                self._spares.forget(name)  # what it has loaded may be older than what is wanted
                self._tasks.start(self._end_device(child))

    async def _end_device(self, child: Child) -> None:
        child.entry.signal(signal.SIGTERM)
        await asyncio.sleep(spawn.KILL_S)
        if self._running.children.get(child.process.id) is child:
            child.entry.signal(signal.SIGKILL)

    async def _end_for_good(self, child: Child) -> None:
        self._spares.forget(child.process.id)
        await spawn.end(child)

    def ask_down(self, status: int = 0) -> None:
        """Power the guest down; asked again, end it. ``status`` is the result where the guest does not decide."""
        self._asked_down += 1
        logger.info("asked to end the VM")
        if not self._watcher.has_run:
            self._finish(status)
        elif self._asked_down == 1:
            self._tasks.start(self._power_down(status))
        else:
            self._tasks.start(self._quit(status))

    async def _power_down(self, status: int) -> None:
        if not self._running.plan.embedded and await self._watcher.ask_guest():
            self._report.say("asked the guest to power down; once more ends it at once")
            await asyncio.sleep(GRACE_S)
        await self._quit(status)

    async def _quit(self, status: int) -> None:
        self._forced = status
        if await self._watcher.quit():
            await asyncio.sleep(_QUIT_S)
        machine = self._running.children[CPU].entry
        machine.signal(signal.SIGTERM)
        await asyncio.sleep(spawn.KILL_S)
        machine.signal(signal.SIGKILL)
