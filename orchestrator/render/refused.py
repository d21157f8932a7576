"""What of a vm.toml has no place in containers: named by its key, with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator import naming
from orchestrator.config import Config, Device
from orchestrator.keys.types import NETWORK_CARDS
from orchestrator.networks import Hub
from orchestrator.sharing import Service
from protocol.errors import ConfigError

Found = tuple[str, str, str]
"""A key, what is wrong with it, and a hint."""

_ABSOLUTE = re.compile(r"(^|[=,:])/")
_OF_HOST = "is at a place of this host, which containers do not share"
_OTHER_VM = "is another VM's, whose containers share nothing with these"


def check(config: Config) -> None:
    """Refuse the first thing that containers cannot have.

    Raises:
        ConfigError: naming file, line and key.
    """
    tables: tuple[tuple[str, tuple[Any, ...], Callable[[Any], Iterator[Found]]], ...] = (
        ("device", config.devices, _device),
        ("hub", config.hubs, _hub),
        ("service", config.services, _service),
    )
    for table, entries, find in tables:
        for index, entry in enumerate(entries):
            for key, what, hint in find(entry):
                raise ConfigError(f"{config.places.of(table, index, key)}: {table}.{key}: {what}", hint=hint)


def _device(device: Device) -> Iterator[Found]:
    options = dict(device.options)
    if device.start == "attach":
        yield "start", "nobody is there to start it by hand", 'start = "auto"'
    if not device.plugged:
        yield "plugged", "only `up` and `attach` plug devices in", "leave it out"
    if device.spare:
        yield "spare", "the engine starts processes again, none stands by", "leave it out, or --set ID.spare=false"
    for word in device.args:
        if _ABSOLUTE.search(word):
            yield "args", f"{word!r} {_OF_HOST}", "beside vm.toml, and relative to it"
    for word in options.get("command", ())[1:]:
        if _ABSOLUTE.search(word):
            yield "command", f"{word!r} {_OF_HOST}", "beside vm.toml, as {folder}/…"
    for key in ("image", "source"):
        if key in options and not options[key].is_file():
            yield key, f"{options[key]} is a device of this host, which needs a privilege", "an image file"
    for key in ("memory", "server"):
        value = options.get(key)
        if isinstance(value, str) and "/" in value:
            other = naming.is_of_another(value)
            yield (
                key,
                f"{value!r} {_OTHER_VM if other else _OF_HOST}",
                "a [[service]] of this file" if other else "a name",
            )
    if device.type in NETWORK_CARDS:
        yield from _card(options)


def _card(options: dict[str, Any]) -> Iterator[Found]:
    backend = options["backend"]
    if backend == "tap":
        yield "backend", "'tap' needs a privilege", 'backend = "user" needs none'
    if backend == "passt":
        yield "backend", "'passt' was not seen to start in a container", 'backend = "user"'
    if backend == "dgram" or (backend == "stream" and options.get("server")):
        yield "backend", f"{backend!r} listens at an address of this host", 'backend = "user" with forward'
    if "/" in (options.get("hub") or ""):
        yield "hub", f"{options['hub']!r} {_OTHER_VM}", "a [[hub]] of this file"
    for key in ("address", "forward", "guest-forward"):
        values = options.get(key) or ()
        for value in (values,) if isinstance(values, str) else values:
            if "unix:" in value:
                yield key, f"{value!r} {_OF_HOST}", "an address with a port"


def _hub(hub: Hub) -> Iterator[Found]:
    if hub.listen:
        yield "listen", f"{hub.listen[0]!r} {_OF_HOST}", "connect leads out"
    for address in hub.connect:
        if address.startswith("unix:"):
            yield "connect", f"{address!r} {_OF_HOST}", "an address with a port"


def _service(service: Service) -> Iterator[Found]:
    for key in ("memory", "socket"):
        if "/" in getattr(service, key):
            yield key, f"{getattr(service, key)!r} {_OF_HOST}", "leave it out" if key == "socket" else "a name"
