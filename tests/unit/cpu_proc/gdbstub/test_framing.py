"""Packets on the wire: what is sent arrives, whatever else is sent ends nothing."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cpu_proc.gdbstub.framing import PACKET_MAX, Event, Framer, Packet, Sign, escaped, frame, unescaped


def events(*chunks: bytes) -> list[Event]:
    framer = Framer()
    return [event for chunk in chunks for event in framer.feed(chunk)]


@given(st.binary(max_size=300), st.lists(st.integers(0, 600), max_size=5))
def test_a_packet_arrives_however_it_is_cut(payload: bytes, cuts: list[int]) -> None:
    wire = frame(payload)
    edges = [0, *sorted(cuts), len(wire)]

    (event,) = events(*(wire[a:b] for a, b in itertools.pairwise(edges)))

    assert isinstance(event, Packet)
    assert unescaped(event.payload) == payload


@given(st.binary(max_size=300))
def test_escaping_is_undone(data: bytes) -> None:
    assert unescaped(escaped(data)) == data
    assert not set(escaped(data)) & set(b"#$*")


@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"$", b"#", b"}", b"$g#", b"$g#67", b"\x03", b"+-"])))
def test_no_stream_of_bytes_raises_and_the_next_packet_is_understood(chunks: list[bytes]) -> None:
    framer = Framer()
    for chunk in chunks:
        list(framer.feed(chunk))
    list(framer.feed(b"#00"))  # whatever was open is closed
    list(framer.feed(b"#00"))

    assert list(framer.feed(frame(b"qC")))[-1:] == [Packet(b"qC")]


def test_what_is_no_packet_is_named() -> None:
    assert events(b"+-\x03x") == [Sign.ACK, Sign.NAK, Sign.INTERRUPT, Sign.STRAY]
    assert events(b"$g#00", b"$g#zz", b"$g# 7") == [Sign.BAD_CHECKSUM] * 3
    assert events(b"$g#6") == []


def test_a_packet_that_is_too_long_is_dropped_and_not_kept() -> None:
    framer = Framer()
    for _ in range(100):
        assert list(framer.feed(b"$" * 4096 if _ == 0 else b"x" * 4096)) == []
    assert framer._payload is not None
    assert len(framer._payload) <= PACKET_MAX
    assert list(framer.feed(b"#00$?#3f")) == [Sign.OVERSIZED, Packet(b"?")]
