"""virtio-net: frames both ways, filters, queues, and a driver that is wrong about all of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.network.backend import PLAIN
from devproc.network.features import GUEST, HOST, NetFeature
from devproc.network.frame import BROADCAST, HEADER, Flags, Gso
from devproc.strategies import accesses, exercise
from devproc.virtio_net.config import Config
from devproc.virtio_net.device import NetworkCard
from devproc.virtio_net.spec import ERR, OK, Class, Rx
from devproc.virtio_spec import Feature
from tests.unit.devproc.virtio_net.rig import ALL, MAC, PEER, ROOM, RX, TX, Rig, Wire, frame

GROUP = bytes.fromhex("01005e000001")
OTHER = bytes.fromhex("525400000099")
KINDS = pytest.mark.parametrize("rings", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])


def header(
    flags: int = 0, gso: int = 0, hdr_len: int = 0, size: int = 0, start: int = 0, offset: int = 0, buffers: int = 0
) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, hdr_len, size, start, offset, buffers)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    Rig.close_all()


# out


@KINDS
@pytest.mark.parametrize("cut", [(), (12,), (4,), (12, 26), (1, 5, 13, 20)])
def test_a_frame_leaves_however_it_is_cut(rings: int, cut: tuple[int, ...]) -> None:
    rig = Rig(rings=rings)
    rig.send(frame(), cut=cut)
    assert rig.wire.sent == [(0, PLAIN, frame())]
    assert rig.device.counters["frames_out"] == 1


def test_guest_memory_is_the_guests_again_only_after_a_flush() -> None:
    rig = Rig(Wire(keeps=True))
    rig.send(frame())
    assert [data for _, _, data in rig.wire.sent] == [frame()]
    assert rig.driver.queues[TX].outstanding == 0


def test_what_the_network_does_not_take_stays_in_the_queue() -> None:
    rig = Rig()
    rig.wire.full = True
    for number in range(3):
        rig.room[TX] = rig.driver.queues[TX].lend(64)
        rig.send(frame(bytes([number])))
    assert not rig.wire.sent
    assert rig.driver.queues[TX].outstanding == 3
    assert rig.device.queues[TX].in_flight == 1
    rig.wire.full = False
    rig.device.writable()
    assert TX in rig.device.pending
    rig.driver.serve(TX)
    assert [data[14:] for _, _, data in rig.wire.sent] == [b"\0", b"\1", b"\2"]
    assert rig.driver.queues[TX].outstanding == 0


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 25, 12 + 65535 + 19])
def test_what_is_no_frame_is_dropped_and_counted(length: int) -> None:
    rig = Rig(lend=0x1_2000)
    at = rig.room[TX]
    rig.driver.queues[TX].add([(at, length)], [])
    assert len(rig.driver.serve(TX)) == 1
    assert not rig.wire.sent
    assert rig.device.counters["bad_frames"] == 1


def test_a_chain_to_write_in_is_no_frame() -> None:
    rig = Rig()
    rig.driver.queues[TX].add([(rig.room[TX], 100)], [(rig.more[TX], 100)])
    rig.driver.serve(TX)
    assert rig.device.counters["bad_frames"] == 1


GOOD = [
    (header(1, start=34, offset=16), header(1, start=34, offset=16)),
    (header(1, Gso.TCPV4, 54, 1448, 34, 16), header(1, Gso.TCPV4, 54, 1448, 34, 16)),
    (header(1, Gso.TCPV4 | Gso.ECN, 54, 1448, 34, 16), header(1, Gso.TCPV4 | Gso.ECN, 54, 1448, 34, 16)),
    (header(1, Gso.UDP_L4, 42, 1448, 34, 6), header(1, Gso.UDP_L4, 42, 1448, 34, 6)),
    (header(Flags.DATA_VALID, buffers=7), PLAIN),
]
BAD = [
    header(0, Gso.TCPV4, 54, 1448, 34, 16),
    header(1, Gso.TCPV4, 54, 0, 34, 16),
    header(1, 2, 54, 1448, 34, 16),
    header(1, Gso.TCPV4, 0xFFFF, 1448, 34, 16),
    header(1, start=34, offset=0xFFF0),
    header(1, start=0xFFFF, offset=0),
    header(1, start=0, offset=0),
    header(1, Gso.UDP | Gso.ECN, 54, 1448, 34, 16),
    header(1, 0x7F, 54, 1448, 34, 16),
]


@pytest.mark.parametrize(("given_", "seen"), GOOD)
def test_a_network_sees_headers_that_make_sense(given_: bytes, seen: bytes) -> None:
    rig = Rig(Wire(ALL), lend=4096)
    rig.send(frame(bytes(3000)), given_)
    assert rig.wire.sent[0][1] == seen


@pytest.mark.parametrize("lie", BAD)
def test_a_header_that_lies_is_dropped(lie: bytes) -> None:
    rig = Rig(Wire(ALL), lend=4096)
    rig.send(frame(bytes(3000)), lie)
    assert not rig.wire.sent
    assert rig.device.counters["bad_frames"] == 1


def test_offloads_that_were_not_agreed_on_are_lies() -> None:
    rig = Rig(Wire(ALL), without=int(NetFeature.HOST_TSO4), lend=4096)
    rig.send(frame(bytes(3000)), header(1, Gso.TCPV4, 54, 1448, 34, 16))
    assert rig.device.counters["bad_frames"] == 1
    rig = Rig(Wire(ALL), without=int(HOST), lend=4096)
    rig.send(frame(bytes(3000)), header(1, start=34, offset=16))
    assert rig.device.counters["bad_frames"] == 1


def test_without_a_link_frames_are_lost_both_ways() -> None:
    rig = Rig()
    rig.offer(ROOM)
    generation = rig.device.config_generation
    rig.device.set_link(up=False)
    assert rig.device.net_status == 0
    assert rig.device.config_generation == generation + 1
    rig.send(frame())
    assert rig.hear(frame())
    assert not rig.wire.sent
    assert not rig.take()
    rig.device.set_link(up=True)
    rig.send(frame())
    assert rig.wire.sent


# in


@KINDS
def test_a_frame_arrives_in_one_buffer(rings: int) -> None:
    rig = Rig(rings=rings)
    (place,) = rig.offer(ROOM)
    assert rig.hear(frame())
    assert [length for _, length in rig.take()] == [HEADER + len(frame())]
    assert rig.read(place, HEADER + len(frame())) == header(buffers=1) + frame()


@KINDS
def test_a_frame_arrives_in_as_many_buffers_as_it_needs(rings: int) -> None:
    rig = Rig(rings=rings)
    data = frame(bytes(range(200)))
    places = rig.offer(100, 10, 100, 100)
    assert rig.hear(data, header(1, start=14, offset=2))
    lengths = [length for _, length in rig.take()]
    assert lengths == [100, 10, 100, HEADER + len(data) - 210]
    seen = b"".join(rig.read(at, length) for at, length in zip(places, lengths, strict=False))
    assert seen == header(1, start=14, offset=2, buffers=4) + data


@KINDS
def test_a_header_may_be_in_pieces_too(rings: int) -> None:
    rig = Rig(rings=rings)
    queue, at = rig.driver.queues[RX], rig.room[RX]
    queue.add([], [(at, 4), (at + 4, 7), (at + 11, 0), (at + 11, 500)])
    rig.driver.serve(RX)
    assert rig.hear(frame())
    assert rig.read(at, HEADER + len(frame())) == header(buffers=1) + frame()


def test_without_room_a_frame_stays_with_the_network() -> None:
    rig = Rig()
    assert not rig.listens  # nothing was offered
    assert not rig.hear(frame())
    rig.offer(ROOM)
    assert rig.listens
    assert rig.hear(frame())
    assert not rig.hear(frame(b"second"))
    assert not rig.listens
    assert rig.device.counters["without_room"] == 1
    rig.offer(ROOM)
    assert rig.listens
    assert rig.hear(frame(b"second"))


def test_a_frame_that_will_never_fit_is_dropped() -> None:
    rig = Rig(without=int(NetFeature.MRG_RXBUF))
    rig.offer(64, ROOM)
    assert rig.hear(frame(bytes(200)))
    assert rig.device.counters["frames_too_large"] == 1
    rig = Rig(size=4)
    rig.offer(64, 64)
    assert rig.hear(frame(bytes(200)))
    assert rig.device.counters["frames_too_large"] == 1
    assert rig.hear(frame(bytes(10)))  # what was taken ahead is not lost
    assert len(rig.take()) == 1


@KINDS
def test_a_network_reads_into_the_guests_buffers(rings: int) -> None:
    rig = Rig(rings=rings)
    first, second = rig.offer(64, 200)
    pieces = rig.device.room(0, 200)
    assert pieces is not None
    data = PLAIN + frame(bytes(range(100)))
    pieces[0][:] = data[:64]
    pieces[1][: len(data) - 64] = data[64:]
    rig.device.filled(0, len(data))
    rig.device._show()
    assert [length for _, length in rig.take()] == [64, len(data) - 64]
    assert rig.read(first, 64) + rig.read(second, len(data) - 64) == header(buffers=2) + data[HEADER:]


def test_room_that_is_not_used_is_offered_again() -> None:
    rig = Rig()
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    rig.offer(ROOM)
    for to, count in ((OTHER, 0), (MAC, 1)):
        pieces = rig.device.room(0, 100)
        assert pieces is not None
        pieces[0][:40] = (PLAIN + frame(bytes(30), to))[:40]
        rig.device.filled(0, 40)
        rig.device._show()
        assert len(rig.take()) == count


def test_a_network_that_reads_more_than_the_guest_ever_offers_reads_elsewhere() -> None:
    rig = Rig(size=4)
    (place, _) = rig.offer(128, 128)
    pieces = rig.device.room(0, 60_000)
    assert pieces is not None
    pieces[0][: HEADER + 20] = PLAIN + frame(b"short!")
    rig.device.filled(0, HEADER + 20)
    rig.device._show()
    assert rig.read(place, HEADER + 20) == header(buffers=1) + frame(b"short!")
    pieces = rig.device.room(0, 60_000)
    assert pieces is not None
    data = PLAIN + frame(bytes(range(200)))
    pieces[0][: len(data)] = data
    rig.device.filled(0, len(data))  # larger than what is left: it waits
    assert not rig.listens
    rig.offer(128, 128)
    assert rig.listens
    assert rig.device.counters["frames_in"] == 2


# filters


def test_a_card_hears_everything_until_it_is_told() -> None:
    rig = Rig()
    rig.offer(*[128] * 8)
    rig.hear(frame(to=OTHER))
    assert len(rig.take()) == 1


def test_modes_of_reception() -> None:
    rig = Rig()
    rig.offer(*[64] * 16)

    def seen(*to: bytes) -> list[bool]:
        return [rig.hear(frame(to=address)) and len(rig.take()) == 1 for address in to]

    assert rig.command(Class.RX, Rx.PROMISC, b"\0") == OK
    assert seen(MAC, OTHER, GROUP, BROADCAST) == [True, False, False, True]
    assert rig.command(Class.RX, Rx.ALLMULTI, b"\1") == OK
    assert seen(MAC, OTHER, GROUP, BROADCAST) == [True, False, True, True]
    assert rig.command(Class.RX, Rx.NOBCAST, b"\1") == OK
    assert rig.command(Class.RX, Rx.ALLUNI, b"\1") == OK
    assert seen(MAC, OTHER, GROUP, BROADCAST) == [True, True, True, False]
    assert rig.command(Class.RX, Rx.NOUNI, b"\1") == OK
    assert rig.command(Class.RX, Rx.NOMULTI, b"\1") == OK
    assert seen(MAC, OTHER, GROUP, BROADCAST) == [False, False, False, False]


def table(*macs: bytes) -> bytes:
    return len(macs).to_bytes(4, "little") + b"".join(macs)


def test_tables_of_addresses() -> None:
    rig = Rig()
    rig.offer(*[64] * 8)
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    assert rig.command(Class.MAC, 0, table(OTHER) + table(GROUP)) == OK
    for to in (OTHER, GROUP, MAC):
        rig.hear(frame(to=to))
        assert len(rig.take()) == 1
    rig.hear(frame(to=bytes.fromhex("525400000077")))
    assert not rig.take()
    assert rig.command(Class.MAC, 0, table(*[OTHER] * 65) + table()) == OK  # too many: all
    rig.hear(frame(to=bytes.fromhex("525400000077")))
    assert len(rig.take()) == 1


def test_a_card_may_get_another_address() -> None:
    rig = Rig()
    rig.offer(128, 128)
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    assert rig.command(Class.MAC, 1, OTHER) == OK
    assert rig.device.configuration()["mac"] == OTHER.hex(":")
    rig.hear(frame(to=OTHER))
    assert len(rig.take()) == 1
    rig.driver.write("device_status", 0)
    assert rig.device.mac == MAC


def test_vlans() -> None:
    rig = Rig()
    rig.offer(*[128] * 4)
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    tagged = MAC + PEER + b"\x81\x00\x00\x07" + bytes(20)
    rig.hear(tagged)
    assert not rig.take()
    assert rig.command(Class.VLAN, 0, (7).to_bytes(2, "little")) == OK
    rig.hear(tagged)
    assert len(rig.take()) == 1
    assert rig.command(Class.VLAN, 1, (7).to_bytes(2, "little")) == OK
    rig.hear(tagged)
    assert not rig.take()
    assert rig.command(Class.VLAN, 0, (4096).to_bytes(2, "little")) == ERR


@pytest.mark.parametrize(
    ("which", "command", "data"),
    [
        (0, 9, b"\0"), (0, 0, b"\2"), (0, 0, b""), (0, 0, b"\0\0"), (1, 0, b""), (1, 0, b"\xff\xff\xff\xff"),
        (1, 0, table(OTHER)), (1, 0, table() + table() + b"x"), (1, 1, b"\1\0\0\0\0\0"), (1, 1, b"\0\0"), (1, 7, b""),
        (2, 5, b"\0\0"), (2, 0, b"\0"), (3, 1, b""), (3, 0, b"x"), (4, 0, b"\2\0"), (5, 0, bytes(8)), (6, 0, b""),
        (6, 5, bytes(8)), (77, 0, b""), (255, 255, bytes(100)),
    ],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_answered(which: int, command: int, data: bytes) -> None:
    rig = Rig()
    assert rig.command(which, command, data) == ERR
    assert rig.device.counters["bad_commands"] == 1


def test_a_command_without_room_for_an_answer_or_too_long() -> None:
    rig = Rig(lend=0x8000)
    assert rig.command(Class.RX, 0, b"\0", room=0) is None
    assert rig.command(Class.MAC, 0, bytes(0x7000)) == ERR


# negotiation


def test_what_is_offered_follows_the_network() -> None:
    plain, rich = Rig(), Rig(Wire(ALL), queues=2, standby=True)
    assert not plain.device.features & (HOST | GUEST | NetFeature.MQ | NetFeature.STANDBY)
    assert rich.device.features & int(HOST | GUEST) == int(HOST | GUEST)
    assert rich.device.features & NetFeature.STANDBY
    assert rich.device.features & NetFeature.CTRL_GUEST_OFFLOADS
    rich.offer(ROOM)
    assert rich.wire.agreed[-1] == ALL
    wanted = int(NetFeature.GUEST_CSUM)
    assert rich.command(Class.GUEST_OFFLOADS, 0, wanted.to_bytes(8, "little")) == OK
    assert rich.wire.agreed[-1] == int(HOST) | wanted
    assert rich.command(Class.GUEST_OFFLOADS, 0, (1 << 40).to_bytes(8, "little")) == ERR
    rich.driver.write("device_status", 0)
    assert rich.wire.agreed[-1] == 0


def test_announcing() -> None:
    rig = Rig()
    assert rig.device.announce()
    assert rig.device.net_status == 3
    assert rig.command(Class.ANNOUNCE, 0, b"") == OK
    assert rig.device.net_status == 1
    assert not Rig(without=int(NetFeature.GUEST_ANNOUNCE)).device.announce()


def test_interrupts_wait_for_company() -> None:
    rig = Rig()
    assert rig.command(Class.NOTF_COAL, 1, struct.pack("<II", 3, 1000)) == OK
    told: list[int] = []
    rig.device._coalescing._notify = lambda queue: told.append(queue.index)
    rig.offer(*[128] * 4)
    for _ in range(2):
        rig.hear(frame())
        assert told == []
    rig.hear(frame())
    assert told == [RX]
    rig.hear(frame())
    assert told == [RX]
    rig.device._coalescing._clock = lambda: 1e12
    rig.device._coalescing.rang()
    assert told == [RX, RX]


def test_a_buffer_to_receive_into_has_to_be_writable() -> None:
    for hear in (lambda rig: rig.hear(frame()), lambda rig: rig.device.room(0, 100) is not None):
        rig = Rig()
        rig.driver.queues[RX].add([(rig.room[RX], 64)], [])
        rig.driver.queues[RX].add([], [(rig.room[RX], 1024)])
        rig.driver.serve(RX)
        assert not hear(rig)
        assert rig.device.counters["bad_rings"] == 1
        assert rig.device.device_status & 64  # needs a reset


# pairs


def udp(source: int, to: int) -> bytes:
    ip = bytes([0x45, 0, 0, 28]) + bytes(5) + b"\x11" + bytes(2) + bytes([10, 0, 0, source, 10, 0, 0, to])
    return frame(ip + source.to_bytes(2, "big") + to.to_bytes(2, "big") + bytes(4), kind=0x0800)


def test_a_flow_is_received_where_it_is_sent() -> None:
    rig = Rig(queues=4)
    assert rig.device.control_queue == 8
    assert rig.command(Class.MQ, 0, b"\4\0") == OK
    assert rig.wire.used[-1] == 4
    for pair in range(4):
        rig.offer(*[128] * 4, queue=2 * pair)
        rig.send(udp(pair, 99), queue=2 * pair + 1)
        assert rig.wire.sent[-1][0] == pair
    for pair in range(4):
        rig.hear(udp(99, pair))
        assert len(rig.take(2 * pair)) == 1
    for bad in (b"\0\0", b"\5\0", b"\4"):
        assert rig.command(Class.MQ, 0, bad) == ERR
    assert rig.command(Class.MQ, 0, b"\1\0") == OK
    rig.hear(udp(99, 3))
    assert len(rig.take(0)) == 1


def test_without_mq_the_third_queue_is_for_commands() -> None:
    rig = Rig(queues=4, without=int(NetFeature.MQ))
    assert rig.device.control_queue == 2
    assert rig.command(Class.RX, 0, b"\0") == OK


# life


@KINDS
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_successor_goes_on(rings: int, transport: str) -> None:
    rig = Rig(Wire(ALL), rings=rings, transport=transport)
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    rig.command(Class.MAC, 0, table(OTHER) + table())
    rig.command(Class.GUEST_OFFLOADS, 0, int(NetFeature.GUEST_CSUM).to_bytes(8, "little"))
    rig.device.set_link(up=False)
    rig.device.set_link(up=True)
    rig.offer(100, 100, 500)
    assert rig.device.room(0, 150)  # two are taken ahead when the process dies
    rig.wire.full = True
    rig.send(frame(b"held"))
    rig.successor()
    for index in sorted(rig.device.queues):
        rig.device.doorbell(index)
    assert [data[14:] for _, _, data in rig.wire.sent] == [b"held"]
    assert rig.wire.agreed[-1] == int(HOST | NetFeature.GUEST_CSUM)
    assert rig.listens
    rig.hear(frame(to=bytes(6)))
    rig.hear(frame(to=OTHER))
    assert [length for _, length in rig.take()] == [HEADER + len(frame())]
    rig.hear(frame(bytes(500)))
    assert len(rig.take()) == 2


def test_while_paused_frames_stay_where_they_are() -> None:
    rig = Rig()
    rig.offer(ROOM)
    rig.device.quiesce()
    assert not rig.listens
    assert not rig.hear(frame())
    rig.device.resume()
    assert rig.listens
    assert rig.hear(frame())


def test_what_the_network_takes_again_during_a_pause_is_sent_after_it() -> None:
    rig = Rig()
    rig.wire.full = True
    rig.send(frame(b"held"))
    rig.device.quiesce()
    rig.wire.full = False
    rig.device.writable()
    assert not rig.wire.sent
    rig.device.resume()
    assert [data[14:] for _, _, data in rig.wire.sent] == [b"held"]


def test_without_a_driver_frames_stay_too() -> None:
    rig = Rig()
    rig.offer(ROOM)
    rig.driver.write("device_status", 0)
    assert not rig.listens
    assert not rig.hear(frame())
    assert rig.device.room(0, 100) is None


@KINDS
def test_a_queue_that_is_reset_gives_everything_back(rings: int) -> None:
    rig = Rig(rings=rings | int(Feature.RING_RESET))
    rig.offer(100, 100)
    assert rig.device.room(0, 150)
    rig.driver.write("queue_select", RX)
    rig.driver.write("queue_reset", 1)
    assert not rig.listens
    assert not rig.hear(frame())


# hostile


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_access_raises(data: st.DataObject) -> None:
    kind = NetworkCard.over("pci")
    exercise(lambda: kind(Config(MAC, queues=2), Wire(ALL)), data.draw(accesses(kind)))


@given(st.lists(st.binary(max_size=80), max_size=4), st.integers(0, 2))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_chain_raises(chains: list[bytes], queue: int) -> None:
    rig = Rig(Wire(ALL))
    at = rig.room[queue]
    for chain in chains:
        rig.write(at, chain)
        rig.driver.queues[queue].add([(at, len(chain))], [(rig.more[queue], 3)] if len(chain) % 2 else [])
        rig.driver.serve(queue)
    rig.device.deliver(frame())
    Rig.close_all()


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_frame_from_the_wire_raises(data: bytes) -> None:
    rig = Rig(queues=2)
    rig.command(Class.MQ, 0, b"\2\0")
    rig.command(Class.RX, Rx.PROMISC, b"\0")
    rig.offer(64, 64, 64, 512)
    card = rig.wire.card
    card.deliver(b"\xff" * 6 + data)
    card.deliver(memoryview(MAC + bytes(6) + b"\x08\x00" + data))
    card.deliver(memoryview(MAC + bytes(6) + b"\x86\xdd" + data))
    Rig.close_all()


LENGTHS = [*range(200), *range(200, 0x1_1000, 641), 65535, 65536, 65549, 65553, 65554, 65565, 65566]


@KINDS
def test_frames_of_every_length_leave_or_are_counted(rings: int) -> None:
    rig = Rig(rings=rings, lend=0x1_2000)
    for length in LENGTHS:
        rig.driver.queues[TX].add([(rig.room[TX], length)], [])
        assert len(rig.driver.serve(TX)) == 1
    good = [length for length in LENGTHS if 14 + HEADER <= length <= 65535 + 18 + HEADER]
    assert [len(data) for _, _, data in rig.wire.sent] == [length - HEADER for length in good]
    assert rig.device.counters["bad_frames"] == len(LENGTHS) - len(good)


@KINDS
def test_frames_of_every_length_arrive(rings: int) -> None:
    rig = Rig(rings=rings, lend=0x1_2000, size=64)
    for length in [length for length in LENGTHS if 14 <= length <= 65535 + 18]:
        whole = HEADER + length
        (at, *_) = rig.offer(*[2048] * -(-whole // 2048))
        data = frame(bytes([length % 251]) * (length - 14))
        assert rig.hear(data)
        sizes = [written for _, written in rig.take()]
        assert sum(sizes) == whole
        assert rig.read(at, whole) == header(buffers=len(sizes)) + data
