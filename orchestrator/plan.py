"""Configuration → the processes of a VM: pure, so that ``up --dry-run`` shows exactly what ``up`` would start."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import networks, sandboxes, schema, sharing, slots
from orchestrator.config import Config, Device, Rows
from orchestrator.keys.types import DEVICE_TYPES
from protocol.names import Runtime

BUS, CPU = "bus", "cpu"
BACK_END_TYPE = "vhost-user back-end"
BACK_END = ".backend"  # behind the id of its device
_COMMAND_WAIT_S = 10  # for a back-end that starts at the same time


@dataclass(frozen=True)
class Process:
    """One process: how it is started, and what happens when it ends."""

    id: str
    type: str
    argv: tuple[str, ...]
    log: str
    cwd: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    start: str = "auto"
    restart: str = "no"
    slot: str | None = None
    """Of a device: its slot of PCI, perhaps with a function, ``mmio0``, ``platform0``, or ``pcie`` and its port."""
    serves: str | None = None
    """Of what is no device but started again like one: the device whose back-end it is, ``hub`` or ``service``."""
    listens: str | None = None
    """Of a service: the socket that is there when devices can join."""
    plugged: bool = True
    """Of a device and its back-end: whether ``up`` starts it, or ``attach``."""
    added: bool = False
    """Whether ``attach`` has brought it; it goes with ``detach``."""
    sockets: tuple[str, ...] = ()
    """Where it listens, outside of the VM's folder."""
    spare: bool = False
    """Of a device: whether a second process stands by."""
    instead: tuple[Process, ...] = ()
    """Of a device that ``swap`` has brought: the processes that the configuration has in its place."""
    brought: bool = False
    """Of a back-end: whether ``swap`` has brought it."""

    @property
    def module(self) -> str:
        """The module that it runs, if it is Python and a device, a hub or a service; "" of other programs."""
        words = [word for word in self.argv[:4] if word != "-P"]
        if words[:2] != [sys.executable, "-m"] or self.type in (CPU, BACK_END_TYPE):
            return ""
        return words[2]

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.argv)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Process:
        """Return the process that ``asdict`` made plain values of."""
        instead = tuple(cls.from_json(process) for process in value.get("instead", ()))
        lists = {"argv": tuple(value["argv"]), "sockets": tuple(value.get("sockets", ())), "instead": instead}
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class Plan:
    """All processes of one VM, in the order of their start."""

    vm: str
    file: str | None
    memory: int
    bus: str
    processes: tuple[Process, ...]
    embedded: bool = False
    """It boots the embedded guest, which has no power button to listen to."""
    symbols: str | None = None
    """The guest's symbols, where the configuration names them."""
    services: tuple[sharing.Service, ...] = ()
    """What devices that come later can join."""
    monitor: bool = False
    """Everybody on the bus may listen to it."""
    forks: bool = False
    """Device processes are forks of one that has loaded what they need."""

    def of_device(self, name: str) -> tuple[Process, ...]:
        """Return the processes of a device: its back-end, if it has one, and its own; none if there is no such."""
        if name not in [device.id for device in self.devices]:
            return ()
        return tuple(p for p in self.restartable if name in (p.id, p.serves))

    def with_added(self, processes: Collection[Process]) -> Plan:
        """Return it with the processes of one more device."""
        return replace(self, processes=(*self.processes, *processes))

    def without(self, names: Collection[str]) -> Plan:
        """Return it without these processes."""
        return replace(self, processes=tuple(p for p in self.processes if p.id not in names))

    def with_exchanged(self, process: Process, back_ends: Collection[Process]) -> Plan:
        """Return it with another process of a device, and back-ends that come with it."""
        kept = [process if p.id == process.id else p for p in self.processes]
        return replace(self, processes=(*kept, *back_ends))

    def is_of(self, planned: Plan) -> bool:
        """Tell whether it began as ``planned``: without what was added, and with what was swapped, since."""
        began = [was for p in self.processes if not (p.added or p.brought) for was in (p.instead or (p,))]

        def plain(plan: Plan, processes: Collection[Process]) -> Plan:
            return replace(plan, processes=tuple(sorted(processes, key=lambda process: process.id)))

        return plain(self, began) == plain(planned, planned.processes)

    @property
    def devices(self) -> tuple[Process, ...]:
        """The device processes."""
        return tuple(process for process in self.processes if process.slot is not None)

    @property
    def restartable(self) -> tuple[Process, ...]:
        """The processes that are started again: devices, their back-ends, hubs, services."""
        return tuple(process for process in self.processes if process.slot is not None or process.serves is not None)

    def process(self, name: str) -> Process:
        """Return the process ``name``; it must be there."""
        return next(process for process in self.processes if process.id == name)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """Return the plan that ``to_json`` wrote.

        Raises:
            KeyError, TypeError: it is none of this version.
        """
        processes = tuple(Process.from_json(process) for process in value["processes"])
        services = tuple(sharing.Service(**service) for service in value["services"])
        return cls(**{**value, "processes": processes, "services": services})


