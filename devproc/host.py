"""Runs any device as a process: arguments → frozen configuration → device → loop.

QEMU's back-end conventions hold (DESIGN §9): no daemonising, exit on SIGTERM with status 0, early failure with one
line and a non-zero status, ``--print-capabilities``. The main thread is the device loop, so that a debugger stops in
device code; D-Bus has a thread of its own.
"""

from __future__ import annotations

import argparse
import builtins
import gc
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devproc.command_line import Parser
from devproc.device import Device
from devproc.sandbox import enter
from devproc.sandbox.needs import Needs
from protocol import log, names
from protocol.errors import BusvmError, ConfigError, HostError

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop

logger = logging.getLogger(__name__)

Commands = dict[str, Callable[[list[str]], str]]


@dataclass(frozen=True)
class Program:
    """What a device's ``__main__`` says about it."""

    type: str
    description: str
    open: Callable[[argparse.Namespace], Device]
    """Turn the arguments into a device; raises ``ConfigError`` or ``HostError`` before anything is served."""
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _parser: None
    transports: tuple[str, ...] = ("pci",)
    """What it can be served over, the default first; more than one makes ``--transport`` an option."""
    capabilities: dict[str, Any] = field(default_factory=dict)
    """Beside ``type``, as in QEMU's vhost-user back ends: ``features``."""
    poke: Callable[[Device], Commands] | None = None
    """More commands for ``--poke``."""
    check: Callable[[argparse.Namespace], None] | None = None
    """Says whether it could start with these arguments, and starts nothing; raises as ``open`` does."""
    objects: Callable[[DeviceLoop], dict[str, object]] = lambda _loop: {}
    """What it has on the bus beside Device1, Registers1 and Queues1: implementations by interface."""
    device: builtins.type[Device] | None = None
    """Its class, for ``--describe``."""
    needs: Callable[[argparse.Namespace], Needs] = lambda _options: Needs()
    """What it still opens once it serves; in its sandbox it gets nothing else."""
    load: Callable[[argparse.Namespace], None] = lambda _options: None
    """Import what ``open`` will with these arguments, and nothing more: who stands by has it loaded."""
    vhost_user: bool = False
    """Whether it can serve vhost-user front-ends: a virtio device, which ``open`` makes over ``vhost-user`` then."""


def _parser(program: Program, prog: str | None) -> Parser:
    parser = Parser(
        prog=prog or f"python -m devproc.{program.type.replace('-', '_')}",
        description=program.description,
        epilog="Without --bus the device joins no machine: use --poke to try it by hand.",
    )
    parser.add_argument("--bus", metavar="ADDRESS", help="join the machine on this D-Bus (see `orchestrator env`)")
    parser.add_argument("--id", metavar="ID", help="name of the device in the machine; needed with --bus")
    parser.add_argument(
        "--transport",
        choices=program.transports,
        default=program.transports[0],
        help=f"what the device is connected to (default: {program.transports[0]})",
    )
    parser.add_argument(
        "--spare", type=int, metavar="FD", help="load all, and join only when a byte comes from this descriptor"
    )
    parser.add_argument(
        "--beside", type=int, metavar="FD", help="be there beside the process that serves, to take its place when asked"
    )
    parser.add_argument("--poke", action="store_true", help="prompt to read and write registers, with no machine")
    if program.vhost_user:
        front = parser.add_argument_group("vhost-user", "Serve QEMU or another front-end instead of a machine.")
        front.add_argument(
            "--vhost-user",
            "--socket-path",
            dest="vhost_user",
            type=Path,
            metavar="SOCKET",
            help="listen on this socket",
        )
        front.add_argument("--fd", type=int, metavar="N", help="inherited socket, listening or connected")
        front.add_argument("--once", action="store_true", help="end when the first front-end has gone")
        if "type" in program.capabilities:
            front.add_argument(
                "--print-descriptor",
                action="store_true",
                help="print what makes QEMU's management software find this program, as JSON, and exit",
            )
    parser.add_argument("--print-capabilities", action="store_true", help="print type and features as JSON, and exit")
    parser.add_argument(
        "--describe",
        nargs="?",
        const="markdown",
        choices=("markdown", "json"),
        help="print what the device declares: registers, headers of requests; and exit",
    )
    if program.check is not None:
        parser.add_argument("--check", action="store_true", help="say whether it could start here, and exit")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="RULE",
        help="have something go wrong: 'error type=OUT nth=3' (docs/faults.md); as often as there are rules",
    )
    enter.add_option(parser)
    parser.add_log_options()
    program.add_arguments(parser)
    return parser


