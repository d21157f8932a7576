"""A VM in containers: the plan that ``up`` would make within the image, and what each process is given of the host.

One plan serves both. The configuration's paths become those in the containers, ``plan.make`` says how processes are
started, and each process gets the files that its own command line names, no others.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import plan, schema
from orchestrator.config import Config, Device, Rows
from orchestrator.keys.key import Kind
from orchestrator.keys.types import NETWORK_CARDS
from orchestrator.plan import BUS, CPU, Plan, Process
from orchestrator.render import inside, refused
from protocol.errors import ConfigError

_SLACK = 64 << 20  # of shared memory: device pages, interrupt words, the clock
_FORWARD = re.compile(r"(tcp|udp):(\[[^]]*\]|[^:]*):(\d+):(.+)\Z")
_ANY = {True: "[::]", False: "0.0.0.0"}
_FILES = ("kernel", "initrd", "firmware", "dtb", "flash0", "flash1")
_WRITTEN = ("flash0", "flash1")


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host in a container."""

    host: Path
    place: Path
    writable: bool
    folder: bool = False


@dataclass(frozen=True)
class Port:
    """A port of the host that leads into a container."""

    address: str
    number: int
    protocol: str


@dataclass(frozen=True)
class Container:
    """One process and what it has; ``network`` is whether it has one."""

    process: Process
    argv: tuple[str, ...]
    environment: dict[str, str]
    mounts: tuple[Mount, ...]
    network: bool
    ports: tuple[Port, ...] = ()

    @property
    def id(self) -> str:
        """The id of the process."""
        return self.process.id


@dataclass(frozen=True)
class Contained:
    """A VM in containers."""

    plan: Plan
    cpus: int
    shared: int
    """Bytes of shared memory."""
    containers: tuple[Container, ...]

    @property
    def vm(self) -> str:
        """Name of the VM."""
        return self.plan.vm

    def container(self, name: str) -> Container:
        """Return the container of the process ``name``; it must be there."""
        return next(container for container in self.containers if container.id == name)


