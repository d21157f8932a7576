"""Who may call what: the table, and the account of who is who."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol import interfaces, names
from protocol.access import RULES, Guard, Parts, Who, asking_machine, rule
from protocol.bus import Bus, BusError, Call
from protocol.errors import NotFound

PROPERTIES = "org.freedesktop.DBus.Properties"


def call(interface: str, member: str, *body: Any, path: str = names.MACHINE_PATH, sender: str = ":1.5") -> Call:
    """Return a call."""
    made = SimpleNamespace(interface=interface, member=member, body=list(body), path=path, sender=sender)
    return cast(Call, made)


def guard(part: str) -> Guard:
    """Return a guard to whom everybody is ``part``."""

    async def part_of(_sender: str) -> str:
        return part

    return Guard(part_of)


def passes(part: str, made: Call) -> bool:
    """Return whether a call of ``part`` passes."""
    try:
        asyncio.run(guard(part).check(made))
    except BusError as error:
        return error.name != "org.freedesktop.DBus.Error.AccessDenied"
    return True


def test_every_rule_is_about_something_that_there_is() -> None:
    for name in RULES:
        words = name.removesuffix(" read")
        interface = words if words.endswith(("1", "Peer", "Introspectable")) else words.rpartition(".")[0]
        loaded = interfaces.load(interface)
        assert interface == words or words.rpartition(".")[2] in loaded.methods


def test_a_device_calls_what_is_in_the_table_and_nothing_else() -> None:
    everything = [
        (interface.removesuffix(".xml"), member)
        for interface in os.listdir(os.path.dirname(interfaces.__file__))
        if interface.endswith(".xml")
        for member in interfaces.load(interface.removesuffix(".xml")).methods
    ]
    allowed = {f"{i}.{m}" for i, m in everything if passes("disk0", call(i, m, path=names.device_path("disk0")))}
    assert {name for name in allowed if name.startswith("org.busvm.") and "Wiring1" not in name} == {
        "org.busvm.Machine1.PauseFor",
        "org.busvm.Machine1.PartOf",
    }
    others = {f"{i}.{m}" for i, m in everything if passes("", call(i, m))}
    assert {name for name in others if "Wiring1" not in name} == {
        f"{i}.{m}" for i, m in everything if "Wiring1" not in i
    }


@pytest.mark.parametrize(("part", "passed"), [("disk0", True), ("disk1", False), ("", False)])
def test_what_connects_a_device_is_for_its_own_process(part: str, passed: bool) -> None:
    assert passes(part, call("org.busvm.Wiring1", "Hold", path=names.device_path("disk0"))) is passed


def test_properties_are_read_of_the_machine_alone_and_never_set() -> None:
    assert rule(call(PROPERTIES, "Get", "org.busvm.Machine1", "State")) is Who.ANY
    assert rule(call(PROPERTIES, "GetAll", "org.busvm.Hart1")) is Who.NONE
    assert rule(call(PROPERTIES, "GetAll")) is Who.NONE
    assert rule(call(PROPERTIES, "Set", "org.busvm.Machine1", "State", 1)) is Who.NONE
    assert rule(call("", "Quit")) is Who.NONE


def test_what_was_refused_is_counted_by_who_asked() -> None:
    made = guard("disk0")
    with pytest.raises(BusError, match="is not for disk0"):
        asyncio.run(made.check(call("org.busvm.Machine1", "Quit", 1)))
    assert made.refused == {"disk0": 1}


class FakeBus:
    """A bus with names and processes."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        self.parts: dict[int, str] = {}
        self.asked = 0
        self.daemon = 1
        self.watcher: Callable[[str, str, str], None] = lambda *_: None

    async def watch_names(self, watcher: Callable[[str, str, str], None]) -> None:
        self.watcher = watcher

    async def owned(self, wanted: Callable[[str], object]) -> AsyncIterator[tuple[str, str]]:
        for name, owner in list(self.owners.items()):
            if wanted(name):
                yield name, owner

    async def name_owner(self, name: str) -> str | None:
        return self.owners.get(name)

    async def peer_pid(self, name: str) -> int:
        if name not in self.pids:
            raise NotFound(name)
        return self.pids[name]

    async def call(
        self, _destination: str, _path: str, _interface: str, member: str, _sig: str, body: Any
    ) -> list[Any]:
        if names.MACHINE_NAME not in self.owners:
            raise NotFound("machine")
        assert member == "PartOf"
        self.asked += 1
        return [self.parts.get(body[0], "")]


