"""``python -m devproc.virtio_blk``: a disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devproc.device import Device
from devproc.host import Commands, Program, main
from devproc.virtio import TRANSPORTS
from devproc.virtio_blk.config import Config, add_policies, policies
from devproc.virtio_blk.device import BlockDevice, open_device
from devproc.virtqueue import QUEUE_MAX
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop

_SERIAL_MAX = 20
_QUEUES_MAX = 64


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", "--blk-file", type=Path, metavar="PATH", help="raw image or block device")
    parser.add_argument("--readonly", "--read-only", action="store_true", help="refuse writes; the image may be shared")
    parser.add_argument(
        "--queues",
        type=int,
        metavar="N",
        help=f"request queues (default: 1; with --vhost-user {_QUEUES_MAX}, the front-end takes what it wants)",
    )
    parser.add_argument(
        "--queue-size",
        type=int,
        metavar="N",
        help="descriptors each (default: 256; with --vhost-user 128)",
    )
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="threads for host I/O (default: 4)")
    parser.add_argument("--serial", default="", metavar="TEXT", help="serial number, up to 20 bytes")
    add_policies(parser)


def configure(options: argparse.Namespace) -> Config:
    """Return the configuration in the arguments.

    Raises:
        ConfigError: a value is out of range.
    """
    if options.image is None:
        raise ConfigError("--image is missing", hint="--image PATH names a raw image or a block device")
    queues = Config.queues if options.queues is None else options.queues
    if not 1 <= queues <= _QUEUES_MAX:
        raise ConfigError(f"--queues {queues}: 1 to {_QUEUES_MAX}")
    size = Config.queue_size if options.queue_size is None else options.queue_size
    if size & (size - 1) or not 4 <= size <= QUEUE_MAX:
        raise ConfigError(f"--queue-size {size}: a power of two from 4 to {QUEUE_MAX}")
    if not 1 <= options.threads <= 64:
        raise ConfigError(f"--threads {options.threads}: 1 to 64")
    if len(options.serial.encode()) > _SERIAL_MAX:
        raise ConfigError(f"--serial has more than {_SERIAL_MAX} bytes")
    return Config(
        image=options.image,
        readonly=options.readonly,
        queues=queues,
        queue_size=size,
        threads=options.threads,
        serial=options.serial,
        **policies(options),
    )


def _open(options: argparse.Namespace) -> BlockDevice:
    if options.transport == "vhost-user":
        if options.queue_size is None:
            options.queue_size = 128  # what QEMU's device has
        if options.queues is None:
            options.queues = _QUEUES_MAX
    elif options.handover:
        raise ConfigError("--handover without --vhost-user", hint="only vhost-user front-ends migrate their guests")
    return open_device(configure(options), options.transport, lock=options.beside is None)


def _objects(loop: DeviceLoop) -> dict[str, object]:
    from devproc.virtio_blk.exported import BLOCK1, Block1

    return {BLOCK1: Block1(loop, loop.device)} if isinstance(loop.device, BlockDevice) else {}


def _poke(device: Device) -> Commands:
    from devproc.virtio_blk.prompt import commands

    return commands(device)


PROGRAM = Program(
    type="virtio-blk",
    description="A virtio disk over a raw image.",
    open=_open,
    add_arguments=_add_arguments,
    transports=tuple(TRANSPORTS),
    capabilities={"type": "block", "features": ["read-only", "blk-file"]},
    poke=_poke,
    objects=_objects,
    device=BlockDevice,
    vhost_user=True,
)


def run() -> int:
    """Run the process: the program ``busvm-virtio-blk``, as which management software finds it."""
    return main(PROGRAM)


if __name__ == "__main__":
    sys.exit(run())