def make(
    config: Config,
    runtime: Runtime,
    *,
    guest: Path,
    debug: Collection[str] = (),
    stop_at_start: bool = False,
    state: Path | None = None,
) -> Plan:
    """Return the plan; ``guest`` boots where no kernel is named, the ``debug`` devices are left to a debugger.

    With ``state`` the machine goes on from what was saved there.
    """
    bus = Process(BUS, BUS, bus_command(runtime), str(runtime.logs / "bus.log"))
    places = slots.assign(config.devices, config.ports)
    devices = tuple(
        _device(
            config.folder,
            device,
            slot,
            runtime,
            config.services,
            debug=device.id in debug,
        )
        for device, slot in zip(config.devices, places, strict=True)
    )
    cpu = _cpu(config, devices, runtime, guest, stop_at_start=stop_at_start, state=state)
    back_ends = tuple(found for device in config.devices if (found := _back_end(config.folder, device, runtime)))
    hubs = tuple(_hub(config, hub, runtime) for hub in config.hubs)
    services = tuple(_service(config, service, runtime) for service in config.services)
    file = str(config.file) if config.file else None
    return Plan(
        config.name,
        file,
        config.memory,
        runtime.bus_address,
        (bus, cpu, *hubs, *services, *back_ends, *devices),
        embedded=config.embedded,
        symbols=str(config.symbols) if config.symbols else None,
        services=config.services,
        monitor=config.bus_monitor,
        forks=config.forks,
    )


def added(
    device: Device, runtime: Runtime, folder: Path, services: tuple[sharing.Service, ...] = ()
) -> tuple[Process, ...]:
    """Return the processes of a device that is plugged into a running VM, whose folder and services these are.

    Raises:
        ConfigError: it names a service that is not there.
    """
    own = _device(folder, device, device.bus, runtime, services, debug=False)
    back_end = _back_end(folder, device, runtime)
    return tuple(replace(process, plugged=False, added=True) for process in (back_end, own) if process)


def bus_command(runtime: Runtime) -> tuple[str, ...]:
    """Return the command of the private dbus-daemon, less the descriptor on which it says that it is ready."""
    return ("dbus-daemon", f"--config-file={runtime.folder / 'bus.conf'}", "--nofork", "--nopidfile")


def _python(module: str, *, safe: bool) -> tuple[str, ...]:
    # -P keeps the working folder, where the user's files are, from hiding our own modules
    return (sys.executable, *(("-P",) if safe else ()), "-m", module)


def environment() -> dict[str, str]:
    """Return what our own processes need in their environment."""
    found = {"PYTHONUNBUFFERED": "1"}
    home = Path(__file__).resolve().parent.parent
    if home.name not in ("site-packages", "dist-packages"):  # a checkout that may not be installed
        others = os.environ.get("PYTHONPATH")
        found["PYTHONPATH"] = f"{home}{os.pathsep}{others}" if others else str(home)
    return found


def _cpu(
    config: Config,
    devices: tuple[Process, ...],
    runtime: Runtime,
    guest: Path,
    *,
    stop_at_start: bool = False,
    state: Path | None = None,
) -> Process:
    argv = [*_python("cpu_proc", safe=True), "--vm", config.name, "--bus", runtime.bus_address]
    argv += ["--memory", str(config.memory), "--cpus", str(config.cpus)]
    if config.prealloc:
        argv += ["--prealloc"]
    if config.engine != "auto":
        argv += ["--engine", config.engine]
    if config.perf_map:
        argv += ["--perf-map"]
    if config.clock != "real":
        argv += ["--clock", config.clock]
    if config.interrupts != "aia":
        argv += ["--interrupts", config.interrupts]
    for name in ("firmware", "kernel", "initrd", "dtb", "flash0", "flash1"):
        path = guest if name == "kernel" and config.embedded else getattr(config, name)
        if path:
            argv += [f"--{name}", str(path)]
    for option, tables in (("--load", config.loads), ("--fw-cfg", config.files)):
        argv += [f"{option}={_pairs(rows)}" for rows in tables]
    if config.cmdline:
        argv += [f"--cmdline={config.cmdline}"]
    if stop_at_start:
        argv += ["--stop-at-start"]
    if state:
        argv += ["--state", str(state)]
    if config.ports:
        argv += ["--ports", str(config.ports)]
    for device in devices:
        argv += ["--device" if device.plugged else "--reserve", f"{device.id}={device.slot}"]
    return Process(CPU, CPU, tuple(argv), str(runtime.logs / "cpu.log"), str(config.folder), environment())


