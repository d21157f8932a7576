"""``python -m devproc.vhost_user``: somebody else's device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devproc.device import Device
from devproc.host import Program, main
from devproc.sandbox.needs import Needs
from devproc.vhost_user.config import Config
from devproc.vhost_user.device import VhostUserDevice
from devproc.vhost_user.kinds import find
from devproc.vhost_user.peer import Peer
from devproc.virtio import TRANSPORTS
from devproc.virtqueue import QUEUE_MAX
from protocol.errors import ConfigError
from protocol.virtio_types import NUMBERS

_QUEUES_MAX = 64


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, metavar="PATH", help="where the back-end listens")
    parser.add_argument("--device", metavar="TYPE", help=f"{', '.join(NUMBERS)}, or the number of a virtio device type")
    parser.add_argument("--queues", type=int, default=1, metavar="N", help="request queues, or pairs (default: 1)")
    parser.add_argument("--queue-size", type=int, default=128, metavar="N", help="descriptors each (default: 128)")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="wait so long for the back-end at start"
    )
    parser.add_argument("--tag", default="", metavar="NAME", help="fs: what the guest mounts")
    parser.add_argument(
        "--mac", default="", metavar="ADDRESS", help="net: address of the card, if the back-end has none"
    )


def configure(options: argparse.Namespace) -> Config:
    """Return the configuration in the arguments.

    Raises:
        ConfigError: one is missing or out of range.
    """
    for name in ("socket", "device"):
        if getattr(options, name) is None:
            raise ConfigError(f"--{name} is missing", hint="--socket PATH --device TYPE")
    name, number, kind = find(options.device)
    if not 1 <= options.queues <= _QUEUES_MAX:
        raise ConfigError(f"--queues {options.queues}: 1 to {_QUEUES_MAX}")
    size = options.queue_size
    if size & (size - 1) or not 4 <= size <= QUEUE_MAX:
        raise ConfigError(f"--queue-size {size}: a power of two from 4 to {QUEUE_MAX}")
    config = Config(options.socket, name, number, kind, options.queues, size, options.wait, options.tag, options.mac)
    config.check()
    return config


def _open(options: argparse.Namespace) -> Device:
    config = configure(options)
    peer = Peer(config.socket, config.kind.config)
    met = None
    try:
        met = peer.first(config.wait_s)
        return VhostUserDevice.over(options.transport)(config, peer, met)
    except BaseException:
        if met is not None:
            met.front.close()
        peer.close()
        raise


PROGRAM = Program(
    type="vhost-user",
    description="A virtio device that a vhost-user back-end serves.",
    open=_open,
    needs=lambda _options: Needs(processes=True),  # whether a back-end that comes again is the same process
    add_arguments=_add_arguments,
    transports=tuple(TRANSPORTS),
    device=VhostUserDevice,
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
