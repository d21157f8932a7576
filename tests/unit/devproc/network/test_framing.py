"""Frames on a stream: bursts, a peer that is slow, stalls, lies or leaves, and a card without room."""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN
from devproc.network.frame import FRAME_MAX, HEADER
from devproc.network.framing import STALL_S, Framing
from tests.unit.devproc.network.cards import ScriptedCard, sleeps, turn_until
from tests.unit.devproc.vhost_rig import open_fds


class Wire:
    """A framing and, at its other end, a bare socket."""

    def __init__(self, family: str, headers: bool, free: int = 1 << 30) -> None:
        self.now = 100.0
        self.descriptors = Descriptors()
        self.card = ScriptedCard(free)
        self.counters: dict[str, int] = {}
        self.reasons: list[str] = []
        ours, self.peer = socket.socketpair() if family == "unix" else tcp_pair()
        self.framing = Framing(
            ours,
            self.descriptors,
            self.card,
            self.reasons.append,
            self.counters,
            headers=headers,
            clock=lambda: self.now,
        )

    def until(self, done: Callable[[], object]) -> None:
        turn_until(self.descriptors, done)

    def read(self, size: int) -> bytes:
        """Read so many bytes as the peer, while the device goes on."""
        self.peer.setblocking(False)
        found = bytearray()

        def enough() -> bool:
            try:
                found.extend(self.peer.recv(size - len(found)))
            except BlockingIOError:
                pass
            return len(found) == size

        self.until(enough)
        return bytes(found)

    def fill(self) -> int:
        """Send until the peer, which does not read, has no room; return the number of frames on their way."""
        for count in range(10_000):
            if not self.framing.send(PLAIN, [memoryview(frame(1500))]):
                return count
            self.framing.flush()
        raise AssertionError("it never waits")

    def close(self) -> None:
        self.framing.close()
        self.peer.close()
        self.descriptors.close()


Make = Callable[..., Wire]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def frame(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 100_000 + size).randbytes(size)


def pour(peer: socket.socket) -> None:
    for _ in range(1000):
        peer.send(bytes(1 << 16))


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(each)) + each for each in frames)


@pytest.fixture
def wire() -> Iterator[Make]:
    before = open_fds()
    made: list[Wire] = []

    def make(family: str = "unix", *, headers: bool = False, free: int = 1 << 30) -> Wire:
        made.append(Wire(family, headers, free))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert open_fds() == before


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_burst_leaves_in_order(wire: Make, family: str) -> None:
    line = wire(family)
    frames = [frame(size) for size in (60, 1514, 14, FRAME_MAX)]
    for each in frames:
        whole = memoryview(each)
        assert line.framing.send(PLAIN, [whole[:10], whole[10:]])
    line.framing.flush()
    assert line.read(len(framed(*frames))) == framed(*frames)


def test_headers_go_with_the_frames_both_ways(wire: Make) -> None:
    line = wire(headers=True)
    header = bytes(range(HEADER))
    assert line.framing.send(header, [memoryview(frame(100))])
    line.framing.flush()
    assert line.read(4 + HEADER + 100) == framed(header + frame(100))
    line.peer.sendall(framed(header + frame(60), PLAIN + frame(70)))
    line.until(lambda: len(line.card.frames) == 2)
    assert line.card.frames == [frame(60), frame(70)]
    assert line.card.headers == [header, PLAIN]


def test_a_frame_of_very_many_pieces_leaves_whole(wire: Make) -> None:
    line = wire()
    data = frame(4000)
    assert line.framing.send(PLAIN, [memoryview(data)[at : at + 1] for at in range(4000)])
    line.framing.flush()
    assert line.read(4004) == framed(data)


def test_frames_arrive_however_they_are_cut(wire: Make) -> None:
    line = wire()
    frames = [frame(14 + 97 * i % 9000, i) for i in range(60)] + [frame(FRAME_MAX)]
    stream, dice = framed(*frames), random.Random(1)
    while stream:
        cut = dice.choice((1, 3, 5, 100, 5000, 60_000))
        line.peer.sendall(stream[:cut])
        stream = stream[cut:]
        line.descriptors.turn()
    line.until(lambda: len(line.card.frames) == len(frames))
    assert line.card.frames == frames
    assert sleeps(line.descriptors)


def test_without_room_frames_stay_and_the_peer_waits(wire: Make) -> None:
    line = wire(free=3)
    frames = [frame(1000, i) for i in range(10)]
    line.peer.sendall(framed(*frames))
    line.until(lambda: line.card.refused)
    assert sleeps(line.descriptors)
    line.card.free = 2
    line.framing.listen(wanted=True)
    assert len(line.card.frames) == 3  # not from in there
    line.until(lambda: len(line.card.frames) == 5)
    line.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        pour(line.peer)
    line.card.free = 5
    line.framing.listen(wanted=True)
    line.until(lambda: len(line.card.frames) == 10)
    assert line.card.frames == frames


