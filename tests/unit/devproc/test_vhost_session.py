"""The block device for a front-end in the same process: negotiation, memory, rings, and front-ends that do it wrong."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.listening import Socket
from devproc.vhost_memory import MEMORY_SLOTS
from devproc.vhost_session import OFFERED
from devproc.virtio_blk.spec import BlkFeature
from devproc.virtio_spec import Feature, Status
from protocol.errors import ConfigError, HostError, PeerGone, ProtocolError, Refused
from protocol.vhost_user.connection import HEADER
from protocol.vhost_user.front_end import FrontEnd, event
from protocol.vhost_user.messages import LOG_ALL, BackendRequest, ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, Inflight, Region, VringAddr, VringState
from tests.conformance.front_end import BASE, GET_ID, IN, OUT, UADDR, WANTED, Guest
from tests.unit.devproc.vhost_rig import SECTORS, Rig, open_fds

P = ProtocolFeature
EVERY = ~P(0)


def test_what_is_offered_and_the_config_space(rig: Rig) -> None:
    with rig.connect() as front:
        offered = front.word(Request.GET_FEATURES)
        front.negotiate(0, EVERY)
        config = front.config(60)

        assert offered & Feature.VERSION_1
        assert offered & BlkFeature.FLUSH
        assert offered & BlkFeature.MQ
        assert not offered & Feature.RING_RESET
        assert front.protocol_features == OFFERED
        assert offered & LOG_ALL
        assert not OFFERED & (P.INBAND_NOTIFICATIONS | P.PAGEFAULT | P.DEVICE_STATE)
        assert int.from_bytes(config[:8], "little") == SECTORS
        assert int.from_bytes(config[12:16], "little") == 126
        assert front.config(256)[:60] == config
        assert front.config(4, 0x14) == (512).to_bytes(4, "little")
        assert front.word(Request.GET_QUEUE_NUM) == 2
        assert front.word(Request.GET_MAX_MEM_SLOTS) == MEMORY_SLOTS


@pytest.mark.parametrize("protocol", [EVERY, P.CONFIG | P.MQ, P(0)])
@pytest.mark.parametrize("features", [WANTED, int(Feature.VERSION_1), 0])
def test_requests_with_every_kind_of_ring(rig: Rig, protocol: P, features: int) -> None:
    with Guest(features=features, indirect=bool(features & Feature.RING_INDIRECT_DESC)) as guest:
        guest.connect(rig.connect(), protocol=protocol)

        assert guest.do(GET_ID, length=20) == (0, b"V1".ljust(20, b"\0"))
        assert guest.do(OUT, 5, b"x" * 1024) == (0, b"")
        assert guest.do(IN, 5, length=1536)[1] == b"x" * 1024 + (7).to_bytes(4, "little") * 128
        heads = [guest.submit(IN, n, length=512) for n in range(20)]
        guest.ring()
        found: dict[int, tuple[int, bytes]] = {}
        while len(found) < 20:
            found |= guest.collect()
        assert [found[head][1][:4] for head in heads[10:]] == [n.to_bytes(4, "little") for n in range(10, 20)]
    assert rig.image.read_bytes()[5 * 512 : 7 * 512] == b"x" * 1024


def test_write_back_is_the_guest_s_choice(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    assert not rig.device.durable

    guest.front.set_config(0x20, b"\0")

    assert guest.front.config(1, 0x20) == b"\0"
    assert rig.device.durable
    guest.front.set_config(0, bytes(8))  # read-only, so that nothing happens
    assert guest.front.config(8) == SECTORS.to_bytes(8, "little")
    with pytest.raises(Refused):
        guest.front.set_config(60, b"\0")


def test_a_stopped_ring_is_finished_and_goes_on_where_it_was(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    for _ in range(5):
        for n in range(20):
            guest.submit(OUT, n, bytes([n]) * 4096)
        guest.ring()
        position = guest.pause()

        finished = guest.collect(0.5)  # whatever was taken is returned; the rest is the successor's
        assert position == guest.queue.load(guest.queue.used + 2, 2)
        guest.start(position)
        while len(finished) < 20:
            finished |= guest.collect()
        assert all(status == 0 for status, _ in finished.values())


def test_a_disabled_ring_is_not_served(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    guest.front.tell(Request.SET_VRING_ENABLE, VringState(0, 0))
    guest.submit(IN, 1, length=512)
    os.eventfd_write(guest.kick, 1)

    assert guest.collect(0.2) == {}
    guest.front.tell(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert len(guest.collect()) == 1


def test_front_ends_come_and_go(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    guest.do(IN, 1, length=512)
    guest.front.close()
    waiting = rig.connect()  # a second one waits until the first has gone
    third = rig.connect()
    guest.connect(waiting, base=1)

    assert guest.do(IN, 2, length=512)[1][:4] == b"\2\0\0\0"
    waiting.close()
    assert third.word(Request.GET_FEATURES) & Feature.VERSION_1
    third.close()


def test_memory_comes_and_goes_under_a_running_ring(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    more = os.memfd_create("more")
    os.ftruncate(more, 1 << 20)
    extra = Region(BASE - (1 << 20), 1 << 20, 0x1000, 0)

    for _ in range(5):
        for n in range(20):
            guest.submit(OUT, n, bytes([n]) * 4096)
        guest.ring()
        guest.front.add_region(extra, more)
        finished = guest.collect()
        guest.front.remove_region(extra)
        while len(finished) < 20:
            finished |= guest.collect()
        assert all(status == 0 for status, _ in finished.values())
    with pytest.raises(Refused):
        guest.front.remove_region(extra)
    os.close(more)


def test_buffers_outside_of_memory_break_the_ring_and_say_so(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    err = event()
    guest.front.tell(Request.SET_VRING_ERR, U64(0), [err])
    guest.queue.add([(BASE - 4096, 16)], [(BASE + 4096, 1)])
    guest.ring()

    assert guest.collect(0.3) == {}
    assert os.eventfd_read(err) == 1
    os.close(err)
    assert guest.front.word(Request.GET_QUEUE_NUM) == 2


def test_a_ring_that_was_broken_can_be_started_again(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect(), protocol=P.CONFIG | P.REPLY_ACK)
    guest.queue.add([(BASE - 4096, 16)], [(BASE + 4096, 1)])
    guest.ring()
    assert guest.collect(0.3) == {}

    position = guest.pause()
    guest.start(position)

    assert position == 1
    assert guest.do(IN, 3, length=512)[1][:4] == b"\3\0\0\0"


def test_memory_in_pieces_has_holes(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    high = os.memfd_create("high")
    os.ftruncate(high, 4096)
    far = BASE + (1 << 32)
    guest.front.add_region(Region(far, 4096, 0x1000, 0), high)
    guest.memory.write(BASE + (1 << 20), bytes(16))
    header, status = (BASE + (1 << 20), 16), (BASE + (1 << 20) + 16, 1)

    head = guest.queue.add([header], [(far, 512), status])
    guest.ring()
    while not (found := guest.queue.collect()):
        assert guest.front.word(Request.GET_QUEUE_NUM) == 2
    assert found == [(head, 513)]
    guest.queue.add([header], [(far - 512, 512), status])
    guest.ring()

    assert guest.collect(0.3) == {}
    assert rig.device.counters["bad_rings"] == 1
    os.close(high)


def test_reset_by_message_and_by_status(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    guest.do(IN, 1, length=512)
    front = guest.front
    front.tell(Request.SET_STATUS, U64(int(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)))
    assert front.word(Request.GET_STATUS) == 15
    for reset in (lambda: front.tell(Request.SET_STATUS, U64(0)), lambda: front.tell(Request.RESET_DEVICE)):
        reset()
        assert front.word(Request.GET_STATUS) == 0
        guest.submit(IN, 1, length=512)
        os.eventfd_write(guest.kick, 1)
        assert guest.collect(0.1) == {}
        front.tell(Request.SET_FEATURES, U64(front.features))
        guest.start(guest.queue.load(guest.queue.used + 2, 2))
        assert len(guest.collect()) == 1


def test_a_front_end_that_resets_the_status_first_is_told_the_position(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    front = guest.front
    for n in range(7):
        guest.submit(OUT, n, bytes([n]) * 512)
    guest.ring()

    front.tell(Request.SET_STATUS, U64(0))  # as QEMU 7.2 stops its guest
    position = front.stop_ring(0)

    assert position == guest.queue.load(guest.queue.used + 2, 2)
    front.tell(Request.SET_FEATURES, U64(front.features))
    guest.start(position)
    finished = guest.collect()
    while len(finished) < 7:
        finished |= guest.collect()
    assert all(status == 0 for status, _ in finished.values())
    front.tell(Request.RESET_DEVICE)
    assert front.stop_ring(0) == 0


def test_stopping_a_ring_does_what_the_limits_hold_back(tmp_path: Path, guest: Guest) -> None:
    rig = Rig(tmp_path, iops=2)
    guest.connect(rig.connect(), protocol=P.CONFIG | P.REPLY_ACK)  # nobody keeps tables
    for n in range(20):
        guest.submit(OUT, n, bytes([n]) * 512)
    guest.ring()

    assert guest.collect()
    position = guest.pause()

    assert position == 20 == guest.queue.load(guest.queue.used + 2, 2)
    guest.front.close()
    rig.close()


def test_a_ring_without_a_kick_is_polled(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    guest.front.tell(Request.SET_VRING_KICK, U64(0x100))
    guest.submit(IN, 3, length=512)

    assert len(guest.collect()) == 1


def test_the_device_tells_of_a_new_config_space(rig: Rig) -> None:
    with rig.connect() as front, Guest() as guest:
        guest.connect(front)
        channel = front.back_channel()
        rig.server.call(rig.device.config_changed).result(5)

        message = channel.receive()
        assert message is not None
        assert message.kind is BackendRequest.CONFIG_CHANGE_MSG
        channel.close()


def log_without(front: FrontEnd, fd: int) -> None:
    """Ask for a log of a ring's used entries, and give none."""
    os.ftruncate(fd, 4096)
    front.share([(Region(0, 4096, 4096, 0), fd)])
    front.tell(Request.SET_VRING_NUM, VringState(0, 4))
    front.tell(Request.SET_VRING_ADDR, VringAddr(0, 1, 4096, 4096 + 512, 4096 + 256, 0))
    kick = event()
    try:
        front.tell(Request.SET_VRING_KICK, U64(0), [kick])
    finally:
        os.close(kick)


