"""Whether the header of a frame makes sense (virtio 1.2 §5.1.6.2).

It comes from a guest or from another process, and is believed only as far as it fits the frame, because somebody acts
on it: a kernel, another guest, a peer.
"""

from __future__ import annotations

from devproc.network.backend import PLAIN
from devproc.network.features import NetFeature
from devproc.network.frame import ETHERNET, Flags, Gso

_GSO = {
    Gso.TCPV4: NetFeature.HOST_TSO4,
    Gso.TCPV6: NetFeature.HOST_TSO6,
    Gso.UDP: NetFeature.HOST_UFO,
    Gso.UDP_L4: NetFeature.HOST_USO,
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
    flags, gso_type = header[0], header[1]
    gso_size, csum_start = int.from_bytes(header[4:6], "little"), int.from_bytes(header[6:8], "little")
    if not flags & Flags.NEEDS_CSUM:
        return PLAIN if gso_type == Gso.NONE else None  # what is cut needs its checksums made
    if not features & NetFeature.CSUM:
        return None
    if csum_start < ETHERNET or csum_start + int.from_bytes(header[8:10], "little") + 2 > size:
        return None
    if gso_type == Gso.NONE:
        return bytes([Flags.NEEDS_CSUM, 0, 0, 0, 0, 0]) + header[6:10] + bytes(2)
    kind = gso_type & ~Gso.ECN
    if kind not in _GSO or not features & _GSO[Gso(kind)] or not gso_size:
        return None
    if gso_type & Gso.ECN and not (features & NetFeature.HOST_ECN and kind in (Gso.TCPV4, Gso.TCPV6)):
        return None
    if int.from_bytes(header[2:4], "little") > size:
        return None  # hdr_len, which is only a hint
    return bytes([Flags.NEEDS_CSUM, gso_type]) + header[2:10] + bytes(2)
