"""``reload`` and ``swap``: another process for a device of a running VM, of newer source or of another type."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator import changing, client, config, orders, plan, schema
from orchestrator.commands.plug import add_names, meant
from orchestrator.plan import Process
from orchestrator.vms import Vm
from protocol.errors import BusvmError, ConfigError, NotFound

_STAYS = ("queues", "queue-size")  # what the guest has seen


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "reload",
        help="have a device run from its edited source",
        description="Load the source of a device anew, beside the process that serves, and have the new process go on "
        "in its place between two requests. If it does not load, or does not fit, the old one serves on.",
    )
    add_names(parser)
    parser.set_defaults(run=run_reload)
    parser = verbs.add_parser(
        "swap",
        help="have a device served by another type, or with other keys",
        description="Start another process for a device, with the back-end that belongs to it, and have it go on in "
        "the place of the one that serves, while the guest notices nothing. What the guest has been told must hold: "
        "features, queues, the size of a disk. Otherwise the old one serves on. Without --type the device becomes what "
        "vm.toml says again.",
    )
    add_names(parser)
    parser.add_argument("--type", metavar="TYPE", help="what is to serve the device")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of it")
    parser.set_defaults(run=run_swap)


def run_reload(options: argparse.Namespace) -> int:
    """Reload the source of a device."""
    vm, device_id = meant(options.names)
    _serving(vm, device_id)
    orders.give(vm, changing.RELOAD, {"device": device_id}, timeout_s=changing.CHANGE_S)
    return 0


def run_swap(options: argparse.Namespace) -> int:
    """Have another type serve a device."""
    vm, device_id = meant(options.names)
    serving = _serving(vm, device_id)
    processes: Sequence[Process]
    if options.type is not None:
        assert vm.record is not None
        folder = vm.record.plan.process(plan.CPU).cwd or "."
        settings = [*_kept(vm, device_id, options.type, options.set), *options.set]
        bus = re.sub(r"\d+\Z", "", serving.slot or "") or "pci"
        described = config.described(device_id, options.type, settings, bus)
        processes = plan.added(described, vm.runtime, Path(folder), vm.record.plan.services)
    elif options.set:
        raise ConfigError("--set describes a device together with --type", hint=f"--type {serving.type}")
    elif not serving.instead:
        raise BusvmError(f"{device_id} is what vm.toml says", hint="--type TYPE --set KEY=VALUE says something else")
    else:
        own, *back_ends = serving.instead
        processes = (*back_ends, own)
    body = {"device": device_id, "processes": [asdict(process) for process in processes]}
    orders.give(vm, changing.SWAP, body, timeout_s=changing.CHANGE_S)
    return 0


def _serving(vm: Vm, device_id: str) -> Process:
    devices = vm.record.plan.devices if vm.record else ()
    found = next((process for process in devices if process.id == device_id), None)
    if found is None:
        ids = ", ".join(process.id for process in devices)
        raise NotFound(f"no device {device_id!r} in this VM", hint=f"it has: {ids}" if ids else "it has none")
    return found


def _kept(vm: Vm, device_id: str, kind: str, given: Sequence[str]) -> list[str]:
    """Return the settings that stay as they are unless others are given: those that the guest has seen."""
    known = schema.keys_of("device", kind)
    wanted = [key for key in _STAYS if key in known and not any(text.partition("=")[0] == key for text in given)]
    if not wanted:
        return []
    shown = client.ask(vm.runtime, lambda connected: connected.device(device_id))["Configuration"]
    found = {name.replace("_", "-"): value for name, value in shown.items()}
    return [f"{key}={found[key]}" for key in wanted if key in found]
