"""vm.toml and ``--set`` → a frozen configuration, or one line that says what is wrong and where.

Everything about single keys comes from ``schema.KEYS``. Nothing here starts or opens anything: a file that is named
is looked up, no more.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import naming, networks, schema, sharing, slots
from orchestrator.keys.key import Key, Kind
from orchestrator.keys.machine import MEMORY_LEAST, MEMORY_STEP
from orchestrator.keys.types import DEVICE_TYPES, IVSHMEM, NETWORK_CARDS
from orchestrator.toml_lines import Lines
from protocol.errors import ConfigError
from protocol.names import ID_PATTERN, VM_PATTERN
from protocol.sizes import format_size, parse_size
from protocol.virtio_types import NUMBERS, number_of

DEFAULT_NAME = "demo"
FILE_NAME = "vm.toml"


Rows = tuple[tuple[str, Any], ...]
"""The keys of a ``[[load]]`` or ``[[fw-cfg]]`` that say something, with their values."""


_FIXED = (
    "id",
    "type",
    "bus",
    "addr",
    "start",
    "restart",
    "args",
    "plugged",
    "sandbox",
    "spare",
)  # keys of every device


@dataclass(frozen=True)
class Device:
    """One ``[[device]]``; ``options`` are the keys of its type that were given or have a default."""

    id: str
    type: str
    bus: str
    start: str
    restart: str
    args: tuple[str, ...]
    plugged: bool = True
    sandbox: bool = True
    spare: bool = False
    addr: str = ""
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Config:
    """A whole VM; paths are absolute."""

    name: str
    memory: int
    prealloc: bool
    cpus: int
    interrupts: str
    clock: str
    engine: str
    perf_map: bool
    bus_monitor: bool
    forks: bool
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    firmware: Path | None
    dtb: Path | None
    flash0: Path | None
    flash1: Path | None
    loads: tuple[Rows, ...]
    files: tuple[Rows, ...]
    symbols: Path | None
    devices: tuple[Device, ...]
    hubs: tuple[networks.Hub, ...]
    services: tuple[sharing.Service, ...]
    file: Path | None
    places: Places = field(compare=False, repr=False)
    hotplug_ports: int = 0

    @property
    def ports(self) -> int:
        """How many root ports there are: first those of devices that have one, then empty ones."""
        return sum(device.bus == "pcie" for device in self.devices) + self.hotplug_ports

    @property
    def embedded(self) -> bool:
        """Whether nothing is named that could boot, so that the embedded guest does."""
        return not (self.kernel or self.firmware or self.flash0 or self.loads)

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return self.file.parent if self.file else Path.cwd()


class Places:
    """Where each value came from, as the start of a message: ``vm.toml:3`` or ``--set``."""

    def __init__(self, file: str, lines: Lines | None, overridden: frozenset[tuple[str | int, ...]]) -> None:
        self._file = file
        self._lines = lines
        self._overridden = overridden

    def of(self, *path: str | int) -> str:
        """Return the place of a key such as ``("device", 0, "image")``."""
        if path in self._overridden or self._lines is None:
            return "--set"
        return f"{self._file}:{self._lines.find(*path)}"


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Return the valid word that ``word`` was perhaps meant to be, as a hint."""
    import difflib  # only for those who mistype

    found = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else None


def load(file: Path | None, settings: Iterable[str] = (), *, name: str | None = None) -> Config:
    """Read ``file`` (``None``: the embedded guest alone), apply ``--set`` texts and check everything.

    Raises:
        ConfigError: naming file, line and key.
    """
    data, lines, shown = ({}, None, "") if file is None else _read(file)
    overridden = _apply(data, [*settings, *([f"vm.name={name}"] if name is not None else [])])
    places = Places(shown, lines, overridden)
    reader = _Reader(places, file.resolve().parent if file else Path.cwd())
    reader.check_tables(data)
    reader.table(data, "", ())
    vm = reader.table(data.get("vm", {}), "vm", ("vm",))
    boot = reader.table(data.get("boot", {}), "boot", ("boot",))
    debug = reader.table(data.get("debug", {}), "debug", ("debug",))
    memory = reader.memory(vm["memory"])
    devices = reader.devices(data.get("device", []), vm["hotplug-ports"])
    options = [(device.id, device.options) for device in devices]
    ids = naming.Ids(reader, [device.id for device in devices])
    return Config(
        name=reader.vm_name(vm["name"] or _default_name(file)),
        memory=memory,
        prealloc=vm["prealloc"],
        cpus=vm["cpus"],
        interrupts=vm["interrupts"],
        clock=reader.clock(vm),
        engine=vm["engine"],
        perf_map=reader.perf_map(vm),
        bus_monitor=vm["bus-monitor"],
        forks=vm["fork-devices"],
        kernel=boot["kernel"],
        initrd=boot["initrd"],
        cmdline=boot["cmdline"],
        firmware=boot["firmware"],
        dtb=boot["dtb"],
        flash0=boot["flash0"],
        flash1=boot["flash1"],
        loads=reader.rows(data, "load"),
        files=reader.rows(data, "fw-cfg"),
        symbols=debug["symbols"],
        devices=devices,
        hubs=networks.hubs(reader, data.get("hub", []), options, ids),
        services=sharing.services(reader, data.get("service", []), options, ids),
        hotplug_ports=vm["hotplug-ports"],
        file=file.resolve() if file else None,
        places=places,
    )


