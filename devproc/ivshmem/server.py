"""``python -m devproc.ivshmem.server``: a server of ivshmem, for QEMU's ``ivshmem-doorbell`` and peers of ours."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from devproc.events import EventLoop
from devproc.ivshmem.service import Config, Service
from protocol import log, names
from protocol.errors import BusvmError, ConfigError
from protocol.sizes import parse_size


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m devproc.ivshmem.server", description="Memory that machines share, and doorbells between them."
    )
    parser.add_argument("-S", "--socket", type=Path, required=True, metavar="PATH", help="where QEMU's peers connect")
    parser.add_argument("-l", "--size", default="4M", metavar="SIZE", help="bytes, a power of two; default: 4M")
    parser.add_argument("-n", "--vectors", type=int, default=1, metavar="N", help="doorbells of each peer; default: 1")
    parser.add_argument(
        "-M", "--memory", default="", metavar="NAME|PATH",
        help="keep the memory by a name in /dev/shm, or in a file; default: sealed memory, which ends with its peers",
    )  # fmt: skip
    parser.add_argument("-F", "--foreground", action="store_true", help="as it is anyway; for who knows QEMU's server")
    parser.add_argument("--bus", metavar="ADDRESS", help="show the peers on this D-Bus")
    parser.add_argument("--id", metavar="ID", help="name of the server there; needed with --bus")
    parser.add_argument("--log-level", choices=log.LEVELS, default="info", help="default: info")
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON objects")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit status."""
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
    if options.bus and not (options.id and names.ID_PATTERN.match(options.id)):
        raise ConfigError(f"--id {options.id or ''!r} is no id", hint="letters, digits and _, from a letter on")
    service = Service(Config(options.socket, parse_size(options.size), options.vectors, options.memory))
    loop = EventLoop()
    signal.signal(signal.SIGTERM, lambda _number, _frame: loop.stop())
    loop.watch(service.descriptors.fd, service.turn)
    bus = None
    try:
        if options.bus:
            from devproc.ivshmem.exported import IvshmemOnBus

            bus = IvshmemOnBus(loop, service, options.bus, options.id)
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


if __name__ == "__main__":
    sys.exit(main())
