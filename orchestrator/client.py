"""Talks to a running VM over its bus; everything a command asks a machine goes through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from orchestrator.plan import BUS, CPU
from orchestrator.record import Record
from protocol import names
from protocol.bus import Bus, BusError, Disconnected
from protocol.errors import BusvmError, HostError, NotFound
from protocol.names import MACHINE_NAME, MACHINE_PATH, ROOT_PATH, Runtime

MACHINE1, HART1 = "org.busvm.Machine1", "org.busvm.Hart1"
FUNCTION1, DEVICE1, PORT1 = "org.busvm.Function1", "org.busvm.Device1", "org.busvm.Port1"
REGISTERS1, QUEUES1 = "org.busvm.Registers1", "org.busvm.Queues1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MANAGER = "org.freedesktop.DBus.ObjectManager"

_CONNECT_S = 5.0
_RETURN_S, _AGAIN_S = 2.0, 0.05  # for a bus that was killed to be there again

T = TypeVar("T")


class Client:
    """A connection to the bus of one VM."""

    def __init__(self, bus: Bus, runtime: Runtime) -> None:
        self.bus = bus
        self.runtime = runtime

    @classmethod
    async def connect(cls, runtime: Runtime) -> Client:
        """Connect.

        Raises:
            NotFound: no VM of that name runs.
        """
        patience = time.monotonic() + _RETURN_S
        while True:
            try:
                return cls(await asyncio.wait_for(Bus.connect(runtime.bus_address), _CONNECT_S), runtime)
            except HostError as error:
                if time.monotonic() < patience and _lost_its_bus(runtime):
                    await asyncio.sleep(_AGAIN_S)
                    continue
                hint = "`orchestrator ps` lists those that do"
                raise NotFound(f"no VM named {runtime.vm!r} runs", hint=hint) from error

    async def machine(self, member: str, signature: str = "", *body: Any, timeout_s: float = 5.0) -> list[Any]:
        """Call a method of Machine1."""
        return await self.bus.call(
            MACHINE_NAME, MACHINE_PATH, MACHINE1, member, signature, list(body), timeout_s=timeout_s
        )

    async def properties(self, owner: str, path: str, interface: str) -> dict[str, Any]:
        """Return all properties of an interface."""
        answer = await self.bus.call(owner, path, _PROPERTIES, "GetAll", "s", [interface], timeout_s=5.0)
        return cast(dict[str, Any], answer[0])

    async def machine_properties(self) -> dict[str, Any]:
        """Return the properties of Machine1."""
        return await self.properties(MACHINE_NAME, MACHINE_PATH, MACHINE1)

    async def state(self) -> str:
        """Return Machine1.State, ``starting`` before there is a machine on the bus."""
        try:
            answer = await self.bus.call(
                MACHINE_NAME, MACHINE_PATH, _PROPERTIES, "Get", "ss", [MACHINE1, "State"], timeout_s=5.0
            )
        except (NotFound, BusError):
            return "starting"
        return cast(str, answer[0])

    async def objects(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return every object of the machine: path → interface → properties."""
        try:
            answer = await self.bus.call(MACHINE_NAME, ROOT_PATH, _MANAGER, "GetManagedObjects", timeout_s=5.0)
        except (NotFound, BusError):
            return {}
        return cast(dict[str, dict[str, dict[str, Any]]], answer[0])

    async def functions(self) -> dict[str, dict[str, Any]]:
        """Return Function1 of every device by id."""
        return {
            path.removeprefix(names.DEVICE_PATH_PREFIX): shown[FUNCTION1]
            for path, shown in (await self.objects()).items()
            if FUNCTION1 in shown
        }

    async def eject(self, device_id: str, *, force: bool, timeout_s: float) -> None:
        """Take a device out of its port.

        Raises:
            BusError: it is in none, or the guest keeps it.
        """
        path, call_s = names.device_path(device_id), timeout_s + 15.0
        await self.bus.call(MACHINE_NAME, path, FUNCTION1, "Eject", "bd", [force, timeout_s], timeout_s=call_s)

    async def replace(self, device_id: str, newcomer: str, *, timeout_s: float) -> None:
        """Have another process, by its unique name, go on in the place of the one that serves a device.

        Raises:
            BusError: it does not; the one before serves on.
        """
        path = names.device_path(device_id)
        await self.bus.call(MACHINE_NAME, path, FUNCTION1, "Replace", "s", [newcomer], timeout_s=timeout_s)

    async def device(self, device_id: str) -> dict[str, Any]:
        """Return Device1 of a device."""
        return await self.properties(names.device_name(device_id), names.device_path(device_id), DEVICE1)

    async def ports(self) -> list[dict[str, Any]]:
        """Return Port1 of every hot-plug port."""
        return [shown[PORT1] for shown in (await self.objects()).values() if PORT1 in shown]

    def close(self) -> None:
        """Disconnect."""
        self.bus.close()


def _lost_its_bus(runtime: Runtime) -> bool:
    """Tell whether a VM runs whose bus was killed, with a supervisor that starts it again."""
    found = Record.read(runtime)
    if found is None or not found.orchestrator.is_alive():
        return False
    return found.entries[CPU].is_alive() and not found.entries[BUS].is_alive()


async def _with(runtime: Runtime, action: Callable[[Client], Awaitable[T]]) -> T:
    client = await Client.connect(runtime)
    try:
        return await action(client)
    finally:
        client.close()


def ask(runtime: Runtime, action: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, run ``action`` and disconnect.

    Raises:
        BusvmError: the VM does not run, or says no.
    """
    try:
        return asyncio.run(_with(runtime, action))
    except TimeoutError as error:
        raise BusvmError(f"VM {runtime.vm!r} does not answer", hint=f"`orchestrator ps {runtime.vm}`") from error
    except NotFound as error:
        if error.hint is None:
            error.hint = starting_hint(runtime)
        raise


def starting_hint(runtime: Runtime) -> str | None:
    """Say that a VM is still on its way, if it is."""
    found = Record.read(runtime)
    return "the machine has not come up yet" if found and found.alive() else None


class PowerOff:
    """The way down: ask the guest, then end the machine."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask_guest(self) -> bool:
        """Press the power button; tell whether the guest listens to it."""
        try:
            if await self._client.state() == "paused":
                await self._client.machine("Run")
            await self._client.machine("PowerDown")
        except (BusvmError, TimeoutError):
            return False
        return True

    async def quit(self, status: int = 0) -> bool:
        """End the VM now; tell whether the machine took the order."""
        try:
            await self._client.machine("Quit", "i", status)
        except Disconnected:
            return True
        except (BusvmError, TimeoutError):
            return False
        return True
