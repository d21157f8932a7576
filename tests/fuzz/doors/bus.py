"""The bus of a running VM: calls of every method of every object, with arguments by chance and of any types."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from random import Random
from typing import Any

from protocol import interfaces
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import BusvmError
from protocol.names import MACHINE_NAME, ROOT_PATH, Runtime
from protocol.objects import interfaces_types
from tests.fuzz.doors.console import check_disk, until
from tests.fuzz.doors.place import Place

AT_ONCE, ROUND = 100, 1000
ANSWER_S = 30.0
VM = """
[vm]
name = "{vm}"
memory = "32M"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "disk.img"
[[device]]
id = "rng0"
type = "virtio-rng"
[[device]]
id = "net0"
type = "virtio-net"
backend = "user"
[[device]]
id = "con0"
type = "virtio-console"
socket = "con.sock"
"""
MEANT = {
    "org.busvm.Machine1": {"Run", "Pause", "PauseFor", "Reset", "PowerDown", "Quit", "WriteMemory", "SaveState"},
    "org.busvm.Hart1": {"WriteRegister"},
    "org.busvm.Device1": {"Detach", "Reset"},
    "org.busvm.Function1": {"Eject"},
    "org.busvm.Wiring1": {"ConnectDoorbells", "ConnectCalls", "Hold"},
    "org.busvm.Registers1": {"Write"},
    "org.busvm.Block1": {"Resize"},
    "org.busvm.Net1": {"SetLink"},
}
"""What does what it says when this user, who may end the VM, calls it with what it takes: it is called with else."""
_SIGNATURES = (
    "",
    "s",
    "u",
    "t",
    "i",
    "b",
    "d",
    "h",
    "ay",
    "as",
    "ah",
    "v",
    "a{sv}",
    "a(uh)",
    "(st)",
    "ss",
    "stu",
    "hha{sv}",
)
_WORDS = (
    "",
    "disk0",
    "State",
    "version",
    "vm",
    "epoch",
    "ram",
    "ram_size",
    "page",
    "irq",
    "link",
    "kind",
    "nth",
    "kill",
)


class Stranger:
    """Makes calls by chance."""

    def __init__(self, bus: Bus, chance: Random) -> None:
        self._bus = bus
        self._chance = chance
        self._null = os.open(os.devnull, os.O_RDWR)
        self._memory = os.memfd_create("door")
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._places: list[tuple[str, str, str]] = []

    async def look_around(self) -> None:
        """Learn where there is what."""
        for name in await self._bus.list_names():
            if not name.startswith("org.busvm."):
                continue
            root = ROOT_PATH
            (objects,) = await self._bus.call(name, root, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
            self._places += [(name, path, interface) for path, shown in objects.items() for interface in shown]
            for standard in ("Properties", "Introspectable", "ObjectManager", "Peer"):
                self._places += [(name, path, f"org.freedesktop.DBus.{standard}") for path in (root, *objects)]
        assert any(name == MACHINE_NAME for name, _, _ in self._places)

    async def call(self) -> None:
        """Make one call; whatever is said to it is an answer, but that nobody is there or nothing is said."""
        chance = self._chance
        name, path, interface = chance.choice(self._places)
        methods = interfaces.load(interface).methods
        member = chance.choice([*methods, "None"])
        signature = methods[member].inputs if member in methods else ""
        if member in MEANT.get(interface, ()) or chance.random() < 0.3:
            signature = chance.choice([other for other in _SIGNATURES if other != signature])
        if chance.random() < 0.02:
            path += chance.choice(("/x", "/device"))
        body = [self._value(one) for one in interfaces_types(signature)]
        try:
            await self._bus.call(name, path, interface, member, signature, body, timeout_s=ANSWER_S)
        except BusError:
            return
        except (BusvmError, TimeoutError) as error:
            what = f"{interface}.{member}({body!r:.200}) at {path}"
            raise AssertionError(f"{what} was not answered: {type(error).__name__}: {error}") from error

    def _value(self, signature: str) -> Any:
        chance, kind = self._chance, signature[0]
        if signature.startswith("a{"):
            key, value = interfaces_types(signature[2:-1])
            return {self._value(key): self._value(value) for _ in range(chance.randrange(6))}
        if signature == "ay":
            return chance.randbytes(chance.choice((0, 1, 64, 4096)))
        if kind == "a":
            return [self._value(signature[1:]) for _ in range(chance.randrange(4))]
        if kind == "(":
            return [self._value(one) for one in interfaces_types(signature[1:-1])]
        if kind == "v":
            inner = chance.choice([one for one in _SIGNATURES if len(interfaces_types(one)) == 1 and one != "v"])
            return Variant(inner, self._value(inner))
        if kind == "h":
            return Fd(chance.choice((self._null, self._memory, self._event)))
        if kind == "s":
            return chance.choice((*_WORDS, "x" * 1000, "\N{SNOWMAN}"))
        if kind == "b":
            return chance.random() < 0.5
        if kind == "d":
            return chance.choice((0.0, -1.0, 1e308, float("inf"), float("nan")))
        bits = {"y": 8, "n": 15, "q": 16, "i": 31, "u": 32, "x": 63, "t": 64}[kind]
        return chance.choice((0, 1, 4, (1 << bits) - 1, chance.getrandbits(bits)))

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self._null, self._memory, self._event):
            os.close(fd)


def strangers(place: Place, chance: Random) -> Iterator[int]:
    """Make calls; yield how many, after the guest has read its disk and nobody has lost anything."""
    folder, runtime = place.folder, Runtime(place.vm)
    (folder / "disk.img").write_bytes(bytes(1 << 20))
    (folder / "vm.toml").write_text(VM.format(vm=place.vm))
    up = place.start("up", "orchestrator", "up", stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
    until(place, up, b"report:")
    with asyncio.Runner() as runner:
        bus = runner.run(Bus.connect(runtime.bus_address))
        stranger = Stranger(bus, chance)
        try:
            runner.run(stranger.look_around())
            while True:
                for _ in range(ROUND // AT_ONCE):
                    runner.run(_together([stranger.call() for _ in range(AT_ONCE)]))
                check_disk(place, up, 100, 8)
                yield ROUND
        finally:
            stranger.close()
            bus.close()
            runner.run(asyncio.sleep(0.01))


async def _together(calls: list[Any]) -> None:
    for came in await asyncio.gather(*calls, return_exceptions=True):
        if came is not None:
            raise came