def main(program: Program, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the device; return the exit status. ``prog`` is how help and errors call it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "--print-capabilities" in arguments:
        sys.stdout.write(json.dumps({"type": program.type} | program.capabilities) + "\n")
        return 0
    parser = _parser(program, prog)
    options = parser.parse_args(arguments)
    if options.describe:
        return _describe(program, options)
    if getattr(options, "print_descriptor", False):
        sys.stdout.write(json.dumps(descriptor(program), indent=2) + "\n")
        return 0
    context = log.setup(level=options.log_level, as_json=options.log_json, vm="-", dev=options.id or "-", epoch=0)
    try:
        if program.check is not None and options.check:
            program.check(options)
            return 0
        if program.vhost_user and (options.vhost_user is not None or options.fd is not None):
            return _serve_front_ends(program, options)
        if options.poke:
            from devproc.poke import poke

            return poke(_open(program, options), program.poke)
        return _serve(program, options, context)
    except BusvmError as error:
        return parser.failed(error)
    except PermissionError as error:
        if not options.sandbox:
            raise
        logger.exception("refused")
        return parser.failed(HostError(str(error.strerror), hint=enter.hint(error)))


def _open(program: Program, options: argparse.Namespace) -> Device:
    """Return the device, with the faults of the command line from its first access on."""
    device = program.open(options)
    if options.fault:
        from devproc.faults.faults import Faults  # which few processes ever need

        try:
            for text in options.fault:
                Faults.of(device).add(text, started=True)
        except BaseException:
            device.close()
            raise
    return device


def _describe(program: Program, options: argparse.Namespace) -> int:
    from devproc.describe import describe, markdown
    from devproc.virtio import VirtioDevice

    if program.device is None:
        raise ConfigError(f"{program.type} says nothing of its class")
    made = program.device.over(options.transport) if issubclass(program.device, VirtioDevice) else program.device
    shown = describe(made)
    sys.stdout.write(markdown(shown) if options.describe == "markdown" else json.dumps(shown, indent=2) + "\n")
    return 0


def descriptor(program: Program) -> dict[str, Any]:
    """Return the entry for ``…/qemu/vhost-user/50-….json`` (QEMU's ``docs/interop/vhost-user.json``)."""
    return {
        "description": f"busvm {program.type}",
        "type": program.capabilities["type"],
        "binary": str(Path(sys.executable).with_name(f"busvm-{program.type}")),
        "tags": [],
    }


def _serve(program: Program, options: argparse.Namespace, context: log.Context) -> int:
    if not options.bus:
        more = ", --vhost-user SOCKET serves QEMU" if program.vhost_user else ""
        raise ConfigError("nothing to do", hint=f"--bus ADDRESS joins a machine, --poke gives a prompt{more}")
    if not options.id or not names.ID_PATTERN.match(options.id):
        raise ConfigError(f"--id {options.id or ''!r} is no device id", hint="letters, digits and _, from a letter on")
    from devproc.exported import DeviceOnBus
    from devproc.loop import DeviceLoop
    from protocol.staying import await_bus

    ahead, calls = None, None
    if options.spare is not None:
        from devproc.spare import stand_by

        program.load(options)
        calls = enter.written(program.needs(options)) if options.sandbox else None
        gc.freeze()
        ahead = stand_by(options.spare, options.bus)
        if ahead is None:
            return 0
    else:
        await_bus(options.bus)
    device = _open(program, options)
    newcomer = None
    try:
        loop = DeviceLoop(device, context)
        if options.beside is not None:
            from devproc.newcomer import Newcomer

            newcomer = Newcomer(options.beside, loop)
        signal.signal(signal.SIGTERM, lambda _number, _frame: loop.stop())
        bus = DeviceOnBus(
            loop,
            address=options.bus,
            device_id=options.id,
            kind=program.type,
            description=program.description,
            objects=program.objects(loop),
            ahead=ahead,
            newcomer=newcomer,
        )
        if options.sandbox:
            enter.enter(program.needs(options), calls)
        gc.freeze()  # what is loaded now stays; collections need not walk it
        bus.start()
        loop.run()
        bus.close()
        loop.close()
        if bus.finished.done():
            bus.finished.result()
    finally:
        device.close()
    return 0


def _serve_front_ends(program: Program, options: argparse.Namespace) -> int:
    if options.bus or options.poke or (options.vhost_user is not None and options.fd is not None):
        raise ConfigError("--vhost-user, --fd, --bus and --poke exclude each other")
    from devproc.listening import Socket
    from devproc.vhost_server import Server

    options.transport = "vhost-user"
    device = _open(program, options)
    server: Server | None = None
    early = False

    def end(_number: int, _frame: object) -> None:
        nonlocal early
        early = True
        if server is not None:
            server.stop()

    signal.signal(signal.SIGTERM, end)  # before the socket: who sees it may send them
    signal.signal(signal.SIGHUP, lambda _number, _frame: server.refresh() if server else None)
    try:
        place = Socket.at(options.vhost_user) if options.fd is None else Socket.inherited(options.fd)
        server = Server(device, place, once=options.once)
        if early:
            server.stop()
        if options.sandbox:
            enter.enter(program.needs(options))
        gc.freeze()
        logger.info("waiting for a front-end at %s", options.vhost_user or f"descriptor {options.fd}")
        try:
            server.run()
        finally:
            server.close()
    finally:
        device.close()
    return 0
