"""Checksums and segments, against sums done word by word and packets put together again."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devproc.network import segments
from devproc.network.frame import Flags, Gso

PACK = struct.Struct("<BBHHHHH").pack
SOURCE, DESTINATION = bytes(range(10, 26)), bytes(range(40, 56))
TCP, UDP = 6, 17


def slow_sum(data: bytes) -> int:
    """Add up 16-bit words with end-around carry, as RFC 1071 writes it down."""
    found = 0
    for high, low in zip(data[::2], data[1::2] + b"\0", strict=False):
        found += high << 8 | low
        found = (found & 0xFFFF) + (found >> 16)
    return found


def headers(version: int, protocol: int, *, vlan: bool = False, options: bytes = b"", flags: int = 0x19) -> bytearray:
    """Return an Ethernet, an IP and a TCP or UDP header, without lengths and sums, as a card gets them."""
    frame = bytearray(b"\2bcdef\2hijkl" + (b"\x81\0\0\5" if vlan else b""))
    if version == 4:
        frame += b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 0, 0xFFFE, 0x4000, 64, protocol, 0)
        frame += SOURCE[:4] + DESTINATION[:4]
    else:
        frame += b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 0, protocol, 64) + SOURCE + DESTINATION
    if protocol == TCP:
        size = 20 + len(options)
        frame += struct.pack(">HHIIBBHHH", 80, 4000, 0xFFFF_FF00, 7, size // 4 << 4, flags, 512, 0, 0) + options
    else:
        frame += struct.pack(">HHHH", 53, 4000, 0, 0)
    return frame


def starts(version: int, *, vlan: bool = False) -> tuple[int, int]:
    """Return where IP and what it carries begin."""
    network = 18 if vlan else 14
    return network, network + (20 if version == 4 else 40)


def check(frame: bytes, version: int, protocol: int, *, vlan: bool = False) -> None:
    """Verify lengths and sums as a receiver does."""
    network, transport = starts(version, vlan=vlan)
    length = len(frame) - transport
    if version == 4:
        assert int.from_bytes(frame[network + 2 : network + 4], "big") == len(frame) - network
        assert slow_sum(frame[network:transport]) == 0xFFFF
        addresses = frame[network + 12 : network + 20]
    else:
        assert int.from_bytes(frame[network + 4 : network + 6], "big") == length
        addresses = frame[network + 8 : network + 40]
    if protocol == UDP:
        assert int.from_bytes(frame[transport + 4 : transport + 6], "big") == length
    assert slow_sum(addresses + struct.pack(">II", length, protocol) + frame[transport:]) == 0xFFFF


@given(st.binary(max_size=70), st.integers(0, 1 << 20))
def test_total_is_the_sum_of_words(data: bytes, carried: int) -> None:
    assert segments.total(data) == slow_sum(data)
    assert segments.total(data, carried) % 0xFFFF == (slow_sum(data) + carried) % 0xFFFF


def test_total_of_nothing_is_zero_and_of_a_multiple_is_all_ones() -> None:
    assert segments.total(bytes(8)) == 0
    assert segments.total(b"\xff\xff") == segments.total(b"\x80\0\x7f\xff") == 0xFFFF


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize(("version", "gso"), [(4, Gso.TCPV4), (6, Gso.TCPV6), (4, Gso.UDP_L4), (6, Gso.UDP_L4)])
@given(payload=st.binary(max_size=400), size=st.integers(segments.GSO_LEAST, 410), options=st.sampled_from((0, 12, 40)))
def test_pieces_are_whole_and_make_the_packet(
    version: int, gso: Gso, vlan: bool, payload: bytes, size: int, options: int
) -> None:
    protocol = UDP if gso == Gso.UDP_L4 else TCP
    head = headers(version, protocol, vlan=vlan, options=bytes(options), flags=0x99)  # CWR, ACK, PSH, FIN
    network, transport = starts(version, vlan=vlan)
    assert segments.prepare(head, transport, protocol, len(head) + len(payload)) is not None
    header = PACK(Flags.NEEDS_CSUM, gso | Gso.ECN, len(head), size, transport, 16 if protocol == TCP else 6, 0)

    found = segments.whole(header, bytes(head) + payload)

    assert found is not None
    pieces = [bytes(piece) for piece in found]
    assert b"".join(piece[len(head) :] for piece in pieces) == payload
    assert len(pieces) == max(1, -(-len(payload) // size))
    for number, piece in enumerate(pieces):
        check(piece, version, protocol, vlan=vlan)
        assert piece[:network] == head[:network]
        if version == 4:
            assert int.from_bytes(piece[network + 4 : network + 6], "big") == (0xFFFE + number) % 0x10000
        if protocol == TCP:
            sequence = (0xFFFF_FF00 + number * size) % (1 << 32)
            assert int.from_bytes(piece[transport + 4 : transport + 8], "big") == sequence
            last, first = number == len(pieces) - 1, number == 0
            assert piece[transport + 13] == 0x10 | (0x09 if last else 0) | (0x80 if first else 0)
            assert piece[transport + 20 : len(head)] == bytes(options)


@pytest.mark.parametrize("version", [4, 6])
@given(payload=st.binary(max_size=100))
def test_a_prepared_checksum_is_completed(version: int, payload: bytes) -> None:
    head = headers(version, UDP)
    transport = starts(version)[1]
    segments.prepare(head, transport, UDP, len(head) + len(payload))

    found = segments.whole(PACK(Flags.NEEDS_CSUM, 0, 0, 0, transport, 6, 0), bytes(head) + payload)

    assert found is not None
    check(bytes(next(found)), version, UDP)


def test_a_sum_of_zero_is_written_as_all_ones() -> None:
    frame = bytearray(b"\xff\xff\0\0")
    assert segments.complete(frame, 0, 2)
    assert frame == b"\xff\xff\xff\xff"


def test_complete_stops_where_it_is_told() -> None:
    frame = bytearray(b"\0\1\0\0\x55\x55")
    assert segments.complete(frame, 0, 2, 4)
    assert frame == b"\0\1\xff\xfe\x55\x55"


def test_a_whole_frame_stays_as_it_is() -> None:
    frame = b"anything at all"
    found = segments.whole(bytes(12), frame)
    assert found is not None
    assert list(found) == [frame]


@pytest.mark.parametrize(
    ("gso", "size", "start", "flags"),
    [
        (Gso.TCPV4, 0, 34, 1),
        (Gso.TCPV4, 7, 34, 1),
        (Gso.TCPV4, 100, 33, 1),
        (Gso.TCPV4, 100, 60000, 1),
        (Gso.TCPV4, 100, 0, 1),
        (Gso.TCPV4, 100, 34, 0),
        (Gso.UDP, 100, 34, 1),
        (0x7F, 100, 34, 1),
        (Gso.NONE, 0, 104, 1),
    ],
)
def test_what_cannot_be_done_is_none(gso: int, size: int, start: int, flags: int) -> None:
    header = PACK(flags, gso, 0, size, start, 16, 0)
    assert segments.whole(header, bytes(headers(4, TCP) + bytes(50))) is None


@pytest.mark.parametrize(
    ("at", "value"), [(12, 0x09), (14, 0x46), (14, 0x65), (23, UDP), (46, 0x40), (46, 0xF0)], ids=str
)
def test_headers_that_are_none_are_not_cut(at: int, value: int) -> None:
    frame = headers(4, TCP) + bytes(10)
    frame[at] = value
    assert segments.cut(frame, 34, TCP, 100) is None


def test_prepare_refuses_what_no_packet_can_hold() -> None:
    assert segments.prepare(headers(4, TCP), 34, TCP, 0x10000 + 14) is None


@given(st.binary(min_size=12, max_size=12), st.binary(max_size=120))
def test_nothing_raises(header: bytes, frame: bytes) -> None:
    for piece in segments.whole(header, frame) or ():
        assert len(piece) <= len(frame)


@given(st.integers(0, 70), st.sampled_from((4, 6)), st.data())
def test_garbled_packets_raise_nothing(start: int, version: int, data: st.DataObject) -> None:
    frame = headers(version, TCP) + bytes(40)
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=4)):
        frame[at] = data.draw(st.integers(0, 255))
    for gso in Gso:
        for piece in segments.whole(PACK(1, gso, 0, 9, start, 16, 0), frame) or ():
            assert len(piece) <= len(frame)
    segments.prepare(frame, start, TCP, len(frame))
