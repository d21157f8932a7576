"""Frames from the guest: where they are in its memory, and whether their header makes sense (virtio 1.2 §5.1.6.2).

A header is copied before it is looked at; what it says is believed only as far as it fits the frame, because a network
acts on it: a kernel, another guest, a peer.
"""

from __future__ import annotations

from devproc.network.backend import PLAIN, Pieces
from devproc.network.features import NetFeature
from devproc.network.frame import ETHERNET, FRAME_MAX, HEADER, Flags, Gso
from devproc.virtqueue import Chain

_GSO = {
    Gso.TCPV4: NetFeature.HOST_TSO4,
    Gso.TCPV6: NetFeature.HOST_TSO6,
    Gso.UDP: NetFeature.HOST_UFO,
    Gso.UDP_L4: NetFeature.HOST_USO,
}


def frame_of(chain: Chain, ram: memoryview) -> tuple[bytes, Pieces] | None:
    """Return header and frame of a chain, or ``None`` if it has no frame in it."""
    size = chain.readable_size - HEADER
    if not ETHERNET <= size <= FRAME_MAX or chain.writable:
        return None
    offset, length = chain.readable[0]
    if length > HEADER:  # as Linux does it, with room before the data
        pieces = [ram[offset + HEADER : offset + length]]
        pieces += [ram[at : at + part] for at, part in chain.readable[1:]]
        return bytes(ram[offset : offset + HEADER]), pieces
    if length == HEADER:
        return bytes(ram[offset : offset + HEADER]), [ram[at : at + part] for at, part in chain.readable[1:]]
    header, pieces = b"", []
    for at, part in chain.readable:
        needed = min(HEADER - len(header), part)
        header += bytes(ram[at : at + needed])
        if part > needed:
            pieces.append(ram[at + needed : at + part])
    return header, pieces


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