def test_who_does_not_listen_reads_nothing(wire: Make) -> None:
    line = wire()
    line.framing.listen(wanted=False)
    line.peer.sendall(framed(frame(60)))
    assert sleeps(line.descriptors)
    line.framing.listen(wanted=True)
    line.until(lambda: line.card.frames)


def test_a_slow_peer_makes_the_guest_wait_and_loses_nothing(wire: Make) -> None:
    line = wire()
    count = line.fill()
    assert not line.framing.send(PLAIN, [memoryview(b"x" * 60)])
    assert not line.card.written
    assert line.read(count * 1504) == framed(*[frame(1500)] * count)
    line.until(lambda: line.card.written == 1)
    assert line.framing.send(PLAIN, [memoryview(b"x" * 60)])
    line.framing.flush()
    assert line.read(64) == framed(b"x" * 60)
    assert not line.counters["frames_peer_slow"]


def test_a_stalled_peer_loses_frames_until_it_reads(wire: Make) -> None:
    line = wire()
    count = line.fill()
    line.now += STALL_S * 1.1
    line.until(lambda: line.card.written == 1)  # the guest is told to go on …
    for lost in range(1, 4):
        assert line.framing.send(PLAIN, [memoryview(frame(60))])  # … and its frames are lost
        assert line.counters["frames_peer_slow"] == lost
    assert sleeps(line.descriptors)
    assert line.read(count * 1504) == framed(*[frame(1500)] * count)
    assert line.framing.send(PLAIN, [memoryview(b"y" * 60)])
    line.framing.flush()
    assert line.read(64) == framed(b"y" * 60)
    assert line.counters["frames_peer_slow"] == 3


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize("listening", [True, False])
def test_a_peer_that_leaves(wire: Make, family: str, listening: bool) -> None:
    line = wire(family)
    line.framing.listen(wanted=listening)
    line.fill()
    line.peer.close()
    line.until(lambda: line.reasons)
    assert len(line.reasons) == 1
    assert line.card.written == 1  # who waited need not any longer
    assert line.framing.send(PLAIN, [memoryview(bytes(60))])
    line.framing.flush()


@pytest.mark.parametrize("listening", [True, False])
def test_a_peer_that_shuts_its_ear(wire: Make, listening: bool) -> None:
    line = wire()
    line.framing.listen(wanted=listening)
    line.peer.shutdown(socket.SHUT_RD)
    line.framing.send(PLAIN, [memoryview(bytes(60))])
    line.framing.flush()
    assert not line.reasons  # whoever sends is in the middle of something
    line.until(lambda: line.reasons)


def test_lengths_that_no_frame_has(wire: Make) -> None:
    line = wire()
    line.peer.sendall(framed(b"", bytes(13), frame(60)))
    line.until(lambda: line.card.frames)
    assert line.counters["frames_too_short"] == 2
    line.peer.sendall(struct.pack(">I", FRAME_MAX + 1))
    line.until(lambda: line.reasons)
    assert line.counters["bad_lengths"] == 1
    assert "65554 bytes" in line.reasons[0]


def test_a_frame_that_is_too_long_is_lost(wire: Make) -> None:
    line = wire()
    assert line.framing.send(PLAIN, [memoryview(bytes(FRAME_MAX + 1))])
    line.framing.flush()
    assert line.counters["frames_too_long"] == 1
    assert sleeps(line.descriptors)


@pytest.mark.parametrize("seed", range(10))
def test_any_bytes_end_in_frames_or_the_end(wire: Make, seed: int) -> None:
    line = wire(headers=bool(seed % 2))
    line.peer.sendall(struct.pack(">I", 100) + random.Random(seed).randbytes(5000))
    line.peer.close()
    line.until(lambda: line.reasons)


def test_what_leaves_at_once_is_whole_frames() -> None:
    """passt 2023 reads on in the middle of nowhere after a read that ended inside a length; messages show the cuts."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptors, counters = Descriptors(), dict[str, int]()
    framing = Framing(ours, descriptors, ScriptedCard(), print, counters)
    frames = [frame(size, index) for index, size in enumerate((1514, 60, 9000, 31_000, 65_000, 14) * 8)]
    seen = b""
    for each in frames:
        assert framing.send(PLAIN, [memoryview(each)])
        while select.select([peer], [], [], 0)[0]:
            seen += cut(peer.recv(1 << 17))
    framing.flush()
    while select.select([peer], [], [], 0)[0]:
        seen += cut(peer.recv(1 << 17))
    assert seen == framed(*frames)
    framing.close()
    peer.close()
    descriptors.close()


def cut(message: bytes) -> bytes:
    """Return a message, which has to be of whole frames, and of one if it is large."""
    at = count = 0
    while at < len(message):
        at, count = at + 4 + int.from_bytes(message[at : at + 4], "big"), count + 1
    assert at == len(message)
    assert len(message) < 33_000 or count == 1
    return message