def described(device_id: str, kind: str, settings: Iterable[str], bus: str = "pcie") -> Device:
    """Return a device on ``bus`` from ``KEY=VALUE`` texts; relative paths are relative to the working folder.

    Raises:
        ConfigError: naming the key.
    """
    given: dict[str, Any] = {"id": device_id, "type": kind, "bus": bus}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key.strip() in given:
            raise ConfigError(f"--set {setting}: not KEY=VALUE of a device", hint="for example --set image=disk.img")
        given[key.strip()] = _value(text.strip())
    return _Reader(Places("", None, frozenset()), Path.cwd()).device(given, 0)


def _read(file: Path) -> tuple[dict[str, Any], Lines, str]:
    shown = os.path.relpath(file) if not file.is_absolute() else str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{shown}: no such file", hint="`orchestrator up` without a file boots a demo") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: not a text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{shown}: cannot read: {error.strerror}") from error
    try:
        return tomllib.loads(text), Lines(text), shown
    except tomllib.TOMLDecodeError as error:
        found = re.match(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = int(found[2]) if found and found[2] else len(text.splitlines()) or 1
        raise ConfigError(f"{shown}:{line}: no valid TOML: {found[1] if found else error}") from error


def _default_name(file: Path | None) -> str:
    if file is None:
        return DEFAULT_NAME
    stem = file.resolve().parent.name if file.name == FILE_NAME else file.stem
    word = re.sub(r"[^A-Za-z0-9_.-]", "-", stem).lstrip("-_.")[:31]
    return word or DEFAULT_NAME


def _apply(data: dict[str, Any], settings: Iterable[str]) -> frozenset[tuple[str | int, ...]]:
    """Put ``vm.memory=1G`` and ``disk0.readonly=true`` into ``data``, and return what they changed."""
    changed: set[tuple[str | int, ...]] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        table, _, name = key.strip().partition(".")
        if not equals or not name:
            raise ConfigError(f"--set {setting}: not TABLE.KEY=VALUE", hint="for example --set vm.memory=1G")
        value = _value(text.strip())
        devices = data.get("device", [])
        ids = [d.get("id") for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
        if table in schema.SINGLE_TABLES:
            target = data.setdefault(table, {})
            path: tuple[str | int, ...] = (table, name)
        elif table in ids:
            target = devices[ids.index(table)]
            path = ("device", ids.index(table), name)
        else:
            hint = nearest(table, [*schema.SINGLE_TABLES, *[i for i in ids if isinstance(i, str)]])
            raise ConfigError(f"--set: {key}: no table or device {table!r}", hint=hint)
        if isinstance(target, dict):
            target[name] = value
            changed.add(path)
    return frozenset(changed)


def _value(text: str) -> Any:
    """Return a TOML value, or the text itself where it is none: quotes are the shell's already."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, str, list)) else text


class _Reader:
    """Checks values against the schema; every message begins with the place and the key."""

    def __init__(self, places: Places, folder: Path) -> None:
        self._places = places
        self._folder = folder

    def error(self, path: tuple[str | int, ...], what: str, hint: str | None = None) -> ConfigError:
        """Return the error to raise about ``path``."""
        key = ".".join(str(part) for part in path if not isinstance(part, int))
        return ConfigError(f"{self._places.of(*path)}: {key}: {what}", hint=hint)

    def check_tables(self, data: dict[str, Any]) -> None:
        """Check that the tables are tables."""
        for table in schema.TABLES:
            value = data.get(table, [] if table in schema.LISTS else {})
            if table in schema.LISTS:
                if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                    raise self.error((table,), "must be a list of tables", f"write [[{table}]]")
            elif not isinstance(value, dict):
                raise self.error((table,), "must be a table", f"write [{table}]")

    def table(self, given: dict[str, Any], table: str, path: tuple[str | int, ...], kind: str = "") -> dict[str, Any]:
        """Return the checked values of one table, with defaults; ``kind`` is the device's type."""
        keys = schema.keys_of(table, kind)
        tables = schema.TABLES if not table else ()
        for name in given:
            if name in keys or name in tables:
                continue
            if table == "device" and (types := schema.types_with(name)):
                others = f"types with it: {', '.join(types)}; of your own device: args"
                raise self.error((*path, name), f"a device of type {kind!r} has no such key", others)
            hint = nearest(name, [*keys, *tables])
            if hint is None and keys and table:
                hint = f"{table} has: {', '.join(keys)}"
            raise self.error((*path, name), "unknown key", hint)
        return {name: self._checked(given, key, path) for name, key in keys.items()}

    def _checked(self, given: dict[str, Any], key: Key, path: tuple[str | int, ...]) -> Any:
        if key.name not in given:
            if key.required and not key.backends:
                raise self.error((*path, key.name), "missing", key.doc.replace("`", ""))
            return key.default
        where = (*path, key.name)
        value: Any = given[key.name]
        if key.kind is Kind.SIZE:
            size = self._size(value, key, where)
            if size < 1 == key.least:
                raise self.error(where, f"{value} is out of range", "1 or more")
            return size
        wanted: dict[Kind, type] = {Kind.COUNT: int, Kind.NUMBER: int, Kind.FLAG: bool, Kind.WORDS: list}
        expected = wanted.get(key.kind, str)
        fits = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
        if not fits:
            raise self.error(where, f"must be {_article(key.kind)}, not {_toml_type(value)}")
        if key.kind is Kind.WORDS:
            if not all(isinstance(word, str) for word in value):
                raise self.error(where, "must be a list of texts")
            return tuple(value)
        if key.kind is Kind.FILE:
            return self._file(value, where)
        if key.kind is Kind.PATH:
            return (self._folder / Path(value).expanduser()).absolute()
        if key.kind in (Kind.COUNT, Kind.NUMBER):
            self._range(value, key, where)
        choices = [str(choice) for choice in key.choices]
        if choices and value not in key.choices:
            raise self.error(
                where,
                f"{value!r} is none of its values",
                nearest(str(value), choices) or f"values: {', '.join(choices)}",
            )
        return value

    def _range(self, value: int, key: Key, where: tuple[str | int, ...]) -> None:
        if value < key.least or (key.most is not None and value > key.most):
            if key.least == key.most:
                raise self.error(where, f"{value} is not possible yet", f"only {key.least} so far")
            limit = f"{key.least} to {key.most}" if key.most is not None else f"{key.least} or more"
            raise self.error(where, f"{value} is out of range", limit)

    def _size(self, value: Any, key: Key, where: tuple[str | int, ...]) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise self.error(where, f"must be {_article(key.kind)}, not {_toml_type(value)}")
        try:
            return parse_size(value)
        except ConfigError as error:
            raise self.error(where, error.message, error.hint) from None

    def _file(self, value: str, where: tuple[str | int, ...]) -> Path:
        path = (self._folder / Path(value).expanduser()).absolute() if value else self._folder
        if path.is_dir():
            raise self.error(where, f"{value!r} is a folder" if value else "empty")
        if not path.exists():
            names = os.listdir(path.parent) if path.parent.is_dir() else []
            raise self.error(where, f"no such file: {path}", nearest(path.name, names))
        if not os.access(path, os.R_OK):
            raise self.error(where, f"not permitted to read {path}")
        return path

    def clock(self, vm: dict[str, Any]) -> str:
        """Return the clock's source; instructions of several harts have no common count."""
        if vm["clock"] == "icount" and vm["cpus"] != 1:
            raise self.error(("vm", "clock"), "icount counts the instructions of one hart", "vm.cpus = 1")
        return str(vm["clock"])

    def perf_map(self, vm: dict[str, Any]) -> bool:
        """Check that there may be code to name."""
        if vm["perf_map"] and vm["engine"] == "interp":
            raise self.error(
                ("vm", "perf_map"), "names translated code, and the interpreter executes", 'vm.engine = "auto"'
            )
        return bool(vm["perf_map"])

    def memory(self, size: int) -> int:
        """Check the size of RAM."""
        where = ("vm", "memory")
        shown = format_size(size)
        if size < MEMORY_LEAST:
            raise self.error(where, f"{shown} is too little", f"{format_size(MEMORY_LEAST)} or more")
        if size % MEMORY_STEP:
            near = size // MEMORY_STEP * MEMORY_STEP
            raise self.error(where, f"{shown} is no multiple of 2M", f"the nearest is {format_size(near)}")
        return size

    def vm_name(self, name: str) -> str:
        """Check the VM's name."""
        if not VM_PATTERN.match(name):
            raise self.error(("vm", "name"), f"{name!r} is no name", "letters, digits, _ . -, up to 31")
        if name.endswith(".dev"):  # its /dev/shm names would look like those of another VM's devices
            raise self.error(("vm", "name"), f"{name!r} ends in .dev", "choose another")
        return name

    def rows(self, data: dict[str, Any], table: str) -> tuple[Rows, ...]:
        """Check the tables of one list key by key; what they mean together, the CPU process knows."""
        checked = (self.table(given, table, (table, index)) for index, given in enumerate(data.get(table, [])))
        return tuple(tuple(row for row in values.items() if _says_something(row[1])) for values in checked)

    def devices(self, tables: list[dict[str, Any]], empty_ports: int = 0) -> tuple[Device, ...]:
        """Check the devices together."""
        devices: list[Device] = []
        lines: dict[str, int] = {}
        for index, given in enumerate(tables):
            device = self.device(given, index)
            where = ("device", index, "id")
            if device.id in lines:
                first = self._places.of("device", lines[device.id], "id")
                raise self.error(where, f"{device.id!r} is taken", f"first used at {first}")
            lines[device.id] = index
            devices.append(device)
        ports, most = empty_ports + sum(device.bus == "pcie" for device in devices), len(schema.SLOTS["pcie"])
        if ports > most:
            raise self.error(("vm", "hotplug-ports"), f"{ports} ports with those of devices", f"{most} at most")
        try:
            slots.assign(devices, ports)
        except slots.Misplaced as error:
            key = (error.key,) if error.key else ()
            raise self.error(("device", error.index, *key), error.text, error.hint) from None
        return tuple(devices)

    def device(self, given: dict[str, Any], index: int) -> Device:
        """Check one device."""
        path = ("device", index)
        kind = given.get("type")
        if isinstance(kind, str):
            self._type(kind, (*path, "type"))
        values = self.table(given, "device", path, kind if isinstance(kind, str) else "")
        if not ID_PATTERN.match(values["id"]):
            hint = "letters, digits and _, from a letter on, up to 31"
            raise self.error((*path, "id"), f"{values['id']!r} is no device id", hint)
        if values["id"] in schema.RESERVED_IDS | set(schema.SINGLE_TABLES):
            raise self.error((*path, "id"), f"{values['id']!r} is the name of a part of every VM", "choose another")
        if values.get("snapshot") and values.get("readonly"):
            raise self.error((*path, "snapshot"), "excludes readonly", "snapshot alone leaves the image untouched")
        if kind == "vhost-user":
            self._back_end(values, path)
        if kind in NETWORK_CARDS:
            networks.check_card(self, values, path)
        if kind in IVSHMEM:
            sharing.check_device(self, values, path, bus_given="bus" in given)
        if not values["plugged"] and (values["bus"] != "pcie" or values["start"] != "auto"):
            raise self.error(
                (*path, "plugged"), "only a device behind a port comes later", 'bus = "pcie", start = "auto"'
            )
        fixed = {name: values.pop(name) for name in _FIXED}
        return Device(**fixed, options=tuple((name, value) for name, value in values.items() if value is not None))

    def _back_end(self, values: dict[str, Any], path: tuple[str | int, ...]) -> None:
        """Check what a vhost-user device is, and that it is clear who serves it, and where."""
        if number_of(values["device"]) is None:
            hint = nearest(values["device"], NUMBERS) or f"a number, or {', '.join(NUMBERS)}"
            raise self.error((*path, "device"), f"{values['device']!r} is no type of virtio device", hint)
        command = values["command"]
        if values["socket"] and command:
            raise self.error((*path, "command"), "excludes socket", "its socket is in the VM's folder: {socket}")
        if not values["socket"] and not command:
            raise self.error((*path, "socket"), "missing", "where the back-end listens; or command, which starts one")
        if command and not any("{socket}" in word for word in command):
            raise self.error((*path, "command"), "has no {socket}", 'such as "--socket-path={socket}"')

    def _type(self, kind: str, where: tuple[str | int, ...]) -> None:
        if kind in DEVICE_TYPES:
            return
        module = kind.removeprefix(schema.PYTHON_PREFIX)
        if kind.startswith(schema.PYTHON_PREFIX):
            module, colon, member = module.partition(":")
            if all(part.isidentifier() for part in module.split(".")) and (member.isidentifier() or not colon):
                return
            raise self.error(where, f"{kind!r} names no module", "such as python:mydevices.rng, python:rng:Rng")
        hint = nearest(kind, DEVICE_TYPES) or f"types: {', '.join(DEVICE_TYPES)}, python:MODULE[:CLASS]"
        raise self.error(where, f"unknown type {kind!r}", hint)


def _says_something(value: Any) -> bool:
    return value is not None and value is not False and value != ""  # the number 0 does


def _article(kind: Kind) -> str:
    names = {
        Kind.COUNT: "a whole number",
        Kind.NUMBER: "a whole number",
        Kind.SIZE: 'a size such as "512M"',
        Kind.FLAG: "true or false",
    }
    return names.get(kind, "a list of texts" if kind is Kind.WORDS else "a text in quotes")


def _toml_type(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number with a point", str: "a text", list: "a list", dict: "a table"}
    return names.get(type(value), "that")