Ask = Callable[[FrontEnd, int], object]
WRONG: dict[str, Ask] = {
    "a feature that was not offered": lambda f, _: f.tell(Request.SET_FEATURES, U64(1 << 40)),
    "a ring that is not there": lambda f, _: f.tell(Request.SET_VRING_NUM, VringState(2, 64)),
    "a size that is no power of two": lambda f, _: f.tell(Request.SET_VRING_NUM, VringState(0, 100)),
    "a size of nothing": lambda f, _: f.tell(Request.SET_VRING_NUM, VringState(0, 0)),
    "a size beyond all": lambda f, _: f.tell(Request.SET_VRING_NUM, VringState(0, 2048)),
    "a position beyond all": lambda f, _: f.tell(Request.SET_VRING_BASE, VringState(0, 1 << 16)),
    "enabled twice": lambda f, _: f.tell(Request.SET_VRING_ENABLE, VringState(0, 2)),
    "a channel that is no socket": lambda f, fd: f.tell(Request.SET_BACKEND_REQ_FD, fds=[fd]),
    "a kick that is a file": lambda f, fd: f.tell(Request.SET_VRING_KICK, U64(0), [fd]),
    "memory beyond its file": lambda f, fd: f.share([(Region(0, 1 << 30, 0, 0), fd)]),
    "memory that overlaps": lambda f, fd: f.share([(Region(0, 4096, 0, 0), fd), (Region(0, 4096, 0, 0), fd)]),
    "in-flight tables beyond their file": lambda f, fd: f.tell(
        Request.SET_INFLIGHT_FD, Inflight(1 << 20, 0, 1, 64), [fd]
    ),
    "in-flight tables for nothing": lambda f, fd: f.tell(Request.SET_INFLIGHT_FD, Inflight(64, 0, 2, 64), [fd]),
    "logging without a log": log_without,
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_and_the_rest_goes_on(rig: Rig, guest: Guest, what: str) -> None:
    with rig.connect() as front:
        front.negotiate(WANTED, EVERY)
        fd = os.memfd_create("wrong")
        os.ftruncate(fd, 4096)
        file = os.open(rig.image, os.O_RDONLY)
        wrong = file if "file" in what and "kick" in what else fd

        with pytest.raises(Refused):
            WRONG[what](front, wrong)

        os.close(fd)
        os.close(file)
        guest.connect(front)
        assert guest.do(IN, 9, length=512)[1][:4] == b"\x09\0\0\0"


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_and_nobody_is_told_ends_the_connection(rig: Rig, what: str) -> None:
    with rig.connect() as front:
        front.negotiate(WANTED, EVERY & ~P.REPLY_ACK)
        file = os.open(rig.image, os.O_RDONLY)
        fd = os.memfd_create("wrong")
        try:
            WRONG[what](front, file if "kick" in what else fd)
            with pytest.raises(PeerGone):
                front.word(Request.GET_FEATURES)
        finally:
            os.close(fd)
            os.close(file)
    with rig.connect() as front:
        assert front.word(Request.GET_FEATURES)


def test_rings_in_wrong_places_are_refused(rig: Rig, guest: Guest) -> None:
    guest.connect(rig.connect())
    front = guest.front
    for desc, avail, used in (
        (UADDR - 16, UADDR, UADDR),
        (UADDR + 8, UADDR + 4096, UADDR + 8192),
        (UADDR, UADDR + (16 << 20) - 8, UADDR + 8192),
        (UADDR, UADDR + 4096, (1 << 64) - 8),
    ):
        front.tell(Request.SET_VRING_NUM, VringState(1, 64))
        front.tell(Request.SET_VRING_ADDR, VringAddr(1, 0, desc, used, avail, 0))
        with pytest.raises(Refused):
            front.tell(Request.SET_VRING_KICK, U64(1), [guest.kick])
    with pytest.raises(Refused):
        front.tell(Request.SET_VRING_NUM, VringState(0, 32))  # it is running
    with pytest.raises(Refused):
        front.remove_region(Region(guest.region.gpa, guest.region.size, UADDR, 0))  # a ring lies in it


def test_any_bytes_leave_the_server_serving(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    before = open_fds()
    number = st.one_of(st.sampled_from(sorted(map(int, Request))), st.integers(0, 60))
    message = st.builds(
        lambda n, flags, body: HEADER.pack(n, flags | 1, len(body)) + body,
        number,
        st.sampled_from([0, 8, 8, 4]),
        st.one_of(st.binary(max_size=48), st.integers(0, 1 << 9).map(lambda n: n.to_bytes(8, "little"))),
    )

    @settings(max_examples=150, deadline=None)
    @given(st.lists(message, max_size=8), st.binary(max_size=20), st.integers(0, 2))
    def attack(messages: list[bytes], tail: bytes, fds: int) -> None:
        with rig.connect() as front:
            front.negotiate(WANTED, EVERY)
            sock = front.connection.socket
            fd = event()
            try:
                for data in messages:
                    socket.send_fds(sock, [data], [fd] * fds)
                if tail:
                    sock.send(tail)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
            except OSError:
                pass
            finally:
                os.close(fd)

    attack()
    with Guest() as guest:
        guest.connect(rig.connect())
        assert guest.do(IN, 9, length=512)[1][:4] == b"\x09\0\0\0"
    with rig.connect() as front:
        front.word(Request.GET_FEATURES)  # so that the one before has gone
        assert open_fds() <= before + 2
    rig.close()


def test_the_socket_is_private_and_gives_way_only_when_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    place = Socket.at(path)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(HostError, match="another process listens"):
        Socket.at(path)
    place.socket.close()  # as if it had been killed
    again = Socket.at(path)
    again.close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(HostError, match="no socket"):
        Socket.at(path)
    with pytest.raises(HostError):
        Socket.at(tmp_path / "missing" / "socket")
    assert list(tmp_path.iterdir()) == [path]


def test_descriptors_that_are_no_sockets_are_refused() -> None:
    fd = os.memfd_create("x")
    with pytest.raises(ConfigError):
        Socket.inherited(fd)
    os.close(fd)
    assert issubclass(Refused, ProtocolError)
