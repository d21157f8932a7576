"""``python -m devproc.hub``: a switch between machines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devproc import serving
from devproc.events import EventLoop
from devproc.hub.hub import Config, Hub
from devproc.network.address import Address
from devproc.sandbox.needs import Needs
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from devproc.bus_thread import BusThread  # which brings the D-Bus library


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cards", type=Path, metavar="SOCKET", help="where cards of our machines connect")
    parser.add_argument(
        "--listen", action="append", default=[], metavar="ADDRESS",
        help="unix:PATH or HOST:PORT where QEMU's -netdev stream and its like connect; any number of times",
    )  # fmt: skip
    parser.add_argument(
        "--connect", action="append", default=[], metavar="ADDRESS", help="such an address to connect to; likewise"
    )


def _open(options: argparse.Namespace) -> Hub:
    if not (options.cards or options.listen or options.connect):
        raise ConfigError("nobody can join", hint="--cards SOCKET, --listen ADDRESS, --connect ADDRESS")
    config = Config(
        Address(options.cards) if options.cards else None,
        tuple(Address.parse(text) for text in options.listen),
        tuple(Address.parse(text) for text in options.connect),
    )
    return Hub(config)


def _needs(options: argparse.Namespace) -> Needs:
    ports = [address.port for address in map(Address.parse, options.connect) if not address.path]
    return Needs(internet=bool(ports), tcp_connect=tuple(ports))


def _on_bus(loop: EventLoop, hub: Hub, address: str, hub_id: str) -> BusThread:
    from devproc.hub.exported import HubOnBus

    return HubOnBus(loop, hub, address, hub_id)


PROGRAM = serving.ServiceProgram(
    prog="python -m devproc.hub",
    description="A switch between machines, ours and others'.",
    noun="hub",
    shows="ports and addresses",
    add_arguments=_add_arguments,
    open=_open,
    needs=_needs,
    on_bus=_on_bus,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a hub until SIGTERM; return the exit status."""
    return serving.main(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
