"""The hub: who may connect to it, where it connects to, and the ports that come of it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from devproc.descriptors import Descriptors
from devproc.hub.port import StreamPort
from devproc.hub.switch import Switch
from devproc.network.address import Address
from devproc.network.sockets import Connector, Place

logger = logging.getLogger(__name__)

PORTS_MAX = 256


@dataclass(frozen=True)
class Config:
    """Addresses: ``cards`` for cards of ours, ``listen`` and ``connect`` for QEMU's streams and their like."""

    cards: Address | None = None
    listen: tuple[Address, ...] = ()
    connect: tuple[Address, ...] = ()


class Hub:
    """A switch and its ports; ``changed`` is called when one came or went."""

    def __init__(self, config: Config, changed: Callable[[], None] = lambda: None) -> None:
        """Listen.

        Raises:
            HostError: an address cannot be listened at.
        """
        self.switch = Switch()
        self.changed = changed
        self.descriptors = Descriptors()
        self._places: list[Place] = []
        self._connectors: list[Connector] = []
        self._number = 0
        try:
            for address, headers in [*((a, False) for a in config.listen), (config.cards, True)]:
                if address is not None:
                    self._listen(address, headers=headers)
            for address in config.connect:
                connector = Connector(address, self.descriptors, partial(self._connected, address))
                self._connectors.append(connector)
                connector.connect()
        except BaseException:
            self.close()
            raise

    @property
    def ports(self) -> Sequence[StreamPort]:
        """The ports."""
        return [port for port in self.switch.ports.values() if isinstance(port, StreamPort)]

    def turn(self) -> None:
        """Handle what there is; a port's frames are sent before the next one's handler runs."""
        self.descriptors.turn(self.switch.flush)

    def _listen(self, address: Address, *, headers: bool) -> None:
        place = Place.at(address)
        self._places.append(place)
        self.descriptors.watch(place.fileno(), partial(self._come, place, address, headers))

    def _come(self, place: Place, address: Address, headers: bool, _events: int) -> None:
        try:
            peer, _ = place.accept()
        except OSError:
            return
        if len(self.switch.ports) >= PORTS_MAX:
            logger.warning("%s: turned away, there are %d ports", address, PORTS_MAX)
            peer.close()
            return
        self._number += 1
        self._add(f"{'card' if headers else 'stream'}{self._number}", peer, self._left, headers=headers)

    def _connected(self, address: Address, peer: socket.socket) -> None:
        again = next(c for c in self._connectors if c.address is address)
        self._add(str(address), peer, lambda port, reason: self._left(port, reason, again), headers=False)

    def _add(self, name: str, peer: socket.socket, ended: Callable[[StreamPort, str], None], *, headers: bool) -> None:
        self.switch.add(StreamPort(name, peer, self.switch, self.descriptors, ended, headers=headers))
        logger.info("port %s joined", name)
        self.changed()

    def _left(self, port: StreamPort, reason: str, again: Connector | None = None) -> None:
        logger.info("port %s: the other end %s", port.name, reason)
        self.switch.remove(port)
        if again is not None:
            again.later()
        self.changed()

    def close(self) -> None:
        """Hang up on everybody."""
        for port in self.ports:
            port.close()
        for connector in self._connectors:
            connector.close()
        for place in self._places:
            place.close()
        self.descriptors.close()