def test_a_process_is_a_part_until_it_ends_whatever_it_does_with_its_name() -> None:
    bus = FakeBus()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        bus.owners = {"org.busvm.device.early": ":1.1", "org.other": ":1.2"}
        bus.pids = {":1.1": os.getpid(), ":1.2": 1, ":1.3": process.pid, ":1.4": process.pid}

        async def story() -> None:
            parts = Parts(cast(Bus, bus))
            await parts.start()
            assert await parts.of_caller(":1.1") == "early"
            assert await parts.of_caller(":1.2") == ""
            assert await parts.of_caller(":1.3") == ""
            bus.watcher("org.busvm.hub.lan", "", ":1.3")
            assert await parts.of_caller(":1.4") == "lan"  # another connection of the same process
            bus.watcher("org.busvm.hub.lan", ":1.3", "")
            bus.watcher("org.busvm.device.early", "", ":1.3")
            assert await parts.of_caller(":1.4") == "lan"  # the first name is who it is
            with pytest.raises(BusError, match="has gone"):  # and may do nothing: it may have been anybody
                await parts.of_caller(":1.9")
            bus.watcher(":1.4", ":1.4", "")
            parts.forget_names()  # another bus, on which the same name is somebody else's
            bus.pids[":1.1"] = bus.pids[":1.3"]
            assert await parts.of_caller(":1.1") == "lan"
            process.communicate(b"\n")
            assert parts.of_process(process.pid) == ""
            parts.close()

        asyncio.run(story())


def test_a_device_asks_the_machine_once_about_each_caller() -> None:
    bus = FakeBus()
    bus.owners = {names.MACHINE_NAME: ":1.0"}
    bus.pids = {":1.0": 1, ":1.1": 11, ":1.2": 12}
    bus.parts = {12: "disk0"}

    async def story() -> None:
        part_of = asking_machine(cast(Bus, bus))
        assert [await part_of(sender) for sender in (":1.0", ":1.1", ":1.1", ":1.2", ":1.0")] == [
            "",
            "",
            "",
            "disk0",
            "",
        ]
        assert bus.asked == 2
        bus.daemon, bus.parts = 2, {11: "net0"}
        bus.pids[":1.0"], bus.owners[names.MACHINE_NAME] = 11, ":1.2"
        assert await part_of(":1.0") == "net0"

    asyncio.run(story())


def test_processes_that_have_ended_are_forgotten_when_others_come() -> None:
    bus = FakeBus()

    async def story() -> None:
        parts = Parts(cast(Bus, bus))
        await parts.start()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(4):
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
                bus.pids[f":1.{number}"] = process.pid
                bus.watcher("org.busvm.device.disk0", "", f":1.{number}")
                assert await parts.of_caller(f":1.{number}") == "disk0"
                process.communicate(b"\n")
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        parts.close()

    asyncio.run(story())


def test_another_daemon_gives_the_unique_names_of_before_to_others() -> None:
    bus = FakeBus()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        bus.owners = {"org.busvm.device.disk0": ":1.1"}
        bus.pids = {":1.1": os.getpid(), ":1.2": process.pid}

        async def story() -> None:
            parts = Parts(cast(Bus, bus))
            await parts.start()
            assert [await parts.of_caller(name) for name in (":1.1", ":1.2")] == ["disk0", ""]
            parts.forget_names()
            bus.daemon = 2
            bus.owners = {"org.busvm.device.disk0": ":1.2", "org.busvm.device.late": ":1.1"}
            bus.pids = {":1.1": process.pid, ":1.2": os.getpid()}
            await parts.look()
            assert [await parts.of_caller(name) for name in (":1.1", ":1.2")] == ["late", "disk0"]
            parts.close()

        asyncio.run(story())
        process.communicate(b"\n")


def test_who_has_gone_before_it_could_be_asked_for_may_do_nothing() -> None:
    bus = FakeBus()
    bus.owners, bus.pids = {names.MACHINE_NAME: ":1.0"}, {":1.0": 1}

    with pytest.raises(BusError, match="has gone"):
        asyncio.run(asking_machine(cast(Bus, bus))(":1.9"))  # type: ignore[arg-type]


def test_without_a_machine_there_is_nothing_to_refuse() -> None:
    bus = FakeBus()
    bus.pids = {":1.1": 1}
    assert asyncio.run(asking_machine(cast(Bus, bus))(":1.1")) == ""  # type: ignore[arg-type]