class _Places:
    """Gives paths of the host their places in containers, and knows what they need to be there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts: dict[Path, Path] = {}
        self._needed: dict[Path, Mount] = {}

    def of(self, host: Path, *, writable: bool = False, folder: bool = False) -> Path:
        """Return the place of a file or folder, which is mounted there."""
        place = self._place(host)
        self._need(place, Mount(self._hosts[place], place, writable, folder))
        return place

    def within(self, host: Path) -> Path:
        """Return the place of what a process makes: the folder is mounted."""
        folder = self._place(host.parent)
        self._need(folder / host.name, Mount(self._hosts[folder], folder, writable=True, folder=True))
        return folder / host.name

    def _need(self, place: Path, mount: Mount) -> None:
        known = self._needed.get(place)
        self._needed[place] = replace(mount, writable=mount.writable or (known is not None and known.writable))

    def _place(self, host: Path) -> Path:
        host = Path(os.path.normpath(host))
        places = [inside.FOLDER / host.relative_to(self._folder)] if host.is_relative_to(self._folder) else []
        places += [inside.ELSEWHERE / host.name, *(inside.ELSEWHERE / str(n) / host.name for n in range(2, 1000))]
        place = next(place for place in places if self._hosts.get(place, host) == host)
        self._hosts[place] = host
        return place

    def named_in(self, words: tuple[str, ...]) -> tuple[Mount, ...]:
        """Return what a command line names."""
        text = "\0".join(words)
        found: dict[Path, Mount] = {}
        for place, mount in sorted(self._needed.items()):
            if any(re.search(rf"(?<=[\0=]){re.escape(name)}(?=[\0,]|\Z)", text) for name in _spelled(place)):
                writable = mount.writable or (mount.place in found and found[mount.place].writable)
                found[mount.place] = replace(mount, writable=writable)
        return tuple(found.values())


def _spelled(place: Path) -> tuple[str, str]:
    """Return how a path is written as an argument, and within one that is made of several by commas."""
    return str(place), str(place).replace(",", ",,")


def contain(config: Config, *, publish: bool) -> Contained:
    """Return what runs a VM in containers.

    With ``publish`` each container has a network of its own, out of which forwards have to be led.

    Raises:
        ConfigError: something in the configuration has no place there.
    """
    refused.check(config)
    places = _Places(config.folder)
    ports: dict[str, tuple[Port, ...]] = {}
    moved = replace(
        config,
        file=inside.FOLDER / "vm.toml" if config.file else None,
        symbols=None,
        loads=tuple(_rows(rows, places) for rows in config.loads),
        files=tuple(_rows(rows, places) for rows in config.files),
        devices=tuple(_device(device, places, ports, publish=publish) for device in config.devices),
        **_files(config, places),
    )
    planned = plan.make(moved, inside.Inside(config.name), guest=inside.GUEST)
    containers = tuple(_container(process, config, places, ports) for process in planned.processes)
    return Contained(planned, config.cpus, config.memory + _shared(config), containers)


def _files(config: Config, places: _Places) -> dict[str, Any]:
    named = {name: path for name in _FILES if (path := getattr(config, name)) is not None}
    return {n: places.of(path, writable=n in _WRITTEN and os.access(path, os.W_OK)) for n, path in named.items()}


def _shared(config: Config) -> int:
    kept = sum(service.size for service in config.services if service.memory)
    plain = sum(
        options.get("size") or 0 for device in config.devices if (options := dict(device.options)).get("memory")
    )
    return _SLACK + kept + plain


def _rows(rows: Rows, places: _Places) -> Rows:
    return tuple((name, places.of(value) if isinstance(value, Path) else value) for name, value in rows)


def _device(device: Device, places: _Places, ports: dict[str, tuple[Port, ...]], *, publish: bool) -> Device:
    keys, options = schema.keys_of("device", device.type), dict(device.options)
    for name, value in options.items():
        if keys[name].kind is Kind.FILE:
            written = name == "image" and not options.get("readonly") and not options.get("snapshot")
            options[name] = places.of(value, writable=written)
        elif keys[name].kind is Kind.PATH:
            options[name] = places.of(value, folder=True) if name == "tftp" else places.within(value)
    if device.type == "virtio-console":
        options["ports"] = tuple(_console_port(text, places) for text in options.get("ports", ()))
    if publish and device.type in NETWORK_CARDS:
        led = [_led_out(text) for text in options.get("forward", ())]
        ports[device.id] = tuple(port for port, _ in led)
        options["forward"] = tuple(text for _, text in led)
    return replace(device, options=tuple(options.items()))


def _console_port(text: str, places: _Places) -> str:
    name, equals, path = text.partition("=")
    if not path.startswith("/"):
        raise ConfigError(f"port {text!r}: {path!r} is at a place of this host", hint="an absolute path is shared")
    return f"{name}{equals}{places.within(Path(path))}"


def _led_out(forward: str) -> tuple[Port, str]:
    """Return the port to publish for a forward, and the forward at every address of its container."""
    found = _FORWARD.match(forward)
    if found is None:
        raise ConfigError(f"forward {forward!r} is none", hint="tcp:[ADDRESS]:PORT:[GUEST:]PORT, udp:…")
    protocol, address, number, guest = found.groups()
    port = Port(address or "127.0.0.1", int(number), protocol)
    return port, f"{protocol}:{_ANY[address.startswith('[')]}:{number}:{guest}"


def _container(process: Process, config: Config, places: _Places, ports: dict[str, tuple[Port, ...]]) -> Container:
    argv = process.argv
    if process.id == BUS:  # what a supervisor does beside starting processes
        argv = (inside.PYTHON, "-P", "-m", "orchestrator.attend", "--vm", config.name)
        argv += ("--monitor",) if config.bus_monitor else ()
    elif argv[0] == sys.executable:
        argv = (inside.PYTHON, *argv[1:])
    stranger = process.serves is not None and process.id.endswith(plan.BACK_END)
    mounts = list(places.named_in(argv))
    if stranger:
        argv = (inside.PYTHON, "-P", "-m", "orchestrator.companion", "--vm", config.name, "--", *argv)
    if stranger or process.type.startswith(schema.PYTHON_PREFIX):  # it may look for anything beside vm.toml
        whole = Mount(config.folder, inside.FOLDER, writable=stranger, folder=True)
        mounts = [whole, *(mount for mount in mounts if not mount.place.is_relative_to(inside.FOLDER))]
    environment = {name: value for name, value in process.env.items() if name != "PYTHONPATH"}
    if process.id != BUS:
        environment |= inside.WAIT
    return Container(
        process,
        argv,
        inside.ENVIRONMENT | environment,
        tuple(mounts),
        _has_network(process, config),
        ports.get(process.id, ()),
    )


def _has_network(process: Process, config: Config) -> bool:
    if process.id in (BUS, CPU):
        return False
    if process.serves == "hub":
        return any(hub.connect for hub in config.hubs if hub.id == process.id)
    options = next((dict(device.options) for device in config.devices if device.id == process.id), {})
    return options.get("backend") in ("user", "stream")