def _pairs(rows: Rows) -> str:
    """Return keys and values as one text; a comma within a value is written twice."""
    shown = ((key, "true" if value is True else str(value).replace(",", ",,")) for key, value in rows)
    return ",".join(f"{key}={value}" for key, value in shown)


def check_command(config: Config, runtime: Runtime, guest: Path) -> tuple[str, ...]:
    """Return the command that places the guest on paper and starts nothing."""
    return (*_cpu(config, (), runtime, guest).argv, "--check")


def device_program(kind: str) -> tuple[str, ...]:
    """Return the command of a type without options: a known one, ``python:MODULE`` or ``python:MODULE:CLASS``."""
    known = DEVICE_TYPES.get(kind)
    if known:
        return _python(known.module, safe=True)
    module = kind.removeprefix(schema.PYTHON_PREFIX)
    return (*_python("devproc", safe=False), module) if ":" in module else _python(module, safe=False)


def _device(
    folder: Path, device: Device, slot: str, runtime: Runtime, services: tuple[sharing.Service, ...], *, debug: bool
) -> Process:
    python = device_program(device.type)
    by_hand = debug or device.start == "attach"
    if debug:
        python = (python[0], "-m", "pdb", *python[python.index("-m") :])
    argv = [*python, "--bus", runtime.bus_address, "--id", device.id]
    argv += [f"--transport={device.bus}"] if not device.bus.startswith("pci") else []
    argv += networks.options(runtime.vm, device.id, device.type, dict(device.options), runtime)
    argv += sharing.options(device.id, device.type, dict(device.options), runtime, folder, services)
    argv += [*_options(device), *device.args]
    if _command(device):
        argv += [f"--socket={_socket(device, runtime)}", f"--wait={_COMMAND_WAIT_S}"]
    return Process(
        device.id,
        device.type,
        tuple(argv),
        str(runtime.logs / f"{device.id}.log"),
        str(folder),
        environment() | sandboxes.environment(sandbox=device.sandbox and not by_hand),
        "attach" if debug else device.start,
        device.restart,
        slot,
        plugged=device.plugged,
        sockets=sandboxes.sockets(dict(device.options), folder),
        spare=device.spare,
    )


def _command(device: Device) -> tuple[str, ...]:
    """Return the command of the device's back-end, if there is one of ours."""
    return tuple(dict(device.options).get("command", ()))


def _socket(device: Device, runtime: Runtime) -> Path:
    return runtime.back_end_socket(device.id)


def _back_end(folder: Path, device: Device, runtime: Runtime) -> Process | None:
    """Return the process of a back-end that belongs to the VM."""
    command = _command(device)
    if not command:
        return None
    places = {"{socket}": str(_socket(device, runtime)), "{folder}": str(folder)}
    name = f"{device.id}{BACK_END}"
    return Process(
        name,
        BACK_END_TYPE,
        tuple(_replaced(word, places) for word in command),
        str(runtime.logs / f"{name}.log"),
        str(folder),
        restart="always",
        serves=device.id,
        plugged=device.plugged,
    )


def _hub(config: Config, hub: networks.Hub, runtime: Runtime) -> Process:
    argv = (*_python("devproc.hub", safe=True), *networks.hub_options(hub, runtime))
    log, folder = str(runtime.logs / f"{hub.id}.log"), str(config.folder)
    env = environment() | sandboxes.environment(sandbox=True)
    places = sandboxes.listening(hub.listen, config.folder)
    return Process(hub.id, "hub", argv, log, folder, env, restart="always", serves="hub", sockets=places)


def _service(config: Config, service: sharing.Service, runtime: Runtime) -> Process:
    argv = (*_python(sharing.MODULE, safe=True), *sharing.service_options(service, runtime))
    return Process(
        service.id,
        service.type,
        argv,
        str(runtime.logs / f"{service.id}.log"),
        str(config.folder),
        environment() | sandboxes.environment(sandbox=True),
        restart="always",
        serves="service",
        sockets=tuple(f"{service.place(runtime)}{suffix}" for suffix in ("", sharing.DIALECT_SUFFIX)),
        listens=f"{service.place(runtime)}{sharing.DIALECT_SUFFIX}",
    )


def _replaced(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _options(device: Device) -> list[str]:
    """Turn the keys of a device's type into options; what has its default is left out."""
    keys = schema.keys_of("device", device.type)
    argv: list[str] = []
    for name, value in device.options:
        key = keys[name]
        if value == key.default or not key.option:
            continue
        if value is True:
            argv.append(key.option)
        elif value is False:
            argv.append(key.option.replace("--", "--no-", 1))
        else:
            argv += [f"{key.option}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return argv
