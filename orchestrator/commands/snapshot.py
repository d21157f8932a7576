"""``snapshot``: save a running machine, start one from what was saved, list and delete."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator import client, output, snapshots, vms
from orchestrator.snapshots import Manifest
from protocol.errors import BusvmError, NotFound
from protocol.names import Runtime

_SAVE_S = 900.0


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "snapshot",
        help="save a running machine, and go on from what was saved",
        description="Save memory, harts and devices of a running machine; start a machine from that. "
        "NAME is kept with the VM's logs; with a slash it is a folder anywhere.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    save = actions.add_parser("save", help="save a running VM, which goes on")
    save.add_argument("names", nargs="+", metavar="[VM] NAME", help="the VM, and what to call it")
    save.add_argument("--replace", action="store_true", help="in the place of one of that name")
    save.add_argument("--stop", action="store_true", help="end the VM when it is saved; the guest hears nothing of it")
    restore = actions.add_parser("restore", help="start a VM from a snapshot, as `up FILE --restore NAME`")
    restore.add_argument("names", nargs="+", metavar="[VM] NAME")
    restore.add_argument("-d", "--detach", action="store_true", help="leave it running in the background")
    listing = actions.add_parser("list", help="list the snapshots of a VM")
    listing.add_argument("names", nargs="*", metavar="VM")
    listing.add_argument("--json", action="store_true", help="print JSON")
    delete = actions.add_parser("delete", help="delete snapshots")
    delete.add_argument("names", nargs="+", metavar="[VM] NAME")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it."""
    actions = {"save": _save, "restore": _restore, "list": _list, "delete": _delete}
    return actions[options.action](options)


def _save(options: argparse.Namespace) -> int:
    vm, words = vms.split(options.names)
    name = _only(words)
    partial = snapshots.begin(vm.runtime, name, replace=options.replace)
    started = time.monotonic()
    try:
        facts = client.ask(vm.runtime, lambda connected: _saved(connected, partial))
        took = time.monotonic() - started
        assert vm.record is not None
        file = vm.record.plan.file
        made = snapshots.finish(
            partial,
            {
                "vm": vm.name,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "memory": facts["MemorySize"],
                "cpus": facts["Harts"],
                "devices": facts["devices"],
                "file": file,
                "text": Path(file).read_text() if file else "",
            },
        )
    except BaseException:
        snapshots.drop(partial)
        raise
    output.line(f"saved {vm.name!r} as {name!r}: {output.size(made.size)}, the guest stood still for {took:.1f} s")
    if options.stop:
        client.ask(vm.runtime, lambda connected: connected.machine("Quit", "i", 0))
    return 0


async def _saved(connected: client.Client, folder: Path) -> dict[str, Any]:
    await connected.machine("SaveState", "s", str(folder), timeout_s=_SAVE_S)
    return await connected.machine_properties() | {"devices": sorted(await connected.functions())}


def _restore(options: argparse.Namespace) -> int:
    runtime, name = _meant(options.names)
    manifest = Manifest.read(snapshots.find(runtime, name))
    if manifest.file is None or not Path(manifest.file).is_file():
        raise NotFound(
            f"the vm.toml of snapshot {name!r} is not at {manifest.file}",
            hint=f"`orchestrator up FILE --restore {name}`",
        )
    from orchestrator.commands import up

    words = [manifest.file, "--name", runtime.vm, "--restore", name, *(["-d"] if options.detach else [])]
    return up.run(up.parse(words))


def _list(options: argparse.Namespace) -> int:
    word = options.names[0] if options.names else vms.default_name()
    runtime = Runtime(vms.name_of(word))
    rows: list[dict[str, Any]] = []
    for name in snapshots.known(runtime):
        try:
            manifest = Manifest.read(snapshots.folder_of(runtime, name))
        except BusvmError as error:
            rows.append({"name": name, "error": error.message})
            continue
        rows.append(
            {
                "name": name,
                "made": manifest.made,
                "size": manifest.size,
                "memory": manifest.memory,
                "cpus": manifest.cpus,
                "devices": manifest.devices,
            }
        )
    if options.json:
        output.as_json(rows)
        return 0
    shown = [
        [row["name"], row.get("made", row.get("error", "")), *(output.size(row.get(k, 0)) for k in ("size", "memory")),
         " ".join(row.get("devices", []))]
        for row in rows
    ]  # fmt: skip
    output.table(("NAME", "MADE", "SIZE", "MEMORY", "DEVICES"), shown)
    return 0


def _delete(options: argparse.Namespace) -> int:
    runtime, *_ = _meant(options.names[:2])
    names = options.names[1:] if options.names[0] == runtime.vm and len(options.names) > 1 else options.names
    for folder in [snapshots.find(runtime, name) for name in names]:
        snapshots.delete(folder)
    return 0


def _only(words: list[str]) -> str:
    if len(words) != 1:
        raise NotFound("one name of a snapshot is needed", hint="`orchestrator snapshot list`")
    return words[0]


def _meant(words: list[str]) -> tuple[Runtime, str]:
    """Return the VM, which need not run, and the name; alone, a name is of the VM of vm.toml here, or its own."""
    if len(words) == 2:
        return Runtime(vms.name_of(words[0])), words[1]
    name = _only(words)
    if "/" in name:
        return Runtime(Manifest.read(Path(name).expanduser().absolute()).vm), name
    return Runtime(vms.default_name()), name
