"""Runs a service as a process: what machines share and no guest sees, such as a hub; on a bus if it is told one.

Until SIGTERM, or until the bus is gone.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from devproc.command_line import Parser
from devproc.descriptors import Descriptors
from devproc.events import EventLoop
from devproc.sandbox import enter
from devproc.sandbox.needs import Needs
from protocol import log, names
from protocol.errors import BusvmError, ConfigError

if TYPE_CHECKING:
    from devproc.bus_thread import BusThread  # which brings the D-Bus library


class Service(Protocol):
    """What is run."""

    descriptors: Descriptors

    def turn(self) -> None:
        """Handle what there is."""

    def close(self) -> None:
        """Give everything back."""


S = TypeVar("S", bound=Service)


@dataclass(frozen=True)
class ServiceProgram(Generic[S]):
    """What a service's program says about it."""

    prog: str
    description: str
    noun: str
    """What it is called in help."""
    shows: str
    """What it shows on a bus."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace], S]
    """Turn the arguments into a service; raises ``BusvmError`` before anything is served."""
    on_bus: Callable[[EventLoop, S, str, str], BusThread]
    """Return what shows it on the bus at an address, by an id."""
    needs: Callable[[argparse.Namespace], Needs] = lambda _options: Needs()
    """What it still opens once it serves."""


def main(program: ServiceProgram[S], argv: Sequence[str] | None = None) -> int:
    """Run a service until its end; return the exit status."""
    parser = Parser(prog=program.prog, description=program.description)
    program.add_arguments(parser)
    parser.add_argument("--bus", metavar="ADDRESS", help=f"show {program.shows} on this D-Bus")
    parser.add_argument("--id", metavar="ID", help=f"name of the {program.noun} there; needed with --bus")
    enter.add_option(parser)
    parser.add_log_options()
    options = parser.parse_args(argv)
    log.setup(level=options.log_level, as_json=options.log_json, vm="-", dev=options.id or "-", epoch=0)
    try:
        return _serve(program, options)
    except BusvmError as error:
        return parser.failed(error)


def _serve(program: ServiceProgram[S], options: argparse.Namespace) -> int:
    if options.bus and not (options.id and names.ID_PATTERN.match(options.id)):
        raise ConfigError(f"--id {options.id or ''!r} is no id", hint="letters, digits and _, from a letter on")
    if options.bus:
        from protocol.staying import await_bus

        await_bus(options.bus)
    loop = EventLoop()
    signal.signal(signal.SIGTERM, lambda _number, _frame: loop.stop())  # before anybody sees that it serves
    try:
        service = program.open(options)
    except BaseException:
        loop.close()
        raise
    loop.watch(service.descriptors.fd, service.turn)
    bus = program.on_bus(loop, service, options.bus, options.id) if options.bus else None
    try:
        if options.sandbox:
            enter.enter(program.needs(options))
        if bus is not None:
            bus.start()
        while not loop.stopping:
            loop.turn(None)
    finally:
        if bus is not None:
            bus.close()
        service.close()
        loop.close()
    if bus is not None and bus.finished.done():
        bus.finished.result()
    return 0
