"""Planned changes of the process behind a device, as the supervisor does them: ``reload`` and ``swap``.

The new process is loaded and opened beside the one that serves, and ``cpu_proc`` has it go on in its place
(``cpu_proc.replace``); until that has happened, nothing has changed. What ``swap`` has brought is the device from then
on: the recorded plan has it, and restarts, a takeover and ``down`` treat it so.

Of some types a second process cannot open what the first has: a tap, a listening socket. There ``reload`` looks at what
the source declares, loads a process, and then has it follow the old one as after a death.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from orchestrator import faults, spawn
from orchestrator.client import Client
from orchestrator.keys.types import DEVICE_TYPES
from orchestrator.launch import Running
from orchestrator.newcomers import READY_S, Newcomer
from orchestrator.orders import Order
from orchestrator.plan import Process
from orchestrator.record import BY_HAND, UNPLUGGED
from orchestrator.spares import Spares
from orchestrator.spawn import Child
from protocol.errors import BusvmError, NotFound

logger = logging.getLogger(__name__)

RELOAD, SWAP = "reload", "swap"
CHANGE_S = 2 * READY_S + 60.0
_POLL_S = 0.02

Watch = Callable[[Child], None]


class Changer:
    """Changes processes of one VM; ``watch`` looks after one that serves, ``restart`` ends one to start it anew."""

    def __init__(
        self, running: Running, spares: Spares, watch: Watch, restart: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        self._running = running
        self._spares = spares
        self._watch = watch
        self._restart = restart
        self._changing: set[str] = set()

    async def obey(self, order: Order) -> None:
        """Carry out an order and answer it."""
        await order.carry_out(self._change(order))

    async def _change(self, order: Order) -> None:
        serving = self._serving(order.device)
        self._changing.add(order.device)
        try:
            if order.verb == RELOAD:
                await self._reload(serving)
            else:
                await self._swap(serving, [Process.from_json(process) for process in order.body["processes"]])
        finally:
            self._changing.discard(order.device)

    def _serving(self, device_id: str) -> Process:
        """Return the process that serves a device, if it can be changed now."""
        plan, entries = self._running.plan, self._running.record.entries
        process = next((device for device in plan.devices if device.id == device_id), None)
        if process is None:
            raise NotFound(f"no device {device_id!r} in this VM", hint=f"`orchestrator ps {plan.vm}` lists them")
        if entries[device_id].state == BY_HAND:
            raise BusvmError(f"{device_id} was started by hand", hint="end it, and start it again the same way")
        if entries[device_id].state == UNPLUGGED:
            raise BusvmError(f"{device_id} is not plugged in", hint=f"`orchestrator attach {plan.vm} {device_id}`")
        child = self._running.children.get(device_id)
        if child is None or child.has_ended:
            raise BusvmError(f"{device_id} does not run", hint=f"`orchestrator restart {plan.vm} {device_id}`")
        if device_id in self._changing:
            raise BusvmError(f"{device_id} is being changed already")
        return process

    # the same type, of newer source

    async def _reload(self, process: Process) -> None:
        known = DEVICE_TYPES.get(process.type)
        if known is not None and known.exclusive:
            await self._follow(process)
        else:
            await self._replace(process)

    async def _follow(self, process: Process) -> None:
        """Have a process of the new source follow the old one, whose host resources it needs."""
        await self._check_declaration(process)
        self._spares.forget(process.id)
        self._spares.start(process.id, anyway=True)
        await self._spares.loaded(process.id, READY_S)
        before = self._running.children[process.id]
        await self._restart(process.id)
        await self._until_attached(process.id, before)

    async def _check_declaration(self, process: Process) -> None:
        """Compare what the source declares with what the page was made from.

        Raises:
            BusvmError: it does not load, or declares something else.
        """
        schema = await declared(process)
        connected = await Client.connect(self._running.runtime)
        try:
            shown = await connected.device(process.id)
        finally:
            connected.close()
        if schema != shown["Schema"]:
            raise BusvmError(
                f"the new source of {process.id} declares other registers, or another state_version",
                hint="what it has of the host only one process can have, so that no page is converted; restart the VM",
            )

    async def _until_attached(self, device_id: str, before: Child) -> None:
        deadline = time.monotonic() + READY_S
        connected = await Client.connect(self._running.runtime)
        try:
            while time.monotonic() < deadline:
                shown = (await connected.functions()).get(device_id, {})
                child = self._running.children.get(device_id)
                if child not in (None, before) and shown.get("Pid") == child.entry.pid and shown["State"] == "attached":
                    return
                await asyncio.sleep(_POLL_S)
        finally:
            connected.close()
        raise BusvmError(f"{device_id} is not attached after {READY_S:.0f} s", hint="`orchestrator logs` says why")

    # another type

    async def _swap(self, serving: Process, processes: Sequence[Process]) -> None:
        """Put the processes of ``processes``, a back-end and the device's own, in the place of what serves."""
        running, plan = self._running, self._running.plan
        old = [process for process in plan.of_device(serving.id) if process.id != serving.id]
        *back_ends, own = (self._in_place_of((serving, *old), process) for process in processes)
        taken = {process.id for process in plan.processes}
        if clash := next((b.id for b in back_ends if b.id in taken), None):
            raise BusvmError(f"{clash} is there already", hint="swap to a type without a back-end of the VM first")
        started: list[Child] = []
        try:
            for back_end in back_ends:
                started.append(spawn.start(back_end))
            await self._replace(own, back_ends, started)
        except BaseException:
            for child in started:
                await spawn.end(child)
            raise
        for process in old:
            await self._end(process.id)
        running.remove([process.id for process in old])

    @staticmethod
    def _in_place_of(old: Sequence[Process], process: Process) -> Process:
        """Return a process of the plan with what stays of those in whose place it comes, the device's own first."""
        serving, *_ = old
        fresh = replace(process, plugged=serving.plugged, added=serving.added)
        if process.id != serving.id:
            return replace(fresh, brought=True)
        fresh = replace(fresh, slot=serving.slot, start=serving.start, restart=serving.restart)
        declared = serving.instead or (() if serving.added else tuple(old))
        return replace(fresh, instead=() if fresh in declared else declared)

    # both

    async def _replace(
        self,
        process: Process,
        back_ends: Sequence[Process] = (),
        started: Sequence[Child] = (),
    ) -> None:
        """Have a new process go on in the place of the one that serves."""
        newcomer = Newcomer(process, self._running.forks)
        try:
            name = await self._ready(newcomer, started)
            connected = await Client.connect(self._running.runtime)
            try:
                await connected.replace(process.id, name, timeout_s=READY_S + 60.0)
            except BusvmError as error:
                newcomer.explain(error)
                raise
            finally:
                connected.close()
        except BaseException:
            await newcomer.dismiss()
            raise
        old = self._running.children[process.id]
        child = newcomer.accept()
        child.entry.restarts = self._running.record.entries[process.id].restarts
        self._running.exchange(process, back_ends)
        self._spares.forget(process.id)  # of the old source, or the old type; another is started soon
        for one in (*started, child):
            self._running.keep(one)
            self._watch(one)
        logger.info("%s goes on as pid %d: %s", process.id, child.entry.pid, process.command)
        await spawn.end(old)

    @staticmethod
    async def _ready(newcomer: Newcomer, back_ends: Sequence[Child]) -> str:
        """Return the newcomer's name on the bus when it is ready, unless one of its back-ends has ended by then."""
        waiting = asyncio.ensure_future(newcomer.ready())
        while not waiting.done():
            dead = next((child for child in back_ends if child.has_ended), None)
            if dead is not None:
                waiting.cancel()
                said = faults.reason(spawn.tail(dead)) or "it said nothing"
                raise BusvmError(f"{dead.process.id} ended: {said}")
            await asyncio.wait([waiting], timeout=_POLL_S)
        return waiting.result()

    async def _end(self, name: str) -> None:
        child = self._running.children.pop(name, None)
        if child is not None:
            await spawn.end(child)


async def declared(process: Process) -> int:
    """Return the schema that a device's source declares now.

    Raises:
        BusvmError: it does not load, or not in time.
    """
    program = await asyncio.create_subprocess_exec(
        *process.argv,
        "--describe=json",
        cwd=process.cwd,
        env=spawn.environment(process),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaints = await asyncio.wait_for(program.communicate(), READY_S)
    except TimeoutError:
        raise BusvmError(f"the new source does not load: not within {READY_S:.0f} s") from None
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    if program.returncode:
        why = faults.reason(complaints.decode(errors="replace").splitlines())
        raise BusvmError(f"the new source does not load: {why or spawn.status_text(program.returncode)}")
    try:
        return int(json.loads(said)["schema"])
    except (ValueError, KeyError, TypeError):
        raise BusvmError(
            "the new source does not say what it declares", hint="does it print on standard output as it loads?"
        ) from None
