"""One end of the hub: a connection to a card of ours, whose frames have headers, or to anybody's stream socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN, Buffer
from devproc.network.framing import Framing
from devproc.network.segments import whole
from devproc.network.sockets import prepare

if TYPE_CHECKING:
    from devproc.hub.switch import Switch


class StreamPort:
    """A port on a connected socket."""

    def __init__(
        self,
        name: str,
        peer: socket.socket,
        switch: Switch,
        descriptors: Descriptors,
        ended: Callable[[StreamPort, str], None],
        *,
        headers: bool,
    ) -> None:
        self.name = name
        self.headers = headers
        self.counters: dict[str, int] = {"frames_in": 0, "frames_out": 0, "frames_not_whole": 0}
        self._switch = switch
        prepare(peer)
        self._framing = Framing(
            peer, descriptors, self, lambda reason: ended(self, reason), self.counters, headers=headers
        )

    # from the peer

    def deliver(self, frame: Buffer, header: Buffer = PLAIN) -> bool:
        """Pass on a frame."""
        passed = self._switch.forward(self, header, frame)
        self.counters["frames_in"] += passed
        return passed

    def writable(self) -> None:
        """Let those go on who wait for this port."""
        self._switch.resume()

    # to the peer

    def send(self, header: Buffer, frame: Buffer) -> bool:
        """Send a frame, whole if the peer knows no headers; ``False``: it is behind."""
        if self.headers or bytes(header) == PLAIN:
            taken = self._framing.send(header, [memoryview(frame)])
        else:
            taken = self._send_whole(header, frame)
        self.counters["frames_out"] += taken
        return taken

    def _send_whole(self, header: Buffer, frame: Buffer) -> bool:
        pieces = whole(header, frame)
        if pieces is None:
            self.counters["frames_not_whole"] += 1
            return True
        for number, piece in enumerate(pieces):
            if not self._framing.send(PLAIN, [memoryview(piece)]):
                if not number:
                    return False
                self.counters["frames_not_whole"] += 1  # the rest is sent again by who has it: TCP
                return True
        return True

    def flush(self) -> None:
        """Send what has gathered."""
        self._framing.flush()

    def resume(self) -> None:
        """Take up the frame that had to wait."""
        self._framing.listen(wanted=True)

    def close(self) -> None:
        """Hang up."""
        self._framing.close()
