"""``python -m devproc.hub``: a switch between machines."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from devproc.events import EventLoop
from devproc.hub.hub import Config, Hub
from devproc.network.address import Address
from protocol import log, names
from protocol.errors import BusvmError, ConfigError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m devproc.hub", description="A switch between machines, ours and others'.")
    parser.add_argument("--cards", type=Path, metavar="SOCKET", help="where cards of our machines connect")
    parser.add_argument(
        "--listen", action="append", default=[], metavar="ADDRESS",
        help="unix:PATH or HOST:PORT where QEMU's -netdev stream and its like connect; any number of times",
    )  # fmt: skip
    parser.add_argument(
        "--connect", action="append", default=[], metavar="ADDRESS", help="such an address to connect to; likewise"
    )
    parser.add_argument("--bus", metavar="ADDRESS", help="show ports and addresses on this D-Bus")
    parser.add_argument("--id", metavar="ID", help="name of the hub there; needed with --bus")
    parser.add_argument("--log-level", choices=log.LEVELS, default="info", help="default: info")
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON objects")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a hub until SIGTERM; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    log.setup(level=options.log_level, as_json=options.log_json, vm="-", dev=options.id or "-", epoch=0)
    try:
        return _serve(options)
    except BusvmError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{parser.prog}: error: {error.message}{hint}\n")
        return error.exit_status


def _serve(options: argparse.Namespace) -> int:
    if not (options.cards or options.listen or options.connect):
        raise ConfigError("nobody can join", hint="--cards SOCKET, --listen ADDRESS, --connect ADDRESS")
    if options.bus and not (options.id and names.ID_PATTERN.match(options.id)):
        raise ConfigError(f"--id {options.id or ''!r} is no id", hint="letters, digits and _, from a letter on")
    config = Config(
        Address(options.cards) if options.cards else None,
        tuple(Address.parse(text) for text in options.listen),
        tuple(Address.parse(text) for text in options.connect),
    )
    hub = Hub(config)
    loop = EventLoop()
    signal.signal(signal.SIGTERM, lambda _number, _frame: loop.stop())
    loop.watch(hub.descriptors.fd, hub.turn)
    bus = None
    try:
        if options.bus:
            from devproc.hub.exported import HubOnBus

            bus = HubOnBus(loop, hub, options.bus, options.id)
            bus.start()
        while not loop.stopping:
            loop.turn(None)
    finally:
        if bus is not None:
            bus.close()
        hub.close()
        loop.close()
    if bus is not None and bus.finished.done():
        bus.finished.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
