"""Which port a frame goes to: a switch that learns (IEEE 802.1D §7.8), with no queue of its own.

A frame for one port that is behind waits at the port where it came in, so that its sender slows down; nobody waits for
a port that has stalled, or for one of many that get the same frame. Nothing is copied: a port sends from where the
frame is, until ``flush``.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from devproc.network.backend import Buffer
from devproc.network.frame import MAC_BYTES

MACS_MAX = 4096  # the one not heard of for longest gives way: a guest may invent addresses
_AGE_S = 300.0  # IEEE 802.1D §7.9.2


class Port(Protocol):
    """Where frames leave."""

    name: str

    def send(self, header: Buffer, frame: Buffer) -> bool:
        """Send a frame; ``False``: not now."""

    def flush(self) -> None:
        """Send what ``send`` has kept."""

    def resume(self) -> None:
        """Take up a frame again that had to wait."""


class Switch:
    """The ports and where each address was heard."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.ports: dict[str, Port] = {}
        self.counters = {"frames": 0, "bytes": 0, "flooded": 0, "waited": 0, "lost_for_many": 0}
        self._clock = clock
        self._heard: OrderedDict[bytes, tuple[Port, float]] = OrderedDict()
        self._touched: set[Port] = set()

    def add(self, port: Port) -> None:
        """Join a port."""
        self.ports[port.name] = port

    def remove(self, port: Port) -> None:
        """Take a port away, and forget what was heard there; who waits for it need not any more."""
        self.ports.pop(port.name, None)
        self._touched.discard(port)
        for mac in [mac for mac, (where, _) in self._heard.items() if where is port]:
            del self._heard[mac]
        self.resume()

    def macs(self) -> dict[str, tuple[str, float]]:
        """Return port and age in seconds of each address."""
        now = self._clock()
        return {mac.hex(":"): (port.name, now - when) for mac, (port, when) in self._heard.items()}

    def forward(self, source: Port, header: Buffer, frame: Buffer) -> bool:
        """Pass a frame on; ``False``: the port that it is for takes it later."""
        now = self._clock()
        to, sender = bytes(frame[:MAC_BYTES]), bytes(frame[MAC_BYTES : 2 * MAC_BYTES])
        found = None if to[0] & 1 else self._heard.get(to)
        if found is not None and now - found[1] > _AGE_S:
            del self._heard[to]
            found = None
        if found is not None:
            port = found[0]
            if port is not source and not self._send(port, header, frame):
                self.counters["waited"] += 1
                return False
        else:
            self.counters["flooded"] += 1
            for port in list(self.ports.values()):
                if port is not source and not self._send(port, header, frame):
                    self.counters["lost_for_many"] += 1
        if not sender[0] & 1:
            self._learn(sender, source, now)
        self.counters["frames"] += 1
        self.counters["bytes"] += len(frame)
        return True

    def _learn(self, mac: bytes, port: Port, now: float) -> None:
        self._heard[mac] = port, now
        self._heard.move_to_end(mac)
        if len(self._heard) > MACS_MAX:
            self._heard.popitem(last=False)

    def _send(self, port: Port, header: Buffer, frame: Buffer) -> bool:
        self._touched.add(port)
        return port.send(header, frame)

    def flush(self) -> None:
        """Send what has gathered: the memory that frames are in is reused next."""
        while self._touched:
            self._touched.pop().flush()

    def resume(self) -> None:
        """A port takes frames again: let those go on that wait."""
        for port in list(self.ports.values()):
            port.resume()
