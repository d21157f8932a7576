"""``pause``, ``resume``, ``reset``, ``powerdown`` and ``restart``: orders to a running VM."""

from __future__ import annotations

import argparse
import os
import sys
import time

from orchestrator import client, requests, vms
from orchestrator.lock import CALL
from orchestrator.record import FAILED, UNPLUGGED
from protocol.errors import BusvmError, NotFound

_ORDERS = {
    "pause": ("Pause", "stop harts and guest time"),
    "resume": ("Run", "go on after a pause"),
    "reset": ("Reset", "reset the machine, as its reset button would"),
    "powerdown": ("PowerDown", "press the power button; the guest decides"),
}
_RESTART_S = 20.0
_POLL_S = 0.05


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    for verb, (_, text) in _ORDERS.items():
        parser = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.add_argument("vm", nargs="?", metavar="VM", help="name, or its vm.toml")
        parser.set_defaults(run=run_order)
    parser = verbs.add_parser(
        "restart",
        help="restart a device process",
        description="End a device process and start it again; the guest sees a pause. Returns when it is attached.",
    )
    parser.add_argument("names", nargs="+", metavar="[VM] DEV", help="the device, after the VM if several run")
    parser.set_defaults(run=run_restart)


def run_order(options: argparse.Namespace) -> int:
    """Give one order to the machine."""
    member, _ = _ORDERS[options.verb]
    vm = vms.find(options.vm)
    client.ask(vm.runtime, lambda connected: connected.machine(member))
    return 0


def run_restart(options: argparse.Namespace) -> int:
    """Have devices restarted by the supervisor."""
    vm, devices = vms.split(options.names)
    if not devices:
        raise NotFound(f"restart which device of {vm.name!r}?", hint=f"`orchestrator ps {vm.name}` lists them")
    assert vm.record is not None
    known = {process.id: process for process in vm.record.plan.restartable}
    for name in devices:
        vms.device_of(vm, name)
        if name not in known:
            raise BusvmError(f"{name} is part of the machine and cannot be restarted alone", hint="`orchestrator down`")
        if vm.record.entries[name].state == UNPLUGGED:
            raise BusvmError(f"{name} is not plugged in", hint=f"`orchestrator attach {vm.name} {name}`")
        if known[name].start == "attach":
            raise BusvmError(f"{name} was started by hand", hint="end it, and start it again the same way")
    if not vm.supervisor:
        raise BusvmError(f"nobody supervises {vm.name!r}", hint="`orchestrator up` of its file takes it over")
    before = {name: vm.record.entries[name].restarts for name in devices}
    for name in devices:
        requests.leave(vm.runtime, name)
    os.kill(vm.supervisor, CALL)
    deadline = time.monotonic() + _RESTART_S
    while not all(_is_back(vm.name, name, before[name]) for name in devices):
        if time.monotonic() > deadline:
            sys.stderr.write(f"error: it is not attached after {_RESTART_S:.0f} s (`orchestrator logs {vm.name}`)\n")
            return 1
        time.sleep(_POLL_S)
    return 0


def _is_back(vm_name: str, name: str, restarts: int) -> bool:
    vm = vms.look(vm_name)
    entry = vm.record.entries.get(name) if vm.record else None
    if entry is None:
        raise NotFound(f"VM {vm_name!r} has ended")
    if entry.state == FAILED and entry.restarts > restarts:
        raise BusvmError(entry.note)
    if entry.restarts <= restarts or not entry.is_alive():
        return False
    assert vm.record is not None
    if vm.record.plan.process(name).serves is not None:
        return True  # a back-end attaches to nothing
    functions = client.ask(vm.runtime, lambda connected: connected.functions())
    shown = functions.get(name, {})
    return shown.get("State") == "attached" and shown.get("Pid") == entry.pid
