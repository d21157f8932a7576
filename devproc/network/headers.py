"""Whether the header of a frame makes sense (virtio 1.2 §5.1.6.2).

It comes from a guest or from another process, and is believed only as far as it fits the frame, because somebody acts
on it: a kernel, another guest, a peer.
"""

from __future__ import annotations

import struct

from devproc.network.backend import PLAIN
from devproc.network.features import NetFeature
from devproc.network.frame import ETHERNET, Flags, Gso

_FIELDS = struct.Struct("<BBHHHH")
# plain numbers: an operation on a member of an enumeration costs half a microsecond, and this is done for each frame
_NEEDS_CSUM, _NONE, _ECN = int(Flags.NEEDS_CSUM), int(Gso.NONE), int(Gso.ECN)
_CSUM, _HOST_ECN = int(NetFeature.CSUM), int(NetFeature.HOST_ECN)
_TCP = (int(Gso.TCPV4), int(Gso.TCPV6))
_GSO = {
    int(Gso.TCPV4): int(NetFeature.HOST_TSO4),
    int(Gso.TCPV6): int(NetFeature.HOST_TSO6),
    int(Gso.UDP): int(NetFeature.HOST_UFO),
    int(Gso.UDP_L4): int(NetFeature.HOST_USO),
}
_RECEIVED = {
    NetFeature.GUEST_CSUM: NetFeature.CSUM,
    NetFeature.GUEST_TSO4: NetFeature.HOST_TSO4,
    NetFeature.GUEST_TSO6: NetFeature.HOST_TSO6,
    NetFeature.GUEST_ECN: NetFeature.HOST_ECN,
    NetFeature.GUEST_UFO: NetFeature.HOST_UFO,
}


def takes(features: int) -> int:
    """Return what a driver that has agreed to these takes in a received frame, by the names that sending has."""
    found = sum(sent for received, sent in _RECEIVED.items() if features & received)
    both = NetFeature.GUEST_USO4 | NetFeature.GUEST_USO6
    return int(found | (NetFeature.HOST_USO if features & both == both else 0))


def checked(header: bytes, size: int, features: int) -> bytes | None:
    """Return the header of a frame of ``size`` bytes as a network may have it; ``None`` if it lies."""
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = _FIELDS.unpack_from(header)
    if not flags & _NEEDS_CSUM:
        return PLAIN if gso_type == _NONE else None  # what is cut needs its checksums made
    if not features & _CSUM or csum_start < ETHERNET or csum_start + csum_offset + 2 > size:
        return None
    if gso_type == _NONE:
        return _FIELDS.pack(_NEEDS_CSUM, 0, 0, 0, csum_start, csum_offset) + bytes(2)
    kind = gso_type & ~_ECN
    if not features & _GSO.get(kind, 0) or not gso_size:
        return None
    if gso_type & _ECN and not (features & _HOST_ECN and kind in _TCP):
        return None
    if hdr_len > size:  # it is only a hint
        return None
    return _FIELDS.pack(_NEEDS_CSUM, gso_type, hdr_len, gso_size, csum_start, csum_offset) + bytes(2)
