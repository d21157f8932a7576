"""What networks on a stream to one peer have in common: the peer may not be there, and frames are lost then."""

from __future__ import annotations

import socket
from collections.abc import Callable

from devproc.descriptors import Descriptors
from devproc.network.backend import Base, Buffer, Pieces
from devproc.network.framing import Framing, Sink


class Plug(Base):
    """A network that is plugged into a connection, or not."""

    def __init__(self, **counters: int) -> None:
        self._framing: Framing | None = None
        self._wanted = True
        self._counters = {"frames_without_peer": 0} | counters

    def plug(
        self,
        peer: socket.socket,
        descriptors: Descriptors,
        sink: Sink,
        ended: Callable[[str], None],
        *,
        headers: bool = False,
    ) -> None:
        """Take a connection; ``ended`` has to ``unplug``."""
        self._framing = Framing(peer, descriptors, sink, ended, self._counters, headers=headers, listening=self._wanted)

    def unplug(self) -> None:
        """Leave the connection, if there is one."""
        if self._framing is not None:
            self._framing.close()
            self._framing = None

    @property
    def plugged(self) -> bool:
        """Whether somebody is there."""
        return self._framing is not None

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Send a frame; without a peer it is lost."""
        if self._framing is None:
            self._counters["frames_without_peer"] += 1
            return True
        return self._framing.send(header, frame)

    def flush(self) -> None:
        """Send the burst."""
        if self._framing is not None:
            self._framing.flush()

    def listen(self, *, wanted: bool) -> None:
        """Read from the peer, or leave it waiting."""
        self._wanted = wanted
        if self._framing is not None:
            self._framing.listen(wanted=wanted)

    def counters(self) -> dict[str, int]:
        """Return what was counted."""
        return dict(self._counters)
