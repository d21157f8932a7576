"""Frames that leave: descriptors of both kinds, checksums, segments, and what a killed process leaves behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.e1000e.spec import Cause, Tctl
from devproc.network.features import NetFeature
from devproc.network.frame import Flags, Gso, Header
from tests.unit.devproc.e1000e.driver import (
    BASE,
    DATA,
    DEXT,
    ENTRIES,
    EOP,
    IXSM,
    RS,
    TSE,
    TX_BUFFERS,
    TX_RING,
    TXSM,
    VLE,
    VME,
    Nic,
)
from tests.unit.devproc.network.test_segments import PACK, TCP, UDP, check, headers, slow_sum
from tests.unit.devproc.virtio_net.rig import PEER, Wire, frame

LARGE = NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.HOST_TSO6
FRAME = frame(bytes(range(100)), to=PEER)
TCP_CONTEXT, IPV4_CONTEXT = 1 << 24, 1 << 25


def sent(nic: Nic) -> list[bytes]:
    found = [bytes(piece) for _, _, piece in nic.wire.sent]
    nic.wire.sent.clear()
    return found


def checksum_context(nic: Nic, start: int, offset: int) -> None:
    nic.context(start << 32 | start + offset << 40, 0)


def segment_context(nic: Nic, version: int, header: int, mss: int) -> None:
    transport = 34 if version == 4 else 54
    kind = IPV4_CONTEXT if version == 4 else 0
    low = 14 | 24 << 8 | (33 if version == 4 else 0) << 16 | transport << 32 | transport + 16 << 40
    nic.context(low, TCP_CONTEXT | kind | TSE | header << 40 | mss << 48)


def zeroed(version: int, *, payload: bytes) -> bytes:
    """Return a packet as Linux leaves it to be cut: no lengths, and a pseudo header's sum without one."""
    head = headers(version, TCP)
    network, transport = 14, 34 if version == 4 else 54
    addresses = head[network + 12 : network + 20] if version == 4 else head[network + 8 : network + 40]
    head[transport + 16 : transport + 18] = slow_sum(bytes(addresses) + b"\0\6").to_bytes(2, "big")
    return bytes(head) + payload


def test_a_frame_leaves_as_it_is_and_its_sender_hears_of_it(nic: Nic) -> None:
    nic.send(FRAME)
    assert sent(nic) == [FRAME]
    assert nic.done(0)
    assert (nic.get("tdh"), nic.messages()) == (1, [0, 1, 0])
    assert (nic.get("gptc"), nic.get("gotcl"), nic.get("ptc127"), nic.get("gptc")) == (1, 118, 1, 0)


def test_a_frame_in_several_pieces(nic: Nic) -> None:
    nic.send(FRAME[:14], FRAME[14:20], FRAME[20:])
    assert sent(nic) == [FRAME]
    assert (nic.done(0), nic.done(2)) == (False, True)


def test_a_legacy_frame_with_a_checksum(nic: Nic) -> None:
    data = bytearray(headers(4, UDP)) + b"payload"
    nic.machine.memory.write(TX_BUFFERS, data)
    nic.describe(TX_BUFFERS, len(data) | 40 << 16 | EOP | RS | 1 << 26 | 34 << 40)
    nic.kick()
    (found,) = sent(nic)
    assert slow_sum(found[34:]) == 0xFFFF
    assert found[:34] == data[:34]
    assert len(found) == 60  # padded


def test_without_a_report_nobody_is_told(nic: Nic) -> None:
    nic.machine.memory.write(TX_BUFFERS, FRAME)
    nic.describe(TX_BUFFERS, len(FRAME) | DATA | EOP)
    nic.kick()
    assert sent(nic) == [FRAME]
    assert not nic.done(0)
    assert nic.messages() == [0, 0, 0]


def test_short_frames_are_padded_if_the_guest_wants_it(nic: Nic) -> None:
    nic.send(FRAME[:20])
    nic.set("tctl", Tctl.EN)
    nic.send(FRAME[:20])
    assert sent(nic) == [FRAME[:20] + bytes(40), FRAME[:20]]


