"""The vhost-user device and a back-end in one process: what is told, in which order, and what is made of lies."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devproc.registers import CONFIG
from devproc.vhost_user.config import Config
from devproc.vhost_user.kinds import KINDS, Kind, find
from devproc.virtio_spec import Feature
from protocol.errors import BusvmError, ConfigError, HostError, Malformed
from protocol.layout import NO_CALL_VECTOR
from protocol.vhost_user.connection import HEADER, Message
from protocol.vhost_user.messages import PROTOCOL_FEATURES, BackendRequest, Request
from protocol.vhost_user.payloads import (
    U64,
    ConfigSpace,
    MemTable,
    Payload,
    Region,
    SingleRegion,
    VringAddr,
    VringState,
)
from protocol.virtio_types import NUMBERS
from tests.unit.devproc.vhost_user.bench import EVERY, FEATURES, RAM, SIZE, Bench, P, Scripted

Change = Callable[[socket.socket, Message], Payload | None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def back(path: Path) -> Iterator[Scripted]:
    with Scripted(path) as back:
        yield back


# what is told


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_the_back_end_is_told_memory_and_rings_when_the_driver_is_ready(
    back: Scripted, path: Path, transport: str
) -> None:
    with Bench(path, transport=transport) as bench:
        assert "SET_FEATURES" not in dict(back.seen)
        bench.probe()
        queue, size = bench.queue, bench.machine.memory.size

        assert back.of("SET_FEATURES") == [U64(FEATURES | PROTOCOL_FEATURES)]
        assert back.of("ADD_MEM_REG") == [SingleRegion(Region(RAM, size, RAM, 0))]
        assert back.of("SET_VRING_ADDR") == [VringAddr(0, 0, queue.desc, queue.used, queue.avail, 0)]
        assert back.of("SET_VRING_NUM") == [VringState(0, SIZE)]
        assert back.of("SET_VRING_BASE") == [VringState(0, 0)]
        assert back.of("SET_VRING_ENABLE") == [VringState(0, 1)]
        assert [word.value for word in back.of("SET_STATUS")] == [0x0B, 0x0F]  # type: ignore[attr-defined]
        assert bench.device.queue_tables()[0]["given"] == 1


def test_memory_goes_as_a_table_where_there_are_no_slots(path: Path) -> None:
    with Scripted(path, offered=P(0)) as back, Bench(path) as bench:
        bench.probe()
        bench.until(lambda: back.of("SET_VRING_ENABLE"))  # nothing is acknowledged either

        (table,) = back.of("SET_MEM_TABLE")
        assert isinstance(table, MemTable)
        assert len(table.regions) == 1
        assert "SET_STATUS" not in dict(back.seen)


def test_messages_go_straight_to_the_machine_and_follow_the_vector(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        page = bench.machine.page
        bench.probe()
        assert page.call_vector(0) == 1

        bench.device.set_register("queue_msix_vector", 0)
        assert page.call_vector(0) == 0
        bench.device.set_register("device_status", 0)
        assert page.call_vector(0) == NO_CALL_VECTOR


def test_without_messages_the_device_raises_the_wire_itself(path: Path) -> None:
    fds: list[int] = []

    def keep(_sock: socket.socket, message: Message) -> None:
        fds.append(message.take_fd())

    with Scripted(path) as back, Bench(path, transport="mmio") as bench:
        back.changes[Request.SET_VRING_CALL] = keep
        bench.probe()
        os.eventfd_write(fds[0], 1)

        bench.until(lambda: bench.device.isr_status == 1)

        assert bench.machine.irq.word(0) == 1
        os.close(fds[0])


def test_a_ring_that_says_it_is_broken_breaks_the_device(path: Path) -> None:
    fds: list[int] = []

    def keep(_sock: socket.socket, message: Message) -> None:
        fds.append(message.take_fd())

    with Scripted(path) as back, Bench(path) as bench:
        back.changes[Request.SET_VRING_ERR] = keep
        bench.probe()
        os.eventfd_write(fds[0], 1)

        bench.until(lambda: bench.broken)
        os.close(fds[0])


# config space


def test_a_changed_config_space_reaches_the_driver(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        generation = bench.device.config_generation
        back.config[0:8] = (77).to_bytes(8, "little")
        back.tell_config()

        bench.until(lambda: bench.device.config_generation != generation)

        assert bench.device.read(4, 0x2000, 8) == 77
        assert bench.device.counters["config_changes"] == 1


def test_writes_go_to_the_back_end_and_what_it_makes_of_them_is_seen(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        bench.device.write(4, 0x2000 + 32, 1, 0x5A)

        assert back.config[32] == 0x5A
        assert bench.device.read(4, 0x2000 + 32, 1) == 0x5A


def test_one_queue_is_shown_where_one_is_wanted(path: Path) -> None:
    config = bytearray(60)
    config[34:36] = (8).to_bytes(2, "little")
    with Scripted(path, config=bytes(config), features=FEATURES | 1 << 12, queues=8):
        with Bench(path) as bench:
            assert not bench.device.offered & 1 << 12
            assert bench.device.read(4, 0x2000 + 34, 2) == 1
        with Bench(path, queues=4) as bench:
            assert bench.device.offered & 1 << 12
            assert bench.device.read(4, 0x2000 + 34, 2) == 4
            assert bench.device.doorbells == 4


def test_what_belongs_to_the_platform_or_cannot_be_resumed_is_not_offered(path: Path) -> None:
    with Scripted(path, features=(1 << 64) - 1), Bench(path) as bench:
        offered = bench.device.offered

    assert offered & (1 << 24) - 1 == (1 << 24) - 1 - (1 << 12)  # less the feature of several queues
    for bit in (24, 26, 27, 30, 31, 33, 34, 37, 38, 39):
        assert not offered >> bit & 1, bit
    assert offered & Feature.RING_RESET


# the end of a back-end


def test_a_back_end_that_comes_back_is_told_everything_again(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        bench.queue.store(bench.queue.used + 2, 2, 5)  # five requests came back
        back.seen.clear()
        back.hang_up()

        bench.until(lambda: back.of("SET_VRING_ENABLE"))

        assert back.of("SET_VRING_BASE") == [VringState(0, 5)]
        assert back.of("SET_INFLIGHT_FD")
        assert not back.of("GET_INFLIGHT_FD")  # the tables are those of before
        assert bench.device.counters["lost_back_ends"] == 1
        assert not bench.broken
        assert os.eventfd_read(bench.machine.doorbells[0])  # it looks at the ring by itself


def test_tables_are_in_the_page_and_begin_as_the_back_end_made_them(path: Path) -> None:
    given: list[bytes] = []

    def look(_sock: socket.socket, message: Message) -> None:
        tables = message.payload
        fd = message.take_fd()
        given.append(os.pread(fd, 4, tables.mmap_offset))  # type: ignore[attr-defined]
        os.pwrite(fd, b"mine", tables.mmap_offset)  # type: ignore[attr-defined]
        os.close(fd)

    with Scripted(path) as back, Bench(path) as bench:
        back.changes[Request.SET_INFLIGHT_FD] = look
        bench.probe()
        back.hang_up()
        bench.until(lambda: len(given) == 2)
        bench.probe()  # a reset: they begin anew

    assert given == [bytes(4), b"mine", bytes(4)]


@pytest.mark.parametrize(
    ("returned", "same", "goes_on"),
    [(3, False, True), (2, True, True), (2, False, False)],
    ids=["idle", "same", "busy"],
)
def test_without_tables_it_goes_on_only_if_it_is_certain_where(
    path: Path, monkeypatch: pytest.MonkeyPatch, returned: int, same: bool, goes_on: bool
) -> None:
    with Scripted(path, offered=EVERY & ~P.INFLIGHT_SHMFD) as back, Bench(path) as bench:
        bench.probe()
        queue = bench.queue
        for _ in range(3):
            queue.add([(RAM, 1)], [])
        queue.store(queue.used + 2, 2, returned)
        if not same:
            monkeypatch.setattr("devproc.vhost_user.rings.identity", lambda _sock: 1)
        back.seen.clear()
        back.hang_up()

        if goes_on:
            bench.until(lambda: back.of("SET_VRING_ENABLE"))
            assert back.of("SET_VRING_BASE") == [VringState(0, returned)]
        else:
            bench.until(lambda: bench.broken)
            assert not back.of("SET_VRING_BASE")
            bench.device.set_register("device_status", 0)
            bench.until(lambda: bench.device.met)
            bench.probe()
            bench.until(lambda: back.of("SET_VRING_ENABLE"))
        assert not bench.broken


def test_one_that_comes_back_with_less_breaks_the_device_until_a_reset(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        back.features &= ~(1 << 9)
        back.hang_up()
        bench.until(lambda: bench.broken)

        bench.device.set_register("device_status", 0)
        bench.until(lambda: bench.device.met)
        bench.probe()

        assert not bench.broken
        assert not bench.device.negotiated & 1 << 9


def test_one_that_goes_again_and_again_is_given_up_until_a_reset(back: Scripted, path: Path) -> None:
    def hang_up(sock: socket.socket, _message: Message) -> None:
        sock.shutdown(socket.SHUT_RDWR)

    with Bench(path) as bench:
        back.changes[Request.SET_VRING_KICK] = hang_up
        bench.probe()
        bench.until(lambda: bench.broken)
        assert 4 <= back.connections <= 8

        back.changes.clear()
        bench.device.set_register("device_status", 0)
        bench.until(lambda: bench.device.met)
        bench.probe()
        bench.until(lambda: back.of("SET_VRING_ENABLE") and not bench.broken)


# lies


def _bytes(data: bytes) -> Change:
    def send(sock: socket.socket, _message: Message) -> Payload | None:
        sock.send(data)
        return None

    return send


def _refuse(_sock: socket.socket, _message: Message) -> Payload | None:
    raise Malformed("no")


def _frame(number: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(number, flags, len(body)) + body


LIES = {
    "noise": _bytes(random.Random(1).randbytes(64)),
    "version": _bytes(_frame(11, 4, bytes(8))),
    "length": _bytes(_frame(11, 5, bytes(3))),
    "endless": _bytes(HEADER.pack(11, 5, 1 << 30)),
    "another": _bytes(_frame(99, 5, bytes(8))),
    "request": _bytes(_frame(11, 1, bytes(8))),
    "refusal": _refuse,
    "twice": _bytes(_frame(39, 5, bytes(8)) * 2),
}
ASKED = (
    Request.SET_FEATURES,
    Request.ADD_MEM_REG,
    Request.SET_INFLIGHT_FD,
    Request.GET_INFLIGHT_FD,
    Request.SET_VRING_KICK,
    Request.SET_STATUS,
)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("request_", ASKED, ids=lambda request: request.name)
def test_lies_break_the_device_and_nothing_else(back: Scripted, path: Path, lie: str, request_: Request) -> None:
    with Bench(path) as bench:
        back.changes[request_] = LIES[lie]
        bench.probe()
        bench.until(lambda: bench.broken or bench.device.counters["lost_back_ends"])

        back.changes.clear()
        bench.device.set_register("device_status", 0)
        bench.until(lambda: bench.device.met)
        bench.probe()
        bench.until(lambda: back.of("SET_VRING_ENABLE") and not bench.broken)


@pytest.mark.parametrize("data", [b"x" * 12, _frame(2, 1, b"q" * 9), _frame(77, 1, b""), _frame(6, 1, bytes(16))])
def test_lies_on_the_back_ends_channel_too(back: Scripted, path: Path, data: bytes) -> None:
    with Bench(path) as bench:
        bench.probe()
        assert back.channel is not None
        back.channel.socket.send(data)

        bench.until(lambda: bench.broken)


def test_a_request_in_the_middle_of_another_is_answered(path: Path) -> None:
    answers: list[int] = []

    def ask_back(_sock: socket.socket, _message: Message) -> None:
        assert back.channel is not None
        back.channel.socket.settimeout(5)
        back.channel.send(BackendRequest.CONFIG_CHANGE_MSG, flags=8)
        answers.append(back.channel.receive_reply(BackendRequest.CONFIG_CHANGE_MSG, ack=True).get(U64).value)

    with Scripted(path) as back, Bench(path) as bench:
        back.changes[Request.SET_VRING_NUM] = ask_back
        back.config[0] = 9
        bench.probe()
        bench.until(lambda: bench.device.read(4, 0x2000, 8) == 9)

    assert answers == [0]


def test_a_config_space_that_goes_away_breaks_the_device(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        back.changes[Request.GET_CONFIG] = lambda _sock, _message: ConfigSpace(0, 0, b"")
        back.tell_config()

        bench.until(lambda: bench.broken)


# what does not begin


@pytest.mark.parametrize(
    ("shape", "device", "queues", "error", "text"),
    [
        ({"queues": 2}, "blk", 4, ConfigError, "has 2 queues, 4 are wanted"),
        ({"features": 1 << 9}, "blk", 1, ConfigError, "legacy"),
        ({"queues": 8, "offered": P.MQ}, "fs", 1, ConfigError, "--tag is missing"),
    ],
)
def test_back_ends_that_do_not_fit(
    path: Path, shape: dict[str, object], device: str, queues: int, error: type[BusvmError], text: str
) -> None:
    with Scripted(path, **shape), pytest.raises(error, match=text):  # type: ignore[arg-type]
        Bench(path, device, queues=queues)


def test_somebody_else_at_the_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        with pytest.raises(HostError, match="no back-end") as error:
            Bench(path.with_name("nobody"))
        assert "--wait" in str(error.value.hint)


def test_rings_outside_memory_are_the_guests_mistake(back: Scripted, path: Path) -> None:
    with Bench(path) as bench:
        bench.probe()
        bench.device.set_register("device_status", 0)
        back.seen.clear()
        bench.queue.desc = 0x10
        probe = bench.queue
        bench.device.set_register("device_status", 3)
        bench.device.set_register("driver_feature_select", 1)
        bench.device.set_register("driver_feature", 1)
        bench.device.set_register("device_status", 11)
        bench.set_up(0)
        bench.ready()

        assert bench.broken
        assert probe.desc == 0x10
        assert not back.of("SET_VRING_ADDR")


@pytest.mark.parametrize("name", [*NUMBERS, "63"])
def test_every_type_of_the_specification_can_be_connected(path: Path, name: str) -> None:
    kind = KINDS.get(name, Kind())
    with Scripted(path, queues=64, config=bytes(256)), Bench(path, name) as bench:
        assert bench.device.read(CONFIG.index, 0, 4) == (0x1040 + NUMBERS.get(name, 63)) << 16 | 0x1AF4
        assert bench.device.read(CONFIG.index, 8, 4) >> 8 == kind.class_code
        assert bench.device.doorbells == kind.fixed + kind.each


def test_types_have_numbers_of_their_own() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert set(KINDS) <= set(NUMBERS)
    for text in ("0", "64", "²", "disk"):
        with pytest.raises(ConfigError, match="no type of virtio device"):
            find(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tag": "x"}, "--tag is for --device fs"),
        ({"mac": "52:54:00:12:34:56"}, "--mac is for --device net"),
        ({"device": "fs", "tag": "x" * 37}, "--tag has more than 36 bytes"),
        ({"device": "net", "mac": "52:54"}, "six pairs"),
    ],
)
def test_options_of_one_type_are_checked(path: Path, change: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Config(
            **{"socket": path, "device": "blk", "number": 2, "kind": Kind(), "queues": 1, "queue_size": 8} | change
        ).check()  # type: ignore[arg-type]


def test_the_arguments_make_the_config_space_where_the_back_end_has_none(path: Path) -> None:
    name, number, kind = find("net")
    with (
        Scripted(path, offered=P.MQ, queues=2, features=FEATURES | 1 << 5 | 1 << 16 | 1 << 15),
        Bench(path, "net") as bench,
    ):
        assert bench.device.config_size == 0
        assert bench.device.offered & (1 << 5 | 1 << 16 | 1 << 15) == 1 << 15  # an address that nobody knows
    card = Config(path, name, number, kind, 1, 8, mac="52:54:00:12:34:56")
    assert card.own_space() == (bytes.fromhex("525400123456") + b"\1\0" + b"\1\0", 1 << 5 | 1 << 16)
    folder = Config(path, "fs", 26, KINDS["fs"], 3, 8, tag="home")
    assert folder.own_space() == (b"home".ljust(36, b"\0") + b"\3\0\0\0", 0)
