"""``python -m devproc.e1000e``: Intel's network card."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from devproc.e1000e.device import E1000e
from devproc.e1000e.wire import Config
from devproc.host import Program, main
from devproc.network import options as network

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop


def open_card(options: argparse.Namespace) -> E1000e:
    """Return the card on its network.

    Raises:
        ConfigError, HostError: see ``open_network``.
    """
    return E1000e(Config(network.mac_of(options)), network.open_network(options))


def _objects(loop: DeviceLoop) -> dict[str, object]:
    from devproc.network.exported import NET1, Net1

    return {NET1: Net1(loop, loop.device)} if isinstance(loop.device, E1000e) else {}


PROGRAM = Program(
    type="e1000e",
    description="Intel 82574L, a gigabit network card.",
    open=open_card,
    needs=network.needs,
    load=network.load,
    add_arguments=network.add_arguments,
    objects=_objects,
    device=E1000e,
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