def test_a_checksum_is_inserted(nic: Nic) -> None:
    head = headers(4, UDP)
    checksum_context(nic, 34, 6)
    nic.send(bytes(head) + bytes(40), options=TXSM)
    assert slow_sum(sent(nic)[0][34:]) == 0xFFFF


def test_a_checksum_is_left_to_a_network_that_can() -> None:
    nic = Nic(Wire(LARGE))
    checksum_context(nic, 34, 6)
    data = bytes(headers(4, UDP)) + bytes(40)
    nic.send(data, options=TXSM)
    _, header, found = nic.wire.sent[0]
    assert found == data
    assert header == PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, 6, 0)


def test_ip_and_partial_checksums_are_inserted(nic: Nic) -> None:
    data = bytearray(headers(4, UDP)) + bytes(40)
    low = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 40 << 40 | 50 << 48  # the sum ends at byte 50
    nic.context(low, 0)
    data[60] = 0x77
    nic.send(bytes(data), options=IXSM | TXSM)
    (found,) = sent(nic)
    assert slow_sum(found[14:34]) == 0xFFFF
    assert slow_sum(found[34:51]) == 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offloads", [0, NetFeature.CSUM])
def test_segments_are_whole_on_a_wire_that_cuts_nothing(version: int, offloads: int) -> None:
    nic = Nic(Wire(offloads))
    payload = bytes(range(256)) * 10
    data = zeroed(version, payload=payload)
    head = len(data) - len(payload)
    segment_context(nic, version, head, 1000)
    nic.send(data[:head], data[head:], options=IXSM | TXSM, command=TSE)
    found = sent(nic)
    assert [len(piece) - head for piece in found] == [1000, 1000, 560]
    assert b"".join(piece[head:] for piece in found) == payload
    for piece in found:
        check(piece, version, TCP)
    assert nic.get("tsctc") == 1


@pytest.mark.parametrize(("version", "gso"), [(4, Gso.TCPV4), (6, Gso.TCPV6)])
def test_segments_are_left_to_a_network_that_cuts(version: int, gso: Gso) -> None:
    nic = Nic(Wire(LARGE))
    data = zeroed(version, payload=bytes(3000))
    head = len(data) - 3000
    segment_context(nic, version, head, 1000)
    nic.send(data, options=IXSM | TXSM, command=TSE)
    _, header, found = nic.wire.sent[0]
    assert header == PACK(Flags.NEEDS_CSUM, gso, head, 1000, 34 if version == 4 else 54, 16, 0)
    assert found[head:] == bytes(3000)
    assert len(header) == Header.LENGTH
    if version == 4:
        assert slow_sum(found[14:34]) == 0xFFFF


def test_a_packet_of_one_segment_only_needs_its_checksum() -> None:
    nic = Nic(Wire(LARGE))
    data = zeroed(4, payload=bytes(100))
    segment_context(nic, 4, 54, 1000)
    nic.send(data, options=IXSM | TXSM, command=TSE)
    assert nic.wire.sent[0][1] == PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, 16, 0)


def test_tags_are_inserted_and_move_the_checksum() -> None:
    nic = Nic(Wire(LARGE))
    nic.set("ctrl", nic.get("ctrl") | VME)
    nic.send(FRAME, command=VLE, tag=0x2005)
    assert sent(nic) == [FRAME[:12] + b"\x81\0\x20\5" + FRAME[12:]]
    checksum_context(nic, 34, 6)
    nic.send(bytes(headers(4, UDP)) + bytes(40), options=TXSM, command=VLE, tag=5)
    assert nic.wire.sent[0][1] == PACK(Flags.NEEDS_CSUM, 0, 0, 0, 38, 6, 0)
    segment_context(nic, 4, 54, 1000)
    nic.wire.sent.clear()
    nic.send(zeroed(4, payload=bytes(2000)), options=IXSM | TXSM, command=TSE | VLE, tag=5)
    assert nic.wire.sent[0][1] == PACK(Flags.NEEDS_CSUM, Gso.TCPV4, 58, 1000, 38, 16, 0)


