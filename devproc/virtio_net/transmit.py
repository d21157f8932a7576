"""Frames from the guest: where they are in its memory (virtio 1.2 §5.1.6.2)."""

from __future__ import annotations

from devproc.network.backend import Pieces
from devproc.network.frame import ETHERNET, FRAME_MAX, HEADER
from devproc.virtqueue import Chain


def frame_of(chain: Chain, ram: memoryview) -> tuple[bytes, Pieces] | None:
    """Return a copy of the header, and the frame where it is; ``None`` if a chain has no frame in it."""
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
