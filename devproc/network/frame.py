"""Frames and the header before each: sizes, and the names of virtio 1.2 §5.1.6."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from devproc.state import Record, Word

MAC_BYTES = 6
ETHERNET = 14  # bytes of an Ethernet header, the least a frame has
VLAN_TAG = 4
FRAME_MAX = 65535 + ETHERNET + VLAN_TAG  # the largest packet that IP has, in a tagged frame
MTU_LEAST, MTU_DEFAULT, MTU_MOST = 68, 1500, 65535
BROADCAST = b"\xff" * MAC_BYTES


class Flags(IntFlag):
    """``flags`` of a header."""

    NEEDS_CSUM = 1
    DATA_VALID = 2
    RSC_INFO = 4


class Gso(IntEnum):
    """``gso_type`` of a header: how a frame is to be cut, by ``gso_size`` bytes of payload."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5
    ECN = 0x80  # a bit beside TCPV4 and TCPV6


class Header(Record):
    """``struct virtio_net_hdr``, which precedes each frame."""

    flags = Word(1)
    gso_type = Word(1, names=Gso)
    hdr_len = Word(2)
    gso_size = Word(2)
    csum_start = Word(2)
    csum_offset = Word(2)
    num_buffers = Word(2)


HEADER = Header.LENGTH
NUM_BUFFERS = Header.words()["num_buffers"].offset