def test_what_the_network_refuses_waits_in_the_ring(nic: Nic) -> None:
    nic.wire.full = True
    nic.send(FRAME)
    assert (nic.get("tdh"), nic.done(0)) == (0, False)
    nic.wire.full = False
    nic.device.writable()
    nic.kick()
    assert sent(nic) == [FRAME]
    assert nic.done(0)


def test_segments_that_the_network_refuses_wait_and_are_sent_once() -> None:
    class Slow(Wire):
        """Takes two frames at a time."""

        room = 2

        def send(self, pair: int, header: object, pieces: object) -> bool:
            self.room -= 1
            return self.room >= 0 and super().send(pair, header, pieces)  # type: ignore[arg-type]

    wire = Slow()
    nic = Nic(wire)
    payload = bytes(range(250)) * 20
    segment_context(nic, 4, 54, 1000)
    nic.send(zeroed(4, payload=payload), options=IXSM | TXSM, command=TSE)
    nic.send(FRAME)
    for _ in range(2):
        wire.room = 2
        nic.device.writable()
        nic.kick()
    found = sent(nic)
    assert b"".join(piece[54:] for piece in found[:5]) == payload
    assert found[5:] == [FRAME]
    assert nic.get("tdh") == 3


def test_a_cable_that_is_out_loses_frames_and_the_ring_goes_on(nic: Nic) -> None:
    nic.device.set_link(up=False)
    nic.send(FRAME)
    assert sent(nic) == []
    assert nic.done(0)
    assert nic.device.counters["frames_without_link"] == 1


def test_nothing_leaves_before_the_transmitter_is_on(nic: Nic) -> None:
    nic.set("tctl", 0)
    nic.send(FRAME)
    assert sent(nic) == []
    nic.set("tctl", Tctl.EN)
    assert sent(nic) == [FRAME]


def test_more_than_a_burst(nic: Nic) -> None:
    for _ in range(20):
        for _ in range(ENTRIES - 1):
            nic.machine.memory.write(TX_BUFFERS, FRAME)
            nic.describe(TX_BUFFERS, len(FRAME) | DATA | EOP | RS)
        nic.kick()
    assert len(sent(nic)) == 20 * (ENTRIES - 1)


# a hostile guest


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 100 | DATA | EOP | RS),
        ((1 << 64) - 8, 100 | DATA | EOP | RS),
        (BASE + (1 << 20) - 10, 100 | DATA | EOP | RS),
        (TX_BUFFERS, 0 | DATA | EOP | RS),
        (TX_BUFFERS, 13 | DATA | EOP | RS),
        (BASE, 0xF_FFFF | DATA | EOP | RS),
        (TX_BUFFERS, 100 | EOP | RS | 1 << 26 | 200 << 16),
        (TX_BUFFERS, 1000 | DATA | EOP | RS | TSE),
        (TX_BUFFERS, 1000 | DATA | EOP | RS | TXSM | IXSM),
    ],
)
def test_frames_that_are_none_are_dropped_and_done(nic: Nic, low: int, high: int) -> None:
    nic.context(200 << 32 | 10 << 40 | 100 | 2 << 8, TSE | TCP_CONTEXT | 255 << 40)
    nic.describe(low, high)
    nic.kick()
    nic.send(FRAME)
    assert sent(nic) == [FRAME]
    assert nic.done(1)
    assert nic.get("tdh") == 3
    assert sum(nic.device.counters[name] for name in ("bad_frames", "bad_buffers")) == 1


def test_a_frame_without_an_end_waits_until_the_ring_is_full(nic: Nic) -> None:
    for _ in range(ENTRIES - 2):
        nic.describe(TX_BUFFERS, 20 | DATA)
    nic.kick()
    assert nic.get("tdh") == 0
    nic.describe(TX_BUFFERS, 20 | DATA)
    nic.kick()
    assert nic.get("tdh") == ENTRIES - 1


