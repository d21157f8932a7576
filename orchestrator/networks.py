"""What the keys of network cards and hubs mean together: which are for which back-end, and that a hub is there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import naming, schema
from orchestrator.keys.types import NETWORK_CARDS
from orchestrator.naming import Ids, Path, Reader
from protocol.names import Runtime


@dataclass(frozen=True)
class Hub:
    """One ``[[hub]]``."""

    id: str
    listen: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()


def check_card(reader: Reader, values: dict[str, Any], path: Path) -> None:
    """Check that a card's keys are those of its network.

    Raises:
        ConfigError: one is of another, or missing.
    """
    backend = values["backend"]
    if backend == "tap" and not values["interface"]:
        raise reader.error((*path, "interface"), "missing", "backend 'tap' needs it, such as \"tap0\"")
    for name, key in schema.keys_of("device", values["type"]).items():
        if not key.backends or name not in values:
            continue
        given = values[name] not in (None, key.default)
        if given and backend not in key.backends:
            raise reader.error((*path, name), f"is not for backend {backend!r}", f"but for {', '.join(key.backends)}")
        if key.required and not given and backend in key.backends:
            raise reader.error((*path, name), "missing", f"backend {backend!r} needs it")


def hubs(reader: Reader, tables: list[dict[str, Any]], devices: Sequence[tuple[str, Any]], ids: Ids) -> tuple[Hub, ...]:
    """Return the hubs; ``devices`` are ids and options of the devices, whose cards name hubs.

    Raises:
        ConfigError: an id is none or taken, or a card names a hub that is not there.
    """
    found: list[Hub] = []
    for index, given in enumerate(tables):
        found.append(Hub(**reader.table(given, "hub", ("hub", index))))
        ids.take(found[-1].id, ("hub", index, "id"))
    for index, (_, options) in enumerate(devices):
        name = dict(options).get("hub")
        if name is not None:
            naming.check(reader, name, ("device", index, "hub"), [hub.id for hub in found], "hub", "hub")
    return tuple(found)


def options(vm: str, device_id: str, type_: str, values: dict[str, Any], runtime: Runtime) -> list[str]:
    """Return what a card's process is told beside its keys: an address of its own, and where its hub is."""
    if type_ not in NETWORK_CARDS:
        return []
    found = []
    if not values.get("mac"):  # two cards may be on one network
        digest = hashlib.sha256(f"{vm}/{device_id}".encode()).digest()
        found.append("--mac=" + (b"\x52\x54\x00" + digest[:3]).hex(":"))  # QEMU's prefix, locally administered
    hub = values.get("hub")
    if hub:
        found.append(f"--hub={naming.place(hub, runtime, Runtime.hub_socket)}")
    return found


def hub_options(hub: Hub, runtime: Runtime) -> list[str]:
    """Return the arguments of a hub's process."""
    found = ["--bus", runtime.bus_address, "--id", hub.id, f"--cards={runtime.hub_socket(hub.id)}"]
    found += [f"--listen={address}" for address in hub.listen]
    return found + [f"--connect={address}" for address in hub.connect]
