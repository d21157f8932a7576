"""Who may call what on a VM's bus: one table, and what looks callers up in it.

A bus knows users, not processes, and all of a VM are one user's. So whoever is called asks for the caller's process,
which the bus knows from its socket, and whether that is a *part* of the VM: a device, a hub or a service. Parts may
call what they need. All others, the orchestrator, the CPU process, a person with busctl, may call everything, for they
can end the VM by other means.

A process is a part from the moment that it takes the name of one until it ends, whatever it does with that name and
from whichever connection it calls. The CPU process keeps account (``Parts``); a device asks it.
"""

from __future__ import annotations

import logging
import os
import select
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import cast

from protocol import names
from protocol.bus import Bus, BusError, Call, Disconnected
from protocol.errors import BusvmError, NotFound
from protocol.log import RateLimit
from protocol.tasks import Tasks

logger = logging.getLogger(__name__)

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MACHINE1 = "org.busvm.Machine1"
_PREFIXES = (names.DEVICE_NAME_PREFIX, names.HUB_NAME_PREFIX, names.IVSHMEM_NAME_PREFIX)


class Denied(BusError):
    """Who calls may not."""

    def __init__(self, text: str) -> None:
        super().__init__(DENIED, text)


async def _process_of(bus: Bus, sender: str) -> int:
    """Return the process of a unique name.

    Raises:
        Denied: it has gone, so that nobody knows any more who it was.
    """
    try:
        return await bus.peer_pid(sender)
    except (NotFound, TimeoutError) as error:
        raise Denied("whoever calls has gone") from error


class Who(Enum):
    """Which parts of a VM may do something that everybody else may."""

    ANY = "any part"
    ITSELF = "the device that the object is about, and nobody else"
    NONE = "no part"


RULES = {
    "org.freedesktop.DBus.Peer": Who.ANY,
    "org.freedesktop.DBus.Introspectable": Who.ANY,
    f"{_MACHINE1}.PauseFor": Who.ANY,
    f"{_MACHINE1}.PartOf": Who.ANY,
    f"{_MACHINE1} read": Who.ANY,  # its properties
    "org.busvm.Wiring1": Who.ITSELF,
}
"""By method, interface, or the properties of an interface; whatever is not here is for no part."""


def rule(call: Call) -> Who:
    """Return which parts may make a call."""
    if call.interface == _PROPERTIES and call.member in ("Get", "GetAll"):
        return RULES.get(f"{call.body[0] if call.body else ''} read", Who.NONE)
    return RULES.get(f"{call.interface}.{call.member}", RULES.get(call.interface, Who.NONE))


class Guard:
    """Decides about calls; ``part_of`` returns the id of the part that the owner of a unique name is, or nothing."""

    def __init__(self, part_of: Callable[[str], Awaitable[str]]) -> None:
        self.refused: Counter[str] = Counter()
        """Calls that were, by who made them."""
        self._part_of = part_of
        self._limit = RateLimit()

    async def check(self, call: Call) -> None:
        """Let a call pass.

        Raises:
            BusError: it is not for who makes it.
        """
        allowed = rule(call)
        if allowed is Who.ANY:
            return
        part = await self._part_of(call.sender)
        if allowed is Who.ITSELF:
            if part and call.path == names.device_path(part):
                return
        elif not part:
            return
        what = f"{call.interface}.{call.member}"
        self.refused[part or "others"] += 1
        if self._limit.allow():
            logger.warning("refused %s at %s to %s", what, call.path, f"dev={part}" if part else "who is no device")
        raise Denied(f"{what} at {call.path} is not for {part or 'this process'}")


class Parts:
    """The processes of a VM's parts; belongs to the event loop of its ``bus``."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[int, tuple[str, int]] = {}  # by process: its id, and a descriptor that is of no later process
        self._processes: dict[str, int] = {}  # by unique name, which is nobody else's later on this daemon
        self._learning = Tasks()

    async def start(self) -> None:
        """Learn who is there, and who comes."""
        await self._bus.watch_names(self._on_name)
        await self.look()

    def forget_names(self) -> None:
        """The bus is gone: the next one gives the same unique names to others. Who is which part, processes stay."""
        self._processes.clear()

    async def look(self) -> None:
        """Learn who is there."""
        async for name, owner in self._bus.owned(lambda name: name.startswith(_PREFIXES)):
            self._on_name(name, "", owner)

    def _on_name(self, name: str, _old: str, new: str) -> None:
        if not new:
            self._processes.pop(name, None)
        elif name.startswith(_PREFIXES):
            self._learning.start(self._learn(name.rpartition(".")[2], new))

    async def admit(self, part: str, owner: str) -> bool:
        """Take the process of a unique name for one of ``part``, before it has that name; tell whether it is one."""
        await self._learn(part, owner)
        return await self.of_caller(owner) == part

    async def _learn(self, part: str, owner: str) -> None:
        try:
            pid = await self.process(owner)
            for other in [*self._known]:
                self.of_process(other)  # forgets those that have ended: devices die without being asked for again
            if pid and not self.of_process(pid):
                self._known[pid] = part, os.pidfd_open(pid)
        except (BusvmError, OSError):
            return  # gone again

    async def process(self, owner: str) -> int:
        """Return the process of a unique name of the daemon that is there now; raises BusvmError."""
        daemon = self._bus.daemon
        if owner not in self._processes:
            pid = await _process_of(self._bus, owner)
            if self._bus.daemon != daemon:
                raise Disconnected("the bus is another meanwhile")
            self._processes[owner] = pid
        return self._processes[owner]

    def of_process(self, pid: int) -> str:
        """Return the id of the part that a process is, or nothing."""
        part, pidfd = self._known.get(pid, ("", -1))
        if not part:
            return ""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(0):
            return part
        os.close(pidfd)  # it has ended, and its number may be a stranger's
        del self._known[pid]
        return ""

    async def of_caller(self, sender: str) -> str:
        """Return the id of the part whose connection this is, or nothing; it is one before its name is heard of.

        Raises:
            BusvmError: it has gone, so that nobody knows any more who it was.
        """
        daemon = self._bus.daemon
        await self._learning.wait()
        pid = await self.process(sender)
        if self._bus.daemon != daemon:
            raise Disconnected("the bus is another meanwhile")
        return self.of_process(pid)

    def close(self) -> None:
        """Forget all."""
        for _, pidfd in self._known.values():
            os.close(pidfd)
        self._known.clear()


def asking_machine(bus: Bus) -> Callable[[str], Awaitable[str]]:
    """Return what asks the CPU process which part a caller is; without one there is nothing to keep from anybody."""
    known: dict[str, str] = {}
    machine, daemon = "", bus.daemon

    async def part_of(sender: str) -> str:
        nonlocal machine, daemon
        if daemon != bus.daemon:  # another one gives the same unique names to others
            known.clear()
            machine, daemon = "", bus.daemon
        if sender == machine:
            return ""
        if sender in known:
            return known[sender]
        try:
            machine = await bus.name_owner(names.MACHINE_NAME) or ""
            if sender == machine or not machine:
                return ""
            pid = await _process_of(bus, sender)
            answer = await bus.call(names.MACHINE_NAME, names.MACHINE_PATH, _MACHINE1, "PartOf", "u", [pid])
        except (Denied, Disconnected):
            raise
        except BusvmError:
            return ""
        known[sender] = cast(str, answer[0])
        return known[sender]

    return part_of