@pytest.mark.parametrize(
    ("name", "value"), [("tdt", 999), ("tdh", 999), ("tdbah", 0x7777), ("tdlen", 0xF_FF80), ("pci_command", 2)]
)
def test_rings_that_are_none(nic: Nic, name: str, value: int) -> None:
    nic.set(name, value)
    nic.send(FRAME)
    if name != "tdt":
        assert sent(nic) == []
        assert nic.device.counters["bad_rings"]
    else:
        assert sent(nic) == [FRAME]


words = st.integers(0, (1 << 64) - 1)
NEAR = st.sampled_from((BASE, TX_BUFFERS, TX_RING, BASE + (1 << 20) - 1, 0))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(words | NEAR, words, st.sampled_from((0, DEXT, DATA, DATA | TSE, EOP | RS | DATA))), max_size=40
    ),
    st.sampled_from((0, LARGE)),
)
def test_any_descriptors(found: list[tuple[int, int, int]], offloads: int) -> None:
    nic = Nic(Wire(offloads))
    for number, (low, high, kind) in enumerate(found):
        nic.describe(low, high & ~(DEXT | 0xF << 20) | kind if kind else high)
        if number % 5 == 0:
            nic.kick()
    nic.kick()
    assert len(nic.wire.sent) < 9000 * (len(found) + 1)
    Nic.close_all()


# death


def test_a_successor_writes_back_what_was_sent(nic: Nic) -> None:
    nic.send(FRAME)
    nic.ram.u8[TX_RING - BASE + 12] = 0  # the page says it is sent, but the descriptor was not written back
    nic.device.state.transmitted = 0
    nic.die()
    assert nic.done(0)
    assert sent(nic) == []
    assert nic.get("icr") & Cause.OTHER  # whoever waits is told


def test_a_successor_leaves_alone_what_the_guest_has_filled_again(nic: Nic) -> None:
    nic.set("tctl", 0)
    for _ in range(ENTRIES - 1):
        nic.describe(TX_BUFFERS, len(FRAME) | DATA | EOP | RS)
    nic.set("tdh", 2)  # 0 and 1 were sent; the guest has heard of 0, and filled it again
    nic.device.state.transmitted = 0
    nic.tail = 1
    nic.kick()
    nic.die()
    assert (nic.done(0), nic.done(1)) == (False, True)


def test_a_successor_sends_a_burst_again_with_its_context() -> None:
    nic = Nic(Wire(LARGE))
    checksum_context(nic, 34, 6)
    data = bytes(headers(4, UDP)) + bytes(40)
    nic.send(data, options=TXSM)
    nic.wire.full = True
    nic.send(data, options=TXSM)
    nic.die()
    assert [header for _, header, _ in nic.wire.sent] == [PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, 6, 0)]
    assert nic.get("tdh") == 3


def test_the_context_of_the_ring_where_the_card_stands() -> None:
    nic = Nic(Wire(LARGE))
    for offset in (6, 16):  # a context after another, in either place
        checksum_context(nic, 34, offset)
        nic.send(bytes(headers(4, TCP)) + bytes(40), options=TXSM)
        nic.die()
        nic.send(bytes(headers(4, TCP)) + bytes(40), options=TXSM)
        assert nic.wire.sent[-1][1] == PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, offset, 0)


def test_death_at_any_store_sends_every_frame_whole_and_tells_of_all() -> None:
    stores, died = 0, True
    head = bytes(headers(4, UDP))
    while died:
        nic = Nic(Wire(LARGE))
        nic.wire.full = True
        for number, offset in enumerate((6, 16, 6)):  # each frame with a context of its own
            checksum_context(nic, 34, offset)
            nic.send(head + bytes([number] * 40), options=TXSM)
        wire = Wire(LARGE)
        died = nic.killed(stores, wire, lambda card: card.doorbell(1))
        times = [(header, piece) for _, header, piece in wire.sent + nic.wire.sent]
        wanted = [
            (PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, offset, 0), head + bytes([number] * 40))
            for number, offset in enumerate((6, 16, 6))
        ]
        assert times in (wanted, wanted * 2), f"killed at store {stores}"
        assert [nic.done(index) for index in (1, 3, 5)] == [True] * 3
        assert nic.get("tdh") == 6
        stores += 1
        Nic.close_all()
    assert stores > 5
