"""Devices that come and go while the VM runs: ``attach`` and ``detach`` as the supervisor does them.

The machine plugs in whoever appears on its bus and has a port; here its processes are started, and ended once the
machine has ejected it. What was brought by ``attach`` is part of the recorded plan until it is detached, so that
restarts, a takeover and ``down`` treat it as any other device.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator import faults, spawn
from orchestrator.client import Client
from orchestrator.launch import Running
from orchestrator.orders import Order
from orchestrator.plan import Process
from orchestrator.record import BY_HAND, UNPLUGGED
from orchestrator.spawn import Child
from protocol.bus import BusError
from protocol.errors import BusvmError, NotFound

logger = logging.getLogger(__name__)

ATTACH, DETACH = "attach", "detach"
ATTACH_S = 30.0  # for a process to start and join, with its back-end
_POLL_S = 0.02
_BUSY = "org.busvm.Error.Busy"

End = Callable[[Child], Coroutine[Any, Any, None]]


class Plugger:
    """Plugs devices of one VM; ``start`` starts a process and watches it, ``end`` ends one."""

    def __init__(self, running: Running, start: Callable[[str], None], end: End) -> None:
        self._running = running
        self._start = start
        self._end = end
        self._coming: set[str] = set()
        self._going: set[str] = set()

    def concerns(self, name: str) -> bool:
        """Tell whether the end of process ``name`` is for this one to see to."""
        return name in self._coming or name in self._going

    async def obey(self, order: Order) -> None:
        """Carry out an order and answer it."""
        if order.verb == ATTACH:
            added = tuple(Process.from_json(process) for process in order.body["processes"])
            work = self._attach(order.device, added)
        else:
            work = self._detach(order.device, bool(order.body["force"]), float(order.body["timeout"]))
        await order.carry_out(work)

    # coming

    async def _attach(self, device_id: str, added: tuple[Process, ...]) -> None:
        processes = self._admit(device_id, added)
        names = [process.id for process in processes]
        self._coming.update(names)
        try:
            for name in names:
                self._start(name)
            await self._until_attached(device_id)
        except BaseException:
            await self._dismiss(device_id, names)
            raise
        finally:
            self._coming.difference_update(names)

    def _admit(self, device_id: str, added: tuple[Process, ...]) -> tuple[Process, ...]:
        """Return the processes that are to be started, which the plan has then."""
        plan = self._running.plan
        known = plan.of_device(device_id)
        if not known:
            if not added:
                raise NotFound(f"no device {device_id!r} in this VM", hint="--type describes one that vm.toml has not")
            if device_id in self._running.record.entries:
                raise BusvmError(f"{device_id} is another part of the VM already", hint="choose another id")
            self._running.add(added)
            return added
        entry = self._running.record.entries[device_id]
        if entry.state == BY_HAND:
            raise BusvmError(f"{device_id} is yours to start", hint=plan.process(device_id).command)
        if entry.state != UNPLUGGED:
            raise BusvmError(f"{device_id} is plugged in already", hint=f"`orchestrator ps {plan.vm}`")
        if added:
            raise BusvmError(f"vm.toml describes {device_id} already", hint="attach it without --type and --set")
        return known

    async def _until_attached(self, device_id: str) -> None:
        child = self._running.children.get(device_id)
        deadline = time.monotonic() + ATTACH_S
        connected = await Client.connect(self._running.runtime)
        try:
            while child is not None and not child.has_ended:
                shown = (await connected.functions()).get(device_id, {})
                if shown.get("State") == "attached" and shown.get("Pid") == child.entry.pid:
                    return
                if shown.get("State") == UNPLUGGED and shown.get("Failure"):
                    raise BusvmError(f"{device_id} cannot be plugged in: {shown['Failure']}")
                if time.monotonic() > deadline:
                    raise BusvmError(f"{device_id} did not join the machine in {ATTACH_S:.0f} s")
                await asyncio.sleep(_POLL_S)
        finally:
            connected.close()
        said = faults.last_words(spawn.tail(child)) if child is not None else ""
        raise BusvmError(f"{device_id} ended before it joined the machine", hint=said or None)

    # going

    async def _detach(self, device_id: str, force: bool, timeout_s: float) -> None:
        names = [process.id for process in self._running.plan.of_device(device_id)]
        if names and self._running.record.entries[device_id].state == UNPLUGGED:
            raise BusvmError(f"{device_id} is not plugged in")
        connected = await Client.connect(self._running.runtime)
        try:
            await self._eject(connected, device_id, force, timeout_s)
            self._going.update(names)
            await self._dismiss(device_id, names)
            await self._make_sure(connected, device_id)
        finally:
            self._going.difference_update(names)
            connected.close()

    async def _eject(self, connected: Client, device_id: str, force: bool, timeout_s: float) -> None:
        function = (await connected.functions()).get(device_id)
        if function is None:
            raise NotFound(f"no device {device_id!r} in this VM")
        try:
            await connected.eject(device_id, force=force, timeout_s=timeout_s)
        except BusError as error:
            if error.name == _BUSY:
                address = str(function["Slot"]).rpartition("/")[2]
                error.hint = (
                    f"a guest without a hot-plug driver lets go by `echo 1 > /sys/bus/pci/devices/0000:{address}/"
                    "remove`; --force pulls it out"
                )
            raise

    async def _make_sure(self, connected: Client, device_id: str) -> None:
        """Eject what was being started again at the moment of the ejection."""
        shown = (await connected.functions()).get(device_id, {})
        if shown.get("State", UNPLUGGED) not in (UNPLUGGED, "missing"):
            await connected.eject(device_id, force=True, timeout_s=0)

    async def _dismiss(self, device_id: str, names: list[str]) -> None:
        """End the processes of a device that is in no port, its own first, and forget what ``attach`` has brought."""
        by_hand = {n for n in names if self._running.record.entries[n].state == BY_HAND}
        for name in reversed([n for n in names if n not in by_hand]):
            child = self._running.children.pop(name, None)
            if child is not None:
                await self._end(child)
            self._running.note(name, UNPLUGGED)
        added = [n for n in names if self._running.plan.process(n).added]
        if added:
            self._running.remove(added)
