"""``inspect``: a VM or one of its devices from the inside, as the bus shows it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orchestrator import client, output, vms
from orchestrator.client import DEVICE1, HART1, QUEUES1, REGISTERS1, Client
from protocol import names
from protocol.bus import BusError
from protocol.errors import HostError, NotFound

_REGISTERS_A_LINE = 4


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "inspect",
        help="show registers, queues and memory map",
        description="Show the machine (harts, memory map, devices), or one device (registers, queues, counters).",
    )
    parser.add_argument("names", nargs="*", metavar="[VM] [DEV]", help="a VM, a device of it")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--dtb", metavar="FILE", type=Path, help="write the device tree that the guest was given")
    parser.add_argument("--perf-map", action="store_true", help="name translated code for perf, and print the file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    vm, devices = vms.split(options.names)
    if options.dtb is not None:
        blob = client.ask(vm.runtime, lambda connected: connected.machine("DeviceTree"))[0]
        try:
            options.dtb.write_bytes(blob)
        except OSError as error:
            raise HostError(f"cannot write {options.dtb}: {error.strerror}") from error
        return 0
    if options.perf_map:
        path, blocks = client.ask(vm.runtime, lambda connected: connected.machine("WritePerfMap"))
        output.line(f"{path}: {blocks} blocks")
        return 0
    if devices:
        shown = [client.ask(vm.runtime, _Device(name)) for name in devices]
        if options.json:
            output.as_json(shown[0] if len(shown) == 1 else shown)
        else:
            for device in shown:
                _print_device(device)
        return 0
    machine = client.ask(vm.runtime, describe_machine)
    if options.json:
        output.as_json(machine)
    else:
        _print_machine(machine)
    return 0


async def describe_machine(connected: Client) -> dict[str, Any]:
    """Return machine, memory map, harts with registers, and functions."""
    harts = []
    objects = await connected.objects()
    for path, shown in sorted(objects.items()):
        if HART1 in shown:
            answer = await connected.bus.call(names.MACHINE_NAME, path, HART1, "ReadRegisters", timeout_s=5.0)
            harts.append({**shown[HART1], "Registers": answer[0]})
    regions = (await connected.machine("MemoryMap"))[0]
    return {
        "machine": await connected.machine_properties(),
        "memory_map": [{"base": base, "size": size, "name": name} for base, size, name in regions],
        "harts": harts,
        "devices": list((await connected.functions()).values()),
    }


class _Device:
    """Asks one device process about itself."""

    def __init__(self, device_id: str) -> None:
        self._id = device_id

    async def __call__(self, connected: Client) -> dict[str, Any]:
        functions = await connected.functions()
        if self._id not in functions:
            raise NotFound(f"no device {self._id!r} in this VM", hint=f"it has: {', '.join(functions) or 'none'}")
        owner, path = names.device_name(self._id), names.device_path(self._id)
        try:
            device = await connected.properties(owner, path, DEVICE1)
        except NotFound:
            return {"function": functions[self._id], "device": None, "registers": [], "queues": []}
        rows = (await connected.bus.call(owner, path, REGISTERS1, "List", timeout_s=5.0))[0]
        values = (await connected.properties(owner, path, REGISTERS1)).get("Values", {})
        try:
            queues = (await connected.bus.call(owner, path, QUEUES1, "List", timeout_s=5.0))[0]
        except BusError:
            queues = []  # no virtio device
        registers = [
            {"name": n, "bar": bar, "offset": at, "size": size, "access": access, "value": values.get(n), "doc": doc}
            for n, bar, at, size, access, doc in rows
        ]
        return {"function": functions[self._id], "device": device, "registers": registers, "queues": queues}


def _print_machine(shown: dict[str, Any]) -> None:
    _print_properties("machine", shown["machine"])
    output.line("")
    rows = [[f"{r['base']:#014x}", f"{r['size']:#x}", r["name"]] for r in shown["memory_map"]]
    output.table(["BASE", "SIZE", "REGION"], rows)
    for hart in shown["harts"]:
        output.line("")
        registers, translator = hart.pop("Registers"), hart.pop("Translator")
        hart["Mips"] = f"{hart['Mips']:.1f}"
        _print_properties(f"hart {hart['Index']}", hart)
        if translator:
            output.line(f"  Translator: {_translator(translator, hart['Instructions'])}")
        cells = [f"{name:>10} {value:016x}" for name, value in registers.items()]
        for index in range(0, len(cells), _REGISTERS_A_LINE):
            output.line("".join(cells[index : index + _REGISTERS_A_LINE]))
    output.line("")
    rows = [[d["Id"], d["Type"], d["Slot"], d["State"], d["Pid"] or "-", d["Epoch"]] for d in shown["devices"]]
    output.table(["DEVICE", "TYPE", "SLOT", "STATE", "PID", "EPOCH"], rows)


def _translator(figures: dict[str, int], instructions: int) -> str:
    """Return in words what the translator has done."""
    return (
        f"{figures['blocks']:,} blocks, {figures['code_bytes'] / (1 << 20):.1f} MB of code, "
        f"{figures['chains']:,} jumps chained, {figures['entries']:,} entries, {figures['flushes']:,} flushes, "
        f"{100 * figures['interpreted'] / max(1, instructions):.2f} % of instructions interpreted"
    )


def _print_device(shown: dict[str, Any]) -> None:
    function = shown["function"]
    _print_properties(function["Id"], function)
    for bar, address, size in function["Bars"]:
        output.line(f"  bar{bar}: {size:#x} bytes at {f'{address:#x}' if address else 'nowhere: not decoded'}")
    if shown["device"] is None:
        output.line("  no process")
        return
    _print_properties("process", shown["device"])
    output.line("")
    rows = [
        [r["name"], _bar(r["bar"]), f"{r['offset']:#x}", r["size"], r["access"], _value(r["value"]), r["doc"]]
        for r in shown["registers"]
    ]
    output.table(["REGISTER", "IN", "OFFSET", "SIZE", "ACCESS", "VALUE", ""], rows)
    if shown["queues"]:
        output.line("")
        heads = list(shown["queues"][0])
        output.table([head.upper() for head in heads], [[q.get(h, "-") for h in heads] for q in shown["queues"]])


def _bar(index: int) -> str:
    return "config" if index == 7 else f"bar{index}"


def _value(value: int | None) -> str:
    return "-" if value is None else f"{value:#x}"


def _print_properties(title: str, values: dict[str, Any]) -> None:
    output.line(title)
    for name, value in values.items():
        if name == "Bars":
            continue
        text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
        output.line(f"  {name}: {text}")
