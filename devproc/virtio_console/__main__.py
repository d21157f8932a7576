"""``python -m devproc.virtio_console``: a terminal on a socket, and named ports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devproc.classes import virtio_commands
from devproc.host import Program, main
from devproc.virtio import TRANSPORTS
from devproc.virtio_console.device import Config, ConsoleDevice
from devproc.virtio_console.port import PortConfig
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop

_PORTS_MAX = 31  # as QEMU's; a queue each way, and an interrupt each


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, metavar="PATH", help="where a client of the terminal connects")
    parser.add_argument(
        "--port", action="append", default=[], metavar="NAME=PATH",
        help="a named port, /dev/virtio-ports/NAME in the guest, and where its client connects; any number of times",
    )  # fmt: skip
    parser.add_argument("--size", default="80x25", metavar="COLUMNSxROWS", help="of the terminal (default: 80x25)")


def configure(options: argparse.Namespace) -> Config:
    """Return the configuration in the arguments.

    Raises:
        ConfigError: a size or port is none, or two ports have one name or socket.
    """
    columns, _, rows = options.size.partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and 0 < int(columns) < 1 << 16 and 0 < int(rows) < 1 << 16):
        raise ConfigError(f"--size {options.size!r} is no size", hint="such as 80x25")
    ports = [PortConfig(0, options.socket)]
    for text in options.port:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or "/" in name:
            raise ConfigError(f"--port {text!r}: a name, '=' and a path", hint="such as org.example.agent=agent.sock")
        ports.append(PortConfig(len(ports), Path(path), name))
    if len(ports) > _PORTS_MAX:
        raise ConfigError(f"{len(ports)} ports, there can be {_PORTS_MAX}")
    for what, values in (("name", [p.name for p in ports]), ("socket", [str(p.path) for p in ports if p.path])):
        if len(set(values)) < len(values):
            raise ConfigError(f"two ports have one {what}: {', '.join(values)}")
    return Config(tuple(ports), int(columns), int(rows))


def _objects(loop: DeviceLoop) -> dict[str, object]:
    from devproc.virtio_console.exported import CONSOLE1, Console1

    return {CONSOLE1: Console1(loop, loop.device)} if isinstance(loop.device, ConsoleDevice) else {}


PROGRAM = Program(
    type="virtio-console",
    description="A terminal for the guest's kernel, and named ports to programs on the host.",
    open=lambda options: ConsoleDevice.over(options.transport)(configure(options)),
    add_arguments=_add_arguments,
    transports=tuple(TRANSPORTS),
    capabilities={"type": "console"},
    poke=virtio_commands,
    objects=_objects,
    device=ConsoleDevice,
    vhost_user=True,
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
