"""What transmit descriptors say of a frame, and the frame that the wire gets (82574 §7.2).

A legacy descriptor may have one checksum inserted, extended ones several, and large packets cut into segments as the
context says that was sent before. What the network cannot do is done here (``network.segments``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from devproc.e1000e.spec import SHORTEST, TX_CONTEXT_TCP, Tx
from devproc.network import segments
from devproc.network.backend import PLAIN, Buffer, Pieces
from devproc.network.features import NetFeature
from devproc.network.frame import ETHERNET, FRAME_MAX, MAC_BYTES, VLAN_TAG, Flags, Gso

_HEADER = struct.Struct("<BBHHHHH")
_TCP = 6
_TAG_AT = 2 * MAC_BYTES
_NEEDED = {Gso.NONE: NetFeature.CSUM, Gso.TCPV4: NetFeature.HOST_TSO4, Gso.TCPV6: NetFeature.HOST_TSO6}


class Context(NamedTuple):
    """A context descriptor (82574 §7.2.10): where headers are and how long segments are to be."""

    low: int
    high: int

    @property
    def ip(self) -> tuple[int, int, int]:
        """IPCSS, IPCSO and IPCSE."""
        return self.low & 0xFF, self.low >> 8 & 0xFF, self.low >> 16 & 0xFFFF

    @property
    def transport(self) -> tuple[int, int, int]:
        """TUCSS, TUCSO and TUCSE."""
        return self.low >> 32 & 0xFF, self.low >> 40 & 0xFF, self.low >> 48 & 0xFFFF

    @property
    def header_length(self) -> int:
        """HDRLEN."""
        return self.high >> 40 & 0xFF

    @property
    def mss(self) -> int:
        """Bytes of payload in a segment."""
        return self.high >> 48 & 0xFFFF


class Gathered(NamedTuple):
    """The descriptors of a frame."""

    pieces: list[tuple[int, int]]
    """Offset in guest memory and length of each."""
    length: int
    first: int
    """The second half of the first descriptor, which has the options of all."""
    last: int
    """The second half of the last one, which has the VLAN tag."""


class Outgoing(NamedTuple):
    """A frame, and what is left to do to it."""

    header: bytes
    pieces: Pieces

    def whole(self) -> Iterable[Buffer] | None:
        """Return frames to which nothing is left to do."""
        return segments.whole(self.header, b"".join(self.pieces))

    def fits(self, offloads: int) -> bool:
        """Return whether a network with these ``offloads`` takes it as it is."""
        if self.header is PLAIN:
            return True
        needed = _NEEDED[Gso(self.header[1])] | NetFeature.CSUM
        return offloads & needed == needed


def _front(pieces: list[memoryview], length: int) -> tuple[bytearray, list[memoryview]]:
    """Return a copy of the first ``length`` bytes, and the rest where it is."""
    front, number = bytearray(), 0
    for number, piece in enumerate(pieces):
        missing = length - len(front)
        front += piece[:missing]
        if len(piece) >= missing:
            return front, [piece[missing:], *pieces[number + 1 :]]
    return front, []


def build(memory: memoryview, frame: Gathered, context: Context, *, tag: int | None, pad: bool) -> Outgoing | None:
    """Return what goes to the wire; ``None``: descriptors and frame contradict each other, and it is lost.

    ``tag`` is the VLAN tag to be inserted, if any, with its EtherType above it.
    """
    if not ETHERNET <= frame.length <= FRAME_MAX - VLAN_TAG:
        return None
    pieces = [memory[offset : offset + length] for offset, length in frame.pieces]
    extended = frame.first & Tx.DEXT
    header: bytes | None = PLAIN
    front, rest = bytearray(), pieces
    if extended and frame.first & Tx.TSE:
        front, rest = _front(pieces, context.header_length)
        header = _large(front, frame.length, context)
    elif extended and frame.first & (Tx.IXSM | Tx.TXSM):
        front, rest, header = _checksums(pieces, frame, context)
    elif not extended and frame.first & Tx.IC:
        start, field = frame.first >> 40 & 0xFF, frame.first >> 16 & 0xFF
        header = _partial(start, field - start, frame.length)
    if header is None:
        return None
    if tag is not None:
        if not front:
            front, rest = _front(rest, _TAG_AT)
        front[_TAG_AT:_TAG_AT] = struct.pack(">I", tag)
        header = _moved(header, VLAN_TAG)
    missing = SHORTEST - frame.length if pad else 0
    padding = [memoryview(bytes(missing))] if missing > 0 else []
    return Outgoing(header, [memoryview(front), *rest, *padding] if front else [*rest, *padding])


def _partial(start: int, offset: int, length: int) -> bytes | None:
    """Return the header that asks for one checksum."""
    if offset < 0 or start + offset + 2 > length:
        return None
    return _HEADER.pack(Flags.NEEDS_CSUM, Gso.NONE, 0, 0, start, offset, 0)


def _moved(header: bytes, by: int) -> bytes:
    """Return a header for a frame whose headers have become longer."""
    if header is PLAIN:
        return header
    flags, gso, length, size, start, offset, buffers = _HEADER.unpack(header)
    return _HEADER.pack(flags, gso, length + by if length else 0, size, start + by, offset, buffers)


def _large(front: bytearray, length: int, context: Context) -> bytes | None:
    """Return the header of a packet that is to be cut, and make its own headers those of one large packet.

    A driver leaves lengths and the length in the pseudo header's sum to the card, which knows those of the segments
    (82574 §7.2.6); a virtio network wants them to be there.
    """
    start, _, _ = context.transport
    if not context.high & TX_CONTEXT_TCP or context.mss < segments.GSO_LEAST or len(front) < context.header_length:
        return None
    layers = segments.prepare(front, start, _TCP, length)
    if layers is None:
        return None
    if length - layers.payload <= context.mss:
        return _partial(start, segments.TCP_CHECKSUM, length)
    gso = Gso.TCPV4 if layers.version == 4 else Gso.TCPV6
    return _HEADER.pack(Flags.NEEDS_CSUM, gso, layers.payload, context.mss, start, segments.TCP_CHECKSUM, 0)


def _checksums(
    pieces: list[memoryview], frame: Gathered, context: Context
) -> tuple[bytearray, list[memoryview], bytes | None]:
    """Insert an IP header's checksum, and ask for one of the rest, or insert it too if it ends before the frame."""
    start, field, end = context.transport
    here = frame.first & Tx.TXSM and end
    front, rest = bytearray(), pieces
    if frame.first & Tx.IXSM or here:
        front, rest = _front(pieces, frame.length if here else min(frame.length, context.ip[2] + 1))
    if frame.first & Tx.IXSM:
        ip_start, ip_field, ip_end = context.ip
        if not segments.complete(front, ip_start, ip_field - ip_start, ip_end + 1):
            return front, rest, None
    if not frame.first & Tx.TXSM:
        return front, rest, PLAIN
    if here:
        return front, rest, PLAIN if segments.complete(front, start, field - start, end + 1) else None
    return front, rest, _partial(start, field - start, frame.length)
