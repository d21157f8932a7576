"""Root ports on the bus: Port1 (the XML file in ``protocol``)."""

from __future__ import annotations

import asyncio

from cpu_proc.machine import Machine
from cpu_proc.pcie.port import Port
from protocol import interfaces, names
from protocol.objects import Tree

PORT1 = "org.busvm.Port1"


class Port1:
    """org.busvm.Port1."""

    def __init__(self, port: Port) -> None:
        self.index = port.index
        self.slot = f"00:{port.slot:02x}.0"
        self._port = port

    @property
    def bus(self) -> int:
        """Number of the bus behind it."""
        return self._port.bus

    @property
    def device(self) -> str:
        """Id of the device in it."""
        return self._port.card.id if self._port.card else ""

    @property
    def power(self) -> bool:
        """Whether the guest has the slot powered."""
        return self._port.hot_plug.powered

    @property
    def link(self) -> bool:
        """Whether the link is up."""
        return self._port.hot_plug.link

    @property
    def power_indicator(self) -> str:
        """on | blinking | off | reserved."""
        return self._port.hot_plug.indicator

    @property
    def attention_indicator(self) -> str:
        """on | blinking | off | reserved."""
        return self._port.hot_plug.attention

    @property
    def driver(self) -> bool:
        """Whether the guest listens to the button."""
        return self._port.hot_plug.driven


def show_ports(machine: Machine, tree: Tree, loop: asyncio.AbstractEventLoop) -> None:
    """Show every port, and tell of its changes, which come from the harts' threads."""
    members = list(interfaces.load(PORT1).properties)

    def announce(port: Port) -> None:
        tree.changed(names.port_path(port.index), PORT1, *members)

    for port in machine.board.root.ports:
        tree.add(names.port_path(port.index), PORT1, Port1(port))

    def changed(port: Port) -> None:
        loop.call_soon_threadsafe(announce, port)

    machine.board.root.port_changed = changed
