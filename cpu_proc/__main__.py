"""The CPU process: ``python -m cpu_proc --vm NAME --bus ADDRESS --memory 512M --kernel PATH …``.

Owns guest memory and the harts, waits on the bus for its devices, runs the guest, and ends with the guest's exit
status: 2 when the configuration is wrong, 4 when the host refuses a resource.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_proc.boot import config as boot_config
from cpu_proc.boot.config import BootConfig
from cpu_proc.place import PORTS, Place, port_slot
from protocol import names
from protocol.errors import SOFTWARE, BusvmError, ConfigError
from protocol.layout import ClockPage, IrqPage
from protocol.log import setup
from protocol.memory import created
from protocol.sizes import parse_size

logger = logging.getLogger("cpu_proc")

_MEMORY_UNIT = 2 << 20
_MEMORY_LEAST = 16 << 20
HARTS_MAX = 64


@dataclass(frozen=True)
class Config:
    """What the arguments say, checked."""

    vm: str
    bus: str
    memory: int
    prealloc: bool
    cpus: int
    interrupts: str
    clock: str
    engine: str
    state: Path | None
    boot: BootConfig
    ports: int
    devices: dict[str, Place]
    reserved: dict[str, Place]
    stop_at_start: bool
    perf_map: bool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpu_proc", description="The CPU process of a busvm machine.")
    parser.add_argument("--vm", metavar="NAME", help="name of the VM; also names its shared memory")
    parser.add_argument("--bus", metavar="ADDRESS", help="D-Bus address of the VM's private bus")
    parser.add_argument("--memory", default="256M", metavar="SIZE", help="guest RAM, such as 512M or 1G")
    parser.add_argument("--prealloc", action="store_true", help="have the host reserve all of it now, or fail")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help=f"number of harts, up to {HARTS_MAX}")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="Linux image, EFI stub, ELF, or one in gzip")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="initial RAM disk")
    parser.add_argument("--cmdline", default="", metavar="TEXT", help="kernel command line")
    parser.add_argument("--firmware", type=Path, metavar="FILE", help="M-mode firmware: OpenSBI, U-Boot")
    parser.add_argument("--dtb", type=Path, metavar="FILE", help="device tree instead of the machine's own")
    parser.add_argument("--flash0", type=Path, metavar="FILE", help="32 MiB behind the first bank of flash")
    parser.add_argument("--flash1", type=Path, metavar="FILE", help="32 MiB behind the second bank")
    parser.add_argument(
        "--load", action="append", default=[], metavar="KEY=VALUE,...", help="put a file or value into memory"
    )
    parser.add_argument(
        "--fw-cfg", action="append", default=[], metavar="name=NAME,...", help="file for fw_cfg: file=PATH or string="
    )
    parser.add_argument("--clock", default="real", choices=("real", "icount"), help="what guest time follows")
    parser.add_argument("--engine", default="auto", choices=("auto", "interp", "translate"), help="what executes")
    parser.add_argument("--perf-map", action="store_true", help="name translated blocks for perf at the end")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="go on from a state saved there")
    parser.add_argument("--interrupts", default="aia", choices=("aia", "plic"), help="interrupt controllers")
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="ID=SLOT",
        help="expect device ID in PCI slot SLOT (1-31, or 1.0-31.7), behind port pcie0 to pcie15, in mmio0 to mmio7 "
        "or in platform0 to platform31",
    )
    parser.add_argument("--ports", type=int, default=0, metavar="N", help=f"PCIe hot-plug ports, up to {PORTS}")
    parser.add_argument(
        "--reserve", action="append", default=[], metavar="ID=PORT", help="keep port PORT for device ID; do not wait"
    )
    parser.add_argument("--check", action="store_true", help="place the guest on paper, exit 0 if all fits, else 2")
    parser.add_argument("--stop-at-start", action="store_true", help="hold all harts before their first instruction")
    parser.add_argument("--warm", action="store_true", help="compile the engine for this host, then exit")
    parser.add_argument("--check-cache", action="store_true", help="exit 0 if the engine is compiled already, else 1")
    parser.add_argument("--check-translator", action="store_true", help="exit 0 if this host has one, else say why not")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")
    return parser


def _config(args: argparse.Namespace) -> Config:
    for option in ("vm", "bus"):
        if getattr(args, option) is None:
            raise ConfigError(f"--{option} is missing", hint="`orchestrator up` starts all processes of a VM")
    if not names.VM_PATTERN.match(args.vm):
        raise ConfigError(f"--vm {args.vm!r} is not a usable name", hint="letters, digits, '_', '.', '-'")
    memory = parse_size(args.memory)
    if memory < _MEMORY_LEAST or memory % _MEMORY_UNIT:
        raise ConfigError(f"--memory {args.memory}: at least 16M and a multiple of 2M")
    if not 0 <= args.ports <= PORTS:
        raise ConfigError(f"--ports {args.ports}: up to {PORTS}")
    places = _places([*args.device, *args.reserve], args.ports)
    later = [text.partition("=")[0] for text in args.reserve]
    for name in later:
        if places[name].bus != "pcie":
            raise ConfigError(f"--reserve {name}={places[name]}: only a port can be filled later")
    if not 1 <= args.cpus <= HARTS_MAX:
        raise ConfigError(f"--cpus {args.cpus}: from 1 to {HARTS_MAX}")
    if args.perf_map and args.engine == "interp":
        raise ConfigError("--perf-map names translated code", hint="--engine translate")
    if args.clock == "icount" and args.cpus != 1:
        raise ConfigError("--clock icount counts the instructions of one hart", hint="--cpus 1")
    return Config(
        args.vm,
        args.bus,
        memory,
        args.prealloc,
        args.cpus,
        args.interrupts,
        args.clock,
        _engine(args.engine),
        args.state,
        _boot(args),
        args.ports,
        {name: place for name, place in places.items() if name not in later},
        {name: places[name] for name in later},
        args.stop_at_start,
        args.perf_map,
    )


def _places(texts: list[str], ports: int) -> dict[str, Place]:
    """Return where each device belongs."""
    places: dict[str, Place] = {}
    port_slots = {Place("pci", port_slot(port)) for port in range(ports)}
    taken: set[Place] = set()
    for text in texts:
        device_id, _, slot = text.partition("=")
        place = Place.parse(slot)
        if not names.ID_PATTERN.match(device_id) or place is None:
            raise ConfigError(
                f"--device {text!r}: an id, '=', and a slot: 1 to 31, or with a function 1.0 to 31.7, pcie0 to pcie15, "
                "mmio0 to mmio7, platform0 to 31"
            )
        behind_none = place.bus == "pcie" and place.number >= ports
        if device_id in places or place in taken or place._replace(function=0) in port_slots or behind_none:
            raise ConfigError(f"--device {text!r}: id or slot is taken, or there is no such port")
        places[device_id] = place
        taken.add(place)
    for device_id, place in places.items():
        if place.function and place._replace(function=0) not in taken:
            raise ConfigError(f"--device {device_id}={place}: no guest finds it without a function 0 in its slot")
    return places


def _engine(choice: str) -> str:
    from cpu_proc.hart import INTERPRETER, TRANSLATOR
    from cpu_proc.translation_buffer import missing

    return TRANSLATOR if choice == "translate" or (choice == "auto" and missing() is None) else INTERPRETER


def _boot(args: argparse.Namespace) -> BootConfig:
    if not (args.kernel or args.firmware or args.load or args.flash0):
        raise ConfigError("--kernel is missing", hint="or --firmware, or --load")
    return BootConfig(
        kernel=args.kernel,
        initrd=args.initrd,
        cmdline=args.cmdline,
        firmware=args.firmware,
        dtb=args.dtb,
        flash=(args.flash0, args.flash1),
        loads=tuple(boot_config.load(number, text) for number, text in enumerate(args.load, 1)),
        files=tuple(boot_config.fw_cfg_file(text) for text in args.fw_cfg),
    )


def _check(config: Config) -> None:
    from cpu_proc.boot import loader
    from cpu_proc.boot.tree import describe
    from cpu_proc.platform.flash import FlashFile

    loader.plan(
        config.boot, config.memory, config.cpus, describe(config.boot, config.cpus, config.memory, config.interrupts)
    )
    for index, path in enumerate(config.boot.flash):
        if path:
            FlashFile(path, f"flash{index}").close()


async def _serve(config: Config, engine: Any, started_ns: int) -> int:
    from cpu_proc import saving
    from cpu_proc.attach import Attacher
    from cpu_proc.attention import Attention
    from cpu_proc.clock import REAL, GuestClock, InstructionClock
    from cpu_proc.console import Console
    from cpu_proc.doors import Door
    from cpu_proc.eject import Ejector
    from cpu_proc.exported import FUNCTION1, HART1, MACHINE1, TRACE1, Function1, Hart1, Machine1
    from cpu_proc.exported_ports import show_ports
    from cpu_proc.exported_wiring import WIRING1, Wiring1
    from cpu_proc.gdbstub.server import Server
    from cpu_proc.machine import OFF, WAITING, Events, Machine
    from cpu_proc.replace import Replacer
    from cpu_proc.snapshot import Snapshots
    from cpu_proc.tracing import FunctionTrace
    from protocol.access import Guard, Parts
    from protocol.bus import Bus
    from protocol.limits import raise_limit
    from protocol.objects import Tree
    from protocol.staying import stay

    raise_limit()
    loop = asyncio.get_running_loop()
    runtime = names.Runtime(config.vm)
    off = asyncio.Event()
    with ExitStack() as stack:
        sizes = {"ram": config.memory, "irq": IrqPage.SIZE, "clock": ClockPage.SIZE}
        shared = stack.enter_context(created(config.vm, sizes, lazily=() if config.prealloc else ("ram",)))
        irq = IrqPage(shared["irq"])
        irq.format()
        clock = (GuestClock if config.clock == REAL else InstructionClock)(ClockPage(shared["clock"]))
        console = Console(loop, runtime.logs / "console.log")
        bus = await Bus.connect(config.bus)
        parts = Parts(bus)
        stack.callback(parts.close)
        await parts.start()
        tree = Tree(bus, names.ROOT_PATH, Guard(parts.of_caller))

        def state_changed(state: str, reason: str) -> None:
            debugger.machine_state(state)
            loop.call_soon_threadsafe(announce, state, reason)

        def announce(state: str, reason: str) -> None:
            # a breakpoint with a condition stops and goes on thousands of times
            logger.log(logging.DEBUG if debugger.connected else logging.INFO, "state=%s reason=%r", state, reason)
            tree.changed(names.MACHINE_PATH, MACHINE1, "State", "StateReason")
            tree.signal(names.MACHINE_PATH, MACHINE1, "StateChanged", state, reason)
            if state == OFF:
                off.set()

        def guest_reset() -> None:
            loop.call_soon_threadsafe(tree.signal, names.MACHINE_PATH, MACHINE1, "GuestReset")

        def debug_hit(hart: Any) -> None:
            debugger.hit(hart)

        events = Events(
            console.output,
            state_changed,
            guest_reset,
            debug_hit,
        )
        fitting = config.interrupts, config.engine, config.ports
        machine = Machine(engine, shared["ram"], irq, clock, config.boot, events, config.cpus, *fitting)
        stack.callback(machine.close)
        await console.listen(runtime.console_socket, machine.console_input, Door("console", parts))
        debugger = Server(machine, lambda: tree.changed(names.MACHINE_PATH, MACHINE1, "Debugger", "DebuggerCounters"))
        machine.load_guest()  # a wrong kernel is said before anything waits for devices
        saved = saving.load(machine, config.state) if config.state else []
        if config.stop_at_start:
            machine.pause()
        await debugger.listen(runtime.gdb_socket, Door("gdb socket", parts))
        shown1 = Machine1(config.vm, machine, started_ns, debugger, lambda: snapshots, parts)
        tree.add(names.MACHINE_PATH, MACHINE1, shown1)
        for hart in machine.harts:
            tree.add(names.hart_path(hart.index), HART1, Hart1(machine, hart))
        shown: set[str] = set()

        def slot_changed(slot: Any) -> None:
            path = names.device_path(slot.id)
            if slot.id not in shown:
                shown.add(slot.id)
                tree.add(path, FUNCTION1, Function1(machine, slot, ejector, replacer))
                tree.add(path, TRACE1, FunctionTrace(machine, slot))
                tree.add(path, WIRING1, Wiring1(machine, slot))
            tree.changed(path, FUNCTION1, "Slot", "State", "Pid", "Epoch", "Type", "Failure")
            if machine.state == WAITING:
                machine.reason = "for " + ", ".join(s.id for s in attacher.missing()) if attacher.missing() else ""
                tree.changed(names.MACHINE_PATH, MACHINE1, "StateReason")

        def slot_removed(slot: Any) -> None:
            shown.discard(slot.id)
            tree.remove(names.device_path(slot.id))

        fixed = config.devices, slot_changed, config.reserved, slot_removed, parts
        attacher = Attacher(machine, bus, runtime, shared["clock"], *fixed, saved)
        ejector = Ejector(machine, attacher, bus)
        replacer = Replacer(machine, attacher, bus, parts)
        snapshots = Snapshots(machine, attacher, bus)
        show_ports(machine, tree, loop)
        for slot in attacher.slots.values():
            slot_changed(slot)
        await bus.request_name(names.MACHINE_NAME)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, machine.quit, 128 + number)
        loop.add_signal_handler(signal.SIGPWR, lambda: loop.create_task(shown1.power_fails()))
        await attacher.start()

        def left() -> None:
            parts.forget_names()
            attacher.left()

        async def back() -> None:
            await parts.look()
            await attacher.back()

        staying = loop.create_task(stay(bus, left=left, back=back))
        await _first(attacher.wait_complete(), off.wait(), asyncio.wait([staying]))
        attacher.check_restored()
        if not off.is_set() and not attacher.missing():
            attacher.sealed = True
            if not config.state:
                machine.board.root.reset()  # what is in a port has been there from the start: no event
                if machine.board.platform.devices:
                    machine.load_guest()  # again, with their nodes in the device tree
            machine.start()
            watching = loop.create_task(Attention(machine).watch())
            stack.callback(watching.cancel)
            await _first(off.wait(), asyncio.wait([staying]))
        machine.quit(machine.exit_status)
        await asyncio.to_thread(machine.join)
        if config.perf_map:
            _write_perf_map(machine)
        await debugger.close()
        staying.cancel()
        await attacher.close()
        await console.close()
        bus.close()
        with suppress(OSError):  # its folder goes with the VM
            runtime.status.write_text(f"{machine.exit_status}\n")
        return machine.exit_status


def _write_perf_map(machine: Any) -> None:
    from cpu_proc import perf_map

    try:
        path, count = perf_map.write(machine.harts)
    except BusvmError as error:  # at its end a guest's exit status matters more
        logger.warning("no perf map: %s", error.message)
    else:
        logger.info("%d translated blocks are named in %s", count, path)


async def _first(*waits: Any) -> None:
    """Return when the first of ``waits`` does."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def main(argv: list[str] | None = None) -> int:
    """Run the process; return its exit status."""
    started_ns = time.monotonic_ns()
    args = _parser().parse_args(argv)
    try:
        if args.check_translator:
            from cpu_proc.translation_buffer import missing

            lacking = missing()
            print(lacking or "", end="")
            return 1 if lacking else 0
        os.umask(0o077)
        if args.check_cache or args.warm:
            from cpu_proc.engine import compiled

            if args.warm:
                compiled.load(_progress)
            return 0 if compiled.is_cached() else 1
        config = _config(args)
        if args.check:
            _check(config)
            return 0
        setup(level=args.log_level, as_json=args.log_json, vm=config.vm)
        names.Runtime(config.vm).prepare()
        from cpu_proc.engine import compiled
        from protocol.staying import await_bus

        engine = compiled.load(_progress)
        await_bus(config.bus)
        return asyncio.run(_serve(config, engine, started_ns))
    except BusvmError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    except Exception:
        logger.exception("the CPU process failed")
        return SOFTWARE  # our own fault, said with a traceback in the log


def _progress(text: str) -> None:
    print(f"progress: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)  # everything is released; taking the compiler apart as well would cost half a second
