"""``python -m devproc.ivshmem.server``: a server of ivshmem, for QEMU's ``ivshmem-doorbell`` and peers of ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devproc import serving
from devproc.events import EventLoop
from devproc.ivshmem.config import Config
from devproc.ivshmem.service import STATE_SUFFIX, Service
from devproc.sandbox.needs import Needs
from protocol.sizes import parse_size

if TYPE_CHECKING:
    from devproc.bus_thread import BusThread  # which brings the D-Bus library


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-S", "--socket", type=Path, required=True, metavar="PATH", help="where QEMU's peers connect")
    parser.add_argument("-l", "--size", default="4M", metavar="SIZE", help="bytes, a power of two; default: 4M")
    parser.add_argument("-n", "--vectors", type=int, default=1, metavar="N", help="doorbells of each peer; default: 1")
    parser.add_argument(
        "-M", "--memory", default="", metavar="NAME|PATH",
        help="keep the memory by a name in /dev/shm, or in a file; default: sealed memory, which ends with its peers",
    )  # fmt: skip
    parser.add_argument(
        "--link", type=Path, metavar="PATH", help="be found there too, by a link to the sockets"
    )  # fmt: skip
    parser.add_argument("-F", "--foreground", action="store_true", help="as it is anyway; for who knows QEMU's server")


def _open(options: argparse.Namespace) -> Service:
    return Service(Config(options.socket, parse_size(options.size), options.vectors, options.memory, link=options.link))


def _needs(options: argparse.Namespace) -> Needs:
    """Return whether peers' processes live, and the list of their ids."""
    return Needs(write=(options.socket.with_name(options.socket.name + STATE_SUFFIX),), processes=True)


def _on_bus(loop: EventLoop, service: Service, address: str, server_id: str) -> BusThread:
    from devproc.ivshmem.exported import IvshmemOnBus

    return IvshmemOnBus(loop, service, address, server_id)


PROGRAM = serving.ServiceProgram(
    prog="python -m devproc.ivshmem.server",
    description="Memory that machines share, and doorbells between them.",
    noun="server",
    shows="the peers",
    add_arguments=_add_arguments,
    open=_open,
    needs=_needs,
    on_bus=_on_bus,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit status."""
    return serving.main(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
