"""What is left to do to a frame, done here: checksums and segments, for a wire that carries whole frames only.

A frame's header (``frame.Header``) says where a checksum is missing and into how many bytes of payload it is to be cut
(virtio 1.2 §5.1.6.2). Pure functions on memory of this process. Header and frame come from a guest or from another
process: what cannot be done is ``None``, and nothing is read or made beyond the frame's own length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from devproc.network.backend import Buffer
from devproc.network.frame import ETHERNET, VLAN_TAG, Flags, Gso

_IPV4, _IPV6, _VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8)
_IPV4_LEAST, _IPV6_BYTES = 20, 40
_TCP, _UDP = 6, 17
_TCP_LEAST, _UDP_BYTES = 20, 8
TCP_CHECKSUM, UDP_CHECKSUM = 16, 6
"""Where in a TCP and in a UDP header the checksum is."""
_FIN_PSH, _CWR = 0x09, 0x80
GSO_LEAST = 8  # what Linux cuts at least, its TCP_MIN_GSO_SIZE: the pieces of a frame are at most some 8000
_HEADER = struct.Struct("<BBHHHH")


def total(data: Buffer, carried: int = 0) -> int:
    """Return the ones' complement sum of the 16-bit words of ``data`` (RFC 1071); an odd byte at its end is a high one.

    One division of one big number: 1500 bytes take 3 µs, word by word they would take 100.
    """
    number = (int.from_bytes(data, "big") << 8 * (len(data) & 1)) + carried
    return (number - 1) % 0xFFFF + 1 if number else 0


def complete(frame: bytearray | memoryview, start: int, offset: int, end: int | None = None) -> bool:
    """Finish the checksum of ``frame`` from ``start`` on, whose field, ``offset`` further, has the pseudo header's sum.

    Return whether the field is within the frame. A sum of 0 becomes 0xFFFF, which is the same to TCP and what UDP
    needs (RFC 768): to it 0 is no checksum.
    """
    field = start + offset
    if start < 0 or offset < 0 or field + 2 > len(frame):
        return False
    struct.pack_into(">H", frame, field, ~total(frame[start:end]) & 0xFFFF or 0xFFFF)
    return True


class Layers(NamedTuple):
    """Where the headers of a TCP or UDP packet in a frame begin, and where its payload does."""

    version: int
    network: int
    transport: int
    payload: int

    @classmethod
    def of(cls, frame: Buffer, transport: int, protocol: int) -> Layers | None:
        """Find the IP header before a transport header; ``None``: the frame is not what its header says."""
        network = ETHERNET
        while len(frame) >= network and int.from_bytes(frame[network - 2 : network], "big") in _VLANS:
            network += VLAN_TAG
        least = _TCP_LEAST if protocol == _TCP else _UDP_BYTES
        if transport + least > len(frame):
            return None
        kind = int.from_bytes(frame[network - 2 : network], "big")
        if kind == _IPV4 and network + _IPV4_LEAST <= transport:
            fits = frame[network] >> 4 == 4 and network + 4 * (frame[network] & 15) == transport
            version = 4 if fits and frame[network + 9] == protocol else 0
        else:  # extension headers may be between
            version = 6 if kind == _IPV6 and network + _IPV6_BYTES <= transport and frame[network] >> 4 == 6 else 0
        size = 4 * (frame[transport + 12] >> 4) if protocol == _TCP else least
        if not version or size < least or transport + size > len(frame):
            return None
        return cls(version, network, transport, transport + size)

    def pseudo(self, frame: Buffer, protocol: int, length: int) -> int:
        """Return the sum of the pseudo header (RFC 793 §3.1, RFC 8200 §8.1) of ``length`` bytes from the transport on.

        The destination of a packet with a routing header is taken from the IPv6 header all the same.
        """
        first, last = (12, 20) if self.version == 4 else (8, 40)
        return total(frame[self.network + first : self.network + last], protocol + length)

    def set_lengths(self, frame: bytearray, length: int) -> None:
        """Have the IP header say that the frame has ``length`` bytes, and sum up an IPv4 header."""
        at = self.network
        if self.version == 6:
            struct.pack_into(">H", frame, at + 4, length - at - _IPV6_BYTES)
            return
        struct.pack_into(">H", frame, at + 2, length - at)
        frame[at + 10 : at + 12] = bytes(2)
        options = at + 4 * (frame[at] & 15)
        struct.pack_into(">H", frame, at + 10, ~total(frame[at:options]) & 0xFFFF)


def prepare(head: bytearray, transport: int, protocol: int, length: int) -> Layers | None:
    """Make the headers of a frame of ``length`` bytes those of one large packet, as virtio wants them before a cut.

    Lengths, the checksum of an IPv4 header, and the pseudo header's sum where the checksum will be.
    """
    layers = Layers.of(head, transport, protocol)
    if layers is None or length - layers.network > 0xFFFF:
        return None
    layers.set_lengths(head, length)
    field = transport + (TCP_CHECKSUM if protocol == _TCP else UDP_CHECKSUM)
    if protocol == _UDP:
        struct.pack_into(">H", head, transport + 4, length - transport)
    struct.pack_into(">H", head, field, layers.pseudo(head, protocol, length - transport))
    return layers


def cut(frame: Buffer, transport: int, protocol: int, size: int) -> Iterator[bytearray] | None:
    """Cut a large TCP or UDP packet into whole frames of ``size`` bytes of payload; ``None``: it cannot be cut.

    Each is one to which nothing is left to do. FIN and PSH are the last one's, CWR the first one's (RFC 3168 §6.1.2),
    and IPv4 counts them in its identification.
    """
    layers = Layers.of(frame, transport, protocol)
    if size < GSO_LEAST or layers is None:
        return None
    return _pieces(memoryview(frame), layers, protocol, size)


def _pieces(frame: memoryview, layers: Layers, protocol: int, size: int) -> Iterator[bytearray]:
    network, transport = layers.network, layers.transport
    head, payload = bytearray(frame[: layers.payload]), frame[layers.payload :]
    identification = int.from_bytes(head[network + 4 : network + 6], "big")
    sequence = int.from_bytes(head[transport + 4 : transport + 8], "big")
    offset = TCP_CHECKSUM if protocol == _TCP else UDP_CHECKSUM
    for number, start in enumerate(range(0, max(1, len(payload)), size)):
        piece = head + payload[start : start + size]
        if layers.version == 4:
            struct.pack_into(">H", piece, network + 4, identification + number & 0xFFFF)
        layers.set_lengths(piece, len(piece))
        if protocol == _TCP:
            struct.pack_into(">I", piece, transport + 4, sequence + start & 0xFFFF_FFFF)
            lost = (0 if start + size >= len(payload) else _FIN_PSH) | (_CWR if number else 0)
            piece[transport + 13] &= ~lost
        else:
            struct.pack_into(">H", piece, transport + 4, len(piece) - transport)
        struct.pack_into(">H", piece, transport + offset, layers.pseudo(piece, protocol, len(piece) - transport))
        complete(piece, transport, offset)
        yield piece


_PROTOCOLS = {Gso.TCPV4: _TCP, Gso.TCPV6: _TCP, Gso.UDP_L4: _UDP}


def whole(header: Buffer, frame: Buffer) -> Iterator[Buffer] | None:
    """Return the frames that do without a header; ``None``: they cannot be made, and the frame is lost.

    ``UFO``, fragments of UDP, which nothing sends any more, cannot.
    """
    flags, gso, _, size, start, offset = _HEADER.unpack_from(header)
    gso &= ~Gso.ECN
    if gso != Gso.NONE:
        protocol = _PROTOCOLS.get(gso)
        return None if protocol is None or not flags & Flags.NEEDS_CSUM else cut(frame, start, protocol, size)
    if not flags & Flags.NEEDS_CSUM:
        return iter((frame,))
    copy = bytearray(frame)
    return iter((copy,)) if complete(copy, start, offset) else None
