"""Frames that arrive: filters, descriptors of every shape, and death at any store."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.e1000e.spec import Rctl, Rx
from devproc.network.frame import BROADCAST, HEADER, Flags
from tests.unit.devproc.e1000e.driver import BASE, ENTRIES, RX_BUFFERS, RX_RING, SECRC, VME, Nic
from tests.unit.devproc.network.test_segments import PACK, UDP, headers, slow_sum
from tests.unit.devproc.virtio_net.rig import MAC, PEER, Wire, frame

FRAME = frame(bytes(range(100)))
ON = Rctl.EN | Rctl.BAM | SECRC
GROUP = bytes.fromhex("01005e000001")


@pytest.mark.parametrize("extended", [True, False])
def test_a_frame_arrives(extended: bool) -> None:
    nic = Nic(extended=extended)
    nic.offer(2)
    assert nic.device.deliver(FRAME)
    assert nic.status(0) == (Rx.DD | Rx.EOP | Rx.IXSM, len(FRAME), 0)
    assert nic.received() == [FRAME]
    assert (nic.get("rdh"), nic.messages()) == (1, [1, 0, 0])
    assert (nic.get("gprc"), nic.get("gorcl"), nic.get("gprc")) == (1, len(FRAME) + 4, 0)


def test_short_frames_are_padded_and_others_have_their_sum(nic: Nic) -> None:
    nic.offer(2)
    nic.set("rctl", ON & ~SECRC)
    assert nic.device.deliver(FRAME[:20])
    padded = FRAME[:20] + bytes(40)
    assert nic.received() == [padded + zlib.crc32(padded).to_bytes(4, "little")]


@pytest.mark.parametrize("extended", [True, False])
def test_a_frame_in_several_buffers(extended: bool) -> None:
    nic = Nic(extended=extended)
    nic.set("rctl", ON | 3 << 16)  # of 256 bytes
    nic.offer(8, size=256)
    data = frame(bytes(range(250)) * 3)
    assert nic.device.deliver(data)
    assert nic.status(0)[:2] == (Rx.DD, 256)
    assert nic.status(2)[0] & Rx.EOP
    assert nic.received(256) == [data]
    assert nic.get("rdh") == 4 - (len(data) <= 768)


def test_a_split_frame(nic: Nic) -> None:
    nic.set("rdlen", ENTRIES * 16)
    nic.set("psrctl", 1 | 1 << 8 | 1 << 16)  # 128, 1024, 1024 bytes and none
    nic.set("rctl", ON | Rctl.LPE | 1 << 10)
    for number in range(4):
        nic.ram.u64[(RX_RING - BASE >> 3) + number] = RX_BUFFERS + 0x1000 * number
    nic.set("rdt", 4)  # in units of 16 bytes
    data = frame(bytes(range(256)) * 5)
    assert nic.device.deliver(data)
    assert nic.get("rdh") == 2
    words = nic.ram.u64[RX_RING - BASE >> 3 : (RX_RING - BASE >> 3) + 4]
    assert words[1] >> 32 & 0xFFFF == 128
    assert (words[2] >> 16 & 0xFFFF, words[2] >> 32) == (1024, len(data) - 1152)
    found = b"".join(
        nic.machine.memory.read(RX_BUFFERS + 0x1000 * number, size) or b""
        for number, size in enumerate((128, 1024, len(data) - 1152))
    )
    assert found == data


def test_sizes_of_buffers_in_kilobytes(nic: Nic) -> None:
    nic.set("rctl", ON | 1 << 27)
    nic.offer(3)
    nic.device.deliver(frame(bytes(1200)))
    assert nic.status(0)[:2] == (Rx.DD, 1024)


def test_without_room_the_network_is_told_and_asked_again(nic: Nic) -> None:
    assert nic.wire.wanted is False
    assert not nic.device.deliver(FRAME)
    assert nic.get("rnbc") == 1
    nic.offer()
    listens: list[bool] = [nic.wire.wanted]
    assert listens == [True]
    assert [nic.device.deliver(FRAME) for _ in range(2)] == [True, False]
    assert nic.wire.wanted is False


def test_a_receiver_that_is_off_hears_nothing(nic: Nic) -> None:
    nic.offer()
    nic.set("rctl", 0)
    assert not nic.wire.wanted
    assert nic.wire.agreed[-1] == 0
    assert not nic.device.deliver(FRAME)
    nic.set("rctl", ON)
    nic.device.quiesce()
    assert not nic.wire.wanted
    assert not nic.device.deliver(FRAME)
    nic.device.resume()
    assert nic.device.deliver(FRAME)


def test_a_cable_that_is_out_loses_frames(nic: Nic) -> None:
    nic.device.set_link(up=False)
    assert nic.wire.wanted
    assert nic.device.deliver(FRAME)
    assert nic.device.room(0, 2000)
    assert nic.received() == []
    assert nic.device.counters["frames_without_link"] == 1


@pytest.mark.parametrize(
    ("to", "rctl", "wanted"),
    [
        (MAC, ON, True),
        (PEER, ON, False),
        (PEER, ON | Rctl.UPE, True),
        (BROADCAST, ON, True),
        (BROADCAST, ON & ~Rctl.BAM, False),
        (BROADCAST, ON & ~Rctl.BAM | Rctl.MPE, True),
        (GROUP, ON, False),
        (GROUP, ON | Rctl.UPE, False),
        (GROUP, ON | Rctl.MPE, True),
    ],
)
def test_filters(nic: Nic, to: bytes, rctl: int, wanted: bool) -> None:
    nic.set("rctl", rctl)
    nic.offer()
    assert nic.device.deliver(frame(bytes(60), to=to))
    assert bool(nic.received()) == wanted


@pytest.mark.parametrize("which", range(4))
def test_the_multicast_table(nic: Nic, which: int) -> None:
    to = bytes.fromhex("01005e7fa5c3")
    bit = (0xC3A5 >> (4, 3, 2, 0)[which]) & 0xFFF
    nic.set("rctl", ON | which << 12)
    nic.offer(2)
    nic.device.deliver(frame(bytes(60), to=to))
    nic.set(f"mta_{bit >> 5}", 1 << (bit & 31))
    nic.device.deliver(frame(bytes(60), to=to))
    assert len(nic.received()) == 1


def test_further_addresses(nic: Nic) -> None:
    nic.offer(2)
    nic.set("ral_15", int.from_bytes(PEER[:4], "little"))
    nic.set("rah_15", int.from_bytes(PEER[4:], "little"))
    nic.device.deliver(frame(bytes(60), to=PEER))
    assert nic.received() == []
    nic.set("rah_15", 1 << 31 | int.from_bytes(PEER[4:], "little"))
    nic.device.deliver(frame(bytes(60), to=PEER))
    assert len(nic.received()) == 1


def test_tags_are_taken_off_and_filtered(nic: Nic) -> None:
    tagged = FRAME[:12] + b"\x81\0\x60\5" + FRAME[12:]
    nic.offer(4)
    nic.device.deliver(tagged)
    nic.set("ctrl", nic.get("ctrl") | VME)
    nic.device.deliver(tagged)
    assert nic.status(1) == (Rx.DD | Rx.EOP | Rx.IXSM | Rx.VP, len(FRAME), 0x6005)
    nic.set("rctl", ON | Rctl.VFE)
    nic.device.deliver(tagged)
    nic.set("vfta_0", 1 << 5)
    nic.device.deliver(tagged)
    assert nic.received() == [tagged, FRAME, FRAME]


def test_long_frames_need_to_be_wanted(nic: Nic) -> None:
    nic.offer(8)
    long = frame(bytes(3000))
    assert nic.device.deliver(long)
    assert (nic.received(), nic.get("roc")) == ([], 1)
    nic.set("rctl", ON | Rctl.LPE)
    assert nic.device.deliver(long)
    assert nic.received() == [long]


def test_checksums_that_are_missing_are_made_and_marked(nic: Nic) -> None:
    nic.offer(3)
    data = headers(4, UDP) + bytes(40)
    data[:6] = MAC
    assert nic.device.deliver(data, PACK(Flags.NEEDS_CSUM, 0, 0, 0, 34, 6, 0))
    assert nic.status(0)[0] & (Rx.TCPCS | Rx.IXSM) == Rx.TCPCS
    assert slow_sum(nic.received()[0][34:]) == 0xFFFF
    assert nic.device.deliver(FRAME, PACK(Flags.DATA_VALID, 0, 0, 0, 0, 0, 0))
    assert nic.status(1)[0] & Rx.TCPCS
    assert nic.device.deliver(FRAME, PACK(Flags.NEEDS_CSUM, 0, 0, 0, 5000, 6, 0))
    assert nic.device.counters["frames_unwanted"] == 1


def test_a_network_that_reads_into_room(nic: Nic) -> None:
    assert nic.device.room(0, 1600) is None
    nic.offer()
    assert nic.device.room(0, 1 << 20) is None
    nic.offer()
    (room,) = nic.device.room(0, 1600) or [memoryview(b"")]
    room[: HEADER + len(FRAME)] = bytes(HEADER) + FRAME
    nic.device.filled(0, HEADER + len(FRAME))
    assert nic.received() == [FRAME]


@pytest.mark.parametrize("address", [0, (1 << 64) - 1, BASE + (1 << 20) - 50])
def test_buffers_in_no_memory(nic: Nic, address: int) -> None:
    nic.ram.u64[RX_RING - BASE >> 3] = address
    nic.set("rdt", 1)
    assert nic.device.deliver(FRAME)
    assert nic.status(0)[0] & Rx.RXE
    assert nic.device.counters["bad_buffers"] == 1


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(0, 0xFFFF_FFFF)] * 3),
    st.sampled_from((0, 16, 0x80, 0x100, 0xFFF80)) | st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 40),
    st.integers(0, 40),
    st.binary(max_size=200),
    st.integers(0, 16000),
)
def test_any_ring(control: tuple[int, int, int], length: int, head: int, tail: int, data: bytes, more: int) -> None:
    nic = Nic()
    rctl, psrctl, rfctl = control
    nic.set("psrctl", psrctl)
    nic.set("rfctl", rfctl)
    nic.set("rdlen", length)
    nic.set("rdh", head)
    nic.set("rdt", tail)
    nic.set("rctl", rctl)
    for _ in range(3):
        nic.device.deliver(MAC + data + bytes(more))
        if (room := nic.device.room(0, 1500)) is not None:
            nic.device.filled(0, min(len(room[0]), 1500))
    Nic.close_all()


def test_a_note_that_the_guest_has_made_nonsense_of(nic: Nic) -> None:
    nic.offer(4)
    for where in (3 | 9 << 16 | 10 << 32, 99 | 1 << 16, 0, 1 | 99 << 16):
        nic.device.state.rx_where = where
        nic.device.state.receiving = 1
        nic.die()
        assert nic.device.state.receiving == 0


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("size", [100, 700])
def test_death_at_any_store_loses_or_gives_a_frame_once(extended: bool, size: int) -> None:
    """Frames of one and of three descriptors; after each, the successor's own frame is found where the guest waits."""
    stores, died = 0, True
    while died:
        nic = Nic(extended=extended)
        nic.set("rctl", ON | 3 << 16)
        nic.offer(ENTRIES - 1, size=256)
        for _ in range(2):  # another time round for each descriptor
            nic.device.deliver(frame(bytes(700)))
            nic.received(256)
        data = frame(bytes(size))
        died = nic.killed(stores, Wire(), lambda card, data=data: card.deliver(data))  # type: ignore[misc]
        other = frame(b"after" + bytes(60))
        assert nic.device.deliver(other)
        assert nic.received(256) in ([data, other], [other]), f"killed at store {stores}"
        stores += 1
        Nic.close_all()
    assert stores > 5
