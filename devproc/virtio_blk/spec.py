"""Constants and structures of virtio-blk, by the names of virtio 1.2 §5.2."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from devproc.state import Record, Word

SECTOR = 512  # the unit of everything on the wire, whatever the block size
ID_BYTES = 20
SEGMENT = 16


class BlkFeature(IntEnum):
    """Feature bits (virtio 1.2 §5.2.3). SIZE_MAX is not offered, because a segment may have any size."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    SECURE_ERASE = 1 << 16  # not offered: neither files nor flash say that every copy is gone


class Type(IntEnum):
    """Request types (virtio 1.2 §5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class Outcome(IntEnum):
    """Values of the status byte (virtio 1.2 §5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


S_OK, S_IOERR, S_UNSUPP = Outcome.OK.value, Outcome.IOERR.value, Outcome.UNSUPP.value


class Header(Record):
    """``struct virtio_blk_req`` up to the data."""

    type = Word(4, names=Type)
    reserved = Word(4)
    sector = Word(8, "in units of 512 bytes")


class Trailer(Record):
    """What a request ends with."""

    status = Word(1, names=Outcome)


HEADER = Header.LENGTH

FLAG_UNMAP = 1


class Segment(NamedTuple):
    """``struct virtio_blk_discard_write_zeroes``."""

    sector: int
    sectors: int
    flags: int


def segments(data: bytes, most: int) -> list[Segment] | None:
    """Return the ranges of a discard or write-zeroes, or ``None``: none, a part of one, or more than ``most``."""
    if not data or len(data) % SEGMENT or len(data) > most * SEGMENT:
        return None
    return [
        Segment(
            int.from_bytes(data[at : at + 8], "little"),
            int.from_bytes(data[at + 8 : at + 12], "little"),
            int.from_bytes(data[at + 12 : at + 16], "little"),
        )
        for at in range(0, len(data), SEGMENT)
    ]
