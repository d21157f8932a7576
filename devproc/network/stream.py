"""A stream socket as a wire: QEMU's ``-netdev stream`` and ``-netdev socket``, each frame behind its length.

Connecting or listening, over UNIX or TCP. Who connects tries again when the other end has gone; who listens takes the
next that comes. Without a peer frames are lost, as on a wire that is not plugged in.
"""

from __future__ import annotations

import logging
import socket

from devproc.descriptors import Descriptors
from devproc.network.address import Address
from devproc.network.backend import Card
from devproc.network.features import GUEST, HOST, NetFeature
from devproc.network.framing import Sink
from devproc.network.plug import Plug
from devproc.network.sockets import RECONNECT_S, Connector, Place, prepare
from devproc.network.whole import Whole

logger = logging.getLogger(__name__)

_NOT = NetFeature.HOST_UFO | NetFeature.GUEST_UFO  # nobody could cut them for a peer that does not take them


class Stream(Plug):
    """One end of a stream; with ``headers`` both ends are ours and frames keep the header of virtio-net."""

    def __init__(
        self, address: Address, *, server: bool = False, reconnect_s: float = RECONNECT_S, headers: bool = False
    ) -> None:
        """Listen, if that is wanted.

        Raises:
            HostError: the address cannot be listened at.
        """
        super().__init__(connections=0)
        self.address = address
        self.offloads = int((HOST | GUEST) & ~_NOT) if headers else 0
        self._headers = headers
        self._reconnect_s = reconnect_s
        self._place = Place.at(address) if server else None
        self._connector: Connector | None = None

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Wait for the peer, or look for it."""
        self._descriptors = descriptors
        self._whole = Whole(card, self._counters) if self._headers else None
        self._sink: Sink = self._whole or card
        if self._place:
            descriptors.watch(self._place.fileno(), self._accept)
        else:
            self._connector = Connector(self.address, descriptors, self._plug, self._reconnect_s)
            self._connector.connect()

    # the connection

    def _accept(self, _events: int) -> None:
        assert self._place is not None
        try:
            peer, _ = self._place.accept()
        except OSError:
            return
        if self.plugged:
            peer.close()  # a wire has two ends
            return
        self._plug(peer)

    def _plug(self, peer: socket.socket) -> None:
        prepare(peer)
        self._counters["connections"] += 1
        self.plug(peer, self._descriptors, self._sink, self._ended, headers=self._headers)

    def _ended(self, reason: str) -> None:
        logger.info("%s: the other end %s", self.address, reason)
        self.unplug()
        if self._whole:
            self._whole.forget()
        if self._connector:
            self._connector.later()

    def agree(self, features: int) -> None:
        """Do for the driver what it has not agreed to."""
        if self._whole:
            self._whole.agree(features)

    def describe(self) -> str:
        """Say where it leads."""
        return f"stream {'at' if self._place else 'to'} {self.address}{'' if self.plugged else ', nobody there'}"

    def close(self) -> None:
        """Close everything."""
        self.unplug()
        if self._connector:
            self._connector.close()
        if self._place:
            self._place.close()
