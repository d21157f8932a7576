"""What the keys of network cards and hubs mean together: which are for which back-end, and that a hub is there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator import schema
from protocol.errors import ConfigError
from protocol.names import ID_PATTERN, VM_PATTERN, Runtime

Path = tuple[str | int, ...]
_ID_HINT = "letters, digits and _, from a letter on, up to 31"


@dataclass(frozen=True)
class Hub:
    """One ``[[hub]]``."""

    id: str
    listen: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()


class Reader(Protocol):
    """Who checks keys one by one."""

    def error(self, path: Path, what: str, hint: str | None = None) -> ConfigError:
        """Return the error to raise about ``path``."""

    def table(self, given: dict[str, Any], table: str, path: Path, kind: str = "") -> dict[str, Any]:
        """Return the checked values of one table."""


def check_card(reader: Reader, values: dict[str, Any], path: Path) -> None:
    """Check that a card's keys are those of its network.

    Raises:
        ConfigError: one is of another, or missing.
    """
    backend = values["backend"]
    if backend == "tap" and not values["interface"]:
        raise reader.error((*path, "interface"), "missing", "backend 'tap' needs it, such as \"tap0\"")
    for name, key in schema.keys_of("device").items():
        if not key.backends or name not in values:
            continue
        given = values[name] not in (None, key.default)
        if given and backend not in key.backends:
            raise reader.error((*path, name), f"is not for backend {backend!r}", f"but for {', '.join(key.backends)}")
        if key.required and not given and backend in key.backends:
            raise reader.error((*path, name), "missing", f"backend {backend!r} needs it")


def hubs(reader: Reader, tables: list[dict[str, Any]], devices: Sequence[tuple[str, Any]]) -> tuple[Hub, ...]:
    """Return the hubs; ``devices`` are ids and options of the devices, whose cards name hubs.

    Raises:
        ConfigError: an id is none or taken, or a card names a hub that is not there.
    """
    found: list[Hub] = []
    taken = {device for device, _ in devices} | schema.RESERVED_IDS | set(schema.SINGLE_TABLES)
    for index, given in enumerate(tables):
        hub = Hub(**reader.table(given, "hub", ("hub", index)))
        if not ID_PATTERN.match(hub.id) or hub.id in taken:
            what = "is taken" if hub.id in taken else "is no id"
            raise reader.error(("hub", index, "id"), f"{hub.id!r} {what}", _ID_HINT)
        taken.add(hub.id)
        found.append(hub)
    known = [hub.id for hub in found]
    for index, (_, options) in enumerate(devices):
        name = dict(options).get("hub")
        if name is None or name in known:
            continue
        vm, slash, hub_id = name.partition("/")
        if not slash:
            hint = f"hubs: {', '.join(known)}" if known else "[[hub]] declares one; VM/ID is another VM's"
            raise reader.error(("device", index, "hub"), f"no hub {name!r}", hint)
        if not VM_PATTERN.match(vm) or not ID_PATTERN.match(hub_id):
            raise reader.error(("device", index, "hub"), f"{name!r} names no hub", "VM/ID, of a VM and its hub")
    return tuple(found)


def options(vm: str, device_id: str, type_: str, values: dict[str, Any], runtime: Runtime) -> list[str]:
    """Return what a card's process is told beside its keys: an address of its own, and where its hub is."""
    if type_ not in schema.NETWORK_CARDS:
        return []
    found = []
    if not values.get("mac"):  # two cards may be on one network
        digest = hashlib.sha256(f"{vm}/{device_id}".encode()).digest()
        found.append("--mac=" + (b"\x52\x54\x00" + digest[:3]).hex(":"))  # QEMU's prefix, locally administered
    hub = values.get("hub")
    if hub:
        other, slash, name = hub.rpartition("/")
        found.append(f"--hub={(Runtime(other) if slash else runtime).hub_socket(name)}")
    return found


def hub_options(hub: Hub, runtime: Runtime) -> list[str]:
    """Return the arguments of a hub's process."""
    found = ["--bus", runtime.bus_address, "--id", hub.id, f"--cards={runtime.hub_socket(hub.id)}"]
    found += [f"--listen={address}" for address in hub.listen]
    return found + [f"--connect={address}" for address in hub.connect]
