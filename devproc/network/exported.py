"""A network card on the bus: org.busvm.Net1, beside what every device has."""

from __future__ import annotations

import asyncio
from typing import Protocol

from devproc.loop import DeviceLoop
from devproc.network.backend import Network
from protocol.errors import ConfigError

NET1 = "org.busvm.Net1"


class Linked(Protocol):
    """What every card can be asked for."""

    link: bool
    network: Network

    @property
    def mac(self) -> bytes:
        """Its address."""

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in or out."""

    def announce(self) -> bool:
        """Ask the guest to make itself known; ``False`` if it cannot be asked."""


class Net1:
    """org.busvm.Net1."""

    def __init__(self, loop: DeviceLoop, card: Linked) -> None:
        self._loop = loop
        self._card = card

    async def set_link(self, up: bool) -> None:
        """Plug the cable in or out."""
        await asyncio.wrap_future(self._loop.call(lambda: self._card.set_link(up=up)))

    async def announce(self) -> None:
        """Ask the guest to make itself known.

        Raises:
            ConfigError: its driver has not agreed to that.
        """
        if not await asyncio.wrap_future(self._loop.call(self._card.announce)):
            raise ConfigError("the guest's driver cannot be asked to announce itself")

    @property
    def link(self) -> bool:
        """Whether the cable is in."""
        return self._card.link

    @property
    def mac(self) -> str:
        """The card's address."""
        return self._card.mac.hex(":")

    @property
    def network(self) -> str:
        """Where the wire leads."""
        return self._card.network.describe()
