"""``python -m devproc.virtio_net``: a network card."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from devproc.classes import virtio_commands
from devproc.host import Program, main
from devproc.network import options as network
from devproc.virtio import TRANSPORTS
from devproc.virtio_net.config import PAIRS_MAX, Config
from devproc.virtio_net.device import NetworkCard
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    network.add_arguments(parser)
    parser.add_argument(
        "--queues", type=int, default=1, metavar="N", help=f"pairs of queues, up to {PAIRS_MAX} (default: 1)"
    )
    parser.add_argument("--standby", action="store_true", help="stand by for a card of the same address (failover)")


def open_card(options: argparse.Namespace) -> NetworkCard:
    """Return the card on its network.

    Raises:
        ConfigError, HostError: see ``open_network``.
    """
    try:
        config = Config(network.mac_of(options), options.mtu, options.queues, standby=options.standby)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return NetworkCard.over(options.transport)(config, network.open_network(options, config.queues))


def _objects(loop: DeviceLoop) -> dict[str, object]:
    from devproc.network.exported import NET1, Net1

    return {NET1: Net1(loop, loop.device)} if isinstance(loop.device, NetworkCard) else {}


PROGRAM = Program(
    type="virtio-net",
    description="A network card.",
    open=open_card,
    needs=network.needs,
    load=network.load,
    add_arguments=_add_arguments,
    transports=tuple(TRANSPORTS),
    capabilities={"type": "net"},
    poke=virtio_commands,
    check=lambda options: network.check(options, options.queues),
    objects=_objects,
    device=NetworkCard,
    vhost_user=True,
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
