"""``ps``: the VMs of this user, or the processes of one."""

from __future__ import annotations

import argparse
from typing import Any

from orchestrator import client, output, record, vms
from orchestrator.vms import Vm
from protocol.errors import BusvmError, ConfigError, NotFound

DEAD = "dead"  # killed, with something left that `down` or `up` clears away
_STOPPED = "stopped"  # by a debugger or a signal


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser("ps", help="list VMs, or the processes of one", description="List VMs or processes.")
    parser.add_argument("vm", nargs="?", metavar="VM", help="show the processes of this VM")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("--pid", metavar="ID", help="with VM: the pid of its process ID alone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.pid is not None:
        output.line(str(_pid(options.vm, options.pid)))
        return 0
    if options.vm is not None:
        vm = vms.find(options.vm)
        shown = describe(vm)
        if options.json:
            output.as_json(shown)
        elif options.quiet:
            for process in shown["processes"]:
                output.line(process["id"])
        else:
            _print_vm(shown)
        return 0
    if options.quiet:
        for one in vms.running():
            output.line(one.name)
        return 0
    described = [describe(one) for one in vms.all_vms()]
    if options.json:
        output.as_json(described)
    else:
        rows = [
            [
                shown["name"],
                shown["state"],
                shown["supervisor"] or "none",
                len(shown["processes"]),
                shown["file"] or "-",
            ]
            for shown in described
        ]
        output.table(["NAME", "STATE", "SUPERVISOR", "PROCESSES", "FILE"], rows)
    return 0


def _pid(name: str | None, wanted: str) -> int:
    """Return the pid of a process that runs; nothing is asked of the VM, so it is as fast as a shell loop needs it."""
    if name is None:
        raise ConfigError("--pid is of one VM's process", hint="orchestrator ps VM --pid ID")
    found = vms.find(name).record
    entry = found.entries.get(wanted) if found else None
    if entry is None:
        known = ", ".join(found.entries) if found else "none"
        raise NotFound(f"no process {wanted!r} in {name!r}", hint=f"it has: {known}")
    if not entry.is_alive():
        raise NotFound(f"{wanted} does not run now")
    return entry.pid


def describe(vm: Vm) -> dict[str, Any]:
    """Return what there is to say about a VM and its processes."""

    async def look(connected: client.Client) -> tuple[str, dict[str, dict[str, Any]]]:
        return await connected.state(), await connected.functions()

    try:
        state, functions = client.ask(vm.runtime, look)
    except BusvmError:
        state, functions = "starting", {}
    if not vm.runs:
        state = DEAD
    processes = []
    if vm.record is not None:
        types = {process.id: process.type for process in vm.record.plan.processes}
        processes = [
            _process(entry, types.get(name, "?"), functions.get(name)) for name, entry in vm.record.entries.items()
        ]
        recorded = set(vm.record.entries)
        for name, function in functions.items():  # started by hand, without a place in vm.toml
            if name not in recorded:
                processes.append(_process(record.Entry(name, record.BY_HAND), "", function))
    return {
        "name": vm.name,
        "state": state,
        "bus": vm.runtime.bus_address,
        "supervisor": vm.supervisor,
        "file": vm.record.plan.file if vm.record else None,
        "processes": processes,
    }


def _process(entry: record.Entry, kind: str, function: dict[str, Any] | None) -> dict[str, Any]:
    alive = entry.is_alive()
    pid = entry.pid if alive else 0
    state = entry.state if alive or entry.state != record.RUNNING else record.ENDED
    epoch, slot = 0, ""
    if function is not None:
        epoch, slot = int(function["Epoch"]), str(function["Slot"])
        if function["State"] == "attached":
            pid = pid or int(function["Pid"])
        if alive or entry.state == record.BY_HAND:
            state = str(function["State"])
        kind = kind or str(function["Type"])
    rss, is_stopped = _usage(pid)
    return {
        "id": entry.id,
        "type": kind,
        "pid": pid,
        "state": _STOPPED if is_stopped else state,
        "slot": slot,
        "epoch": epoch,
        "restarts": entry.restarts,
        "rss": rss,
        "note": entry.note,
    }


def _usage(pid: int) -> tuple[int, bool]:
    """Return resident bytes and whether it is stopped."""
    if not pid:
        return 0, False
    import psutil

    try:
        process = psutil.Process(pid)
        stopped = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return process.memory_info().rss, stopped
    except psutil.Error:
        return 0, False


def _print_vm(shown: dict[str, Any]) -> None:
    output.line(f"{shown['name']}: {shown['state']}, bus {shown['bus']}")
    rows = [
        [
            *[p["id"], p["type"], p["slot"] or "-", p["pid"] or "-", p["state"], p["epoch"] or "-", p["restarts"]],
            output.size(p["rss"]),
        ]
        for p in shown["processes"]
    ]
    output.table(["ID", "TYPE", "SLOT", "PID", "STATE", "EPOCH", "RESTARTS", "RSS"], rows)
    for process in shown["processes"]:
        if process["note"]:
            output.line(process["note"])
