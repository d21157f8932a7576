"""A network whose frames are written down: ``pcap = FILE``, for tshark and Wireshark, in nanoseconds of guest time.

The file is that of libpcap with nanoseconds (magic 0xa1b23c4d, link type Ethernet). Frames are written as the network
has them: what is still to be cut or summed appears whole, as in a capture on the guest itself.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from pathlib import Path

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN, Buffer, Card, Network, Pieces
from devproc.network.frame import FRAME_MAX, HEADER
from protocol.errors import HostError

logger = logging.getLogger(__name__)

_MAGIC = 0xA1B2_3C4D
_ETHERNET = 1
_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


class Capture:
    """Both sides of a wire at once: a ``Network`` for the card, and the card for the network behind."""

    def __init__(self, network: Network, path: Path) -> None:
        """Begin a file.

        Raises:
            HostError: it cannot be written.
        """
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise HostError(f"pcap {path}: {error.strerror}", hint="a file in a folder that you may write") from error
        self._path, self._network = path, network
        self._begun = False
        self._room: list[memoryview] = []
        self._pending = False
        self._missing = 0
        self.offloads, self.mtu = network.offloads, network.mtu

    def _begin(self) -> None:
        """Begin the file, or go on with that of the process before."""
        self._begun = True
        if self._file.tell() and self._card.goes_on():
            return
        self._file.truncate(0)
        self._file.write(_HEADER.pack(_MAGIC, 2, 4, 0, 0, FRAME_MAX, _ETHERNET))

    def _write(self, frame: Pieces) -> None:
        if self._missing:  # after a frame that is there in part no reader would find the next
            self._missing += 1
            return
        size = sum(map(len, frame))
        now = self._card.now_ns()
        try:
            if not self._begun:
                self._begin()
            self._file.write(_RECORD.pack(now // 10**9 & 0xFFFF_FFFF, now % 10**9, size, size))
            for piece in frame:
                self._file.write(piece)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more: the disk is full, and the guest's network goes on."""
        logger.warning("pcap %s: %s; it ends here", self._path, error.strerror)
        self._missing = 1

    def _show(self) -> None:
        """Have what was written seen by who reads along."""
        try:
            if not self._missing:
                self._file.flush()
        except OSError as error:
            self._give_up(error)

    # for the network: a card

    def deliver(self, frame: Buffer, header: Buffer = PLAIN, pair: int | None = None) -> bool:
        """Write down what the card takes."""
        taken = self._card.deliver(frame, header, pair)
        if taken:
            self._write([memoryview(frame)])
            self._show()
        return taken

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        """Remember where the frame will be."""
        found = self._card.room(pair, size)
        self._room = found or []
        return found

    def filled(self, pair: int, length: int) -> None:
        """Write down what is there."""
        pieces, skip, left = [], HEADER, length - HEADER
        for piece in self._room:
            part = piece[skip : skip + left]
            skip = max(0, skip - len(piece))
            if len(part):
                pieces.append(part)
                left -= len(part)
        self._write(pieces)
        self._show()
        self._room = []
        self._card.filled(pair, length)

    def writable(self) -> None:
        """Pass it on."""
        self._card.writable()

    def now_ns(self) -> int:
        """Pass it on."""
        return self._card.now_ns()

    def goes_on(self) -> bool:
        """Pass it on."""
        return self._card.goes_on()

    # for the card: a network

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Start the network behind."""
        self._card = card
        self._network.start(self, descriptors)

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Write down what the network takes."""
        taken = self._network.send(pair, header, frame)
        if taken:
            self._write(frame)
            self._pending = True
        return taken

    def flush(self) -> None:
        """Pass it on."""
        self._network.flush()
        if self._pending:
            self._pending = False
            self._show()

    def answer(self) -> None:
        """Pass it on."""
        self._network.answer()

    def listen(self, *, wanted: bool) -> None:
        """Pass it on."""
        self._network.listen(wanted=wanted)

    def agree(self, features: int) -> None:
        """Pass it on."""
        self._network.agree(features)

    def use(self, pairs: int) -> None:
        """Pass it on."""
        self._network.use(pairs)

    def counters(self) -> dict[str, int]:
        """Add frames that are not in the file."""
        return self._network.counters() | {"frames_not_captured": self._missing}

    def describe(self) -> str:
        """Say where it leads, and where it is written down."""
        return f"{self._network.describe()}, captured in {self._path}"

    def close(self) -> None:
        """Close both."""
        self._network.close()
        with contextlib.suppress(OSError):
            self._file.close()
