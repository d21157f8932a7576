"""The client: doorbells, joins and leaves, the server's death and return, mean servers, asyncio, the command."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.ivshmem import commands
from devproc.ivshmem.client import Client, ServerBack, ServerGone, connect, connect_async
from protocol import ivshmem
from protocol.errors import BusvmError, Malformed, NotFound, PeerGone, Refused, VersionMismatch
from protocol.ivshmem import Joined, Left
from protocol.memory import sealed
from tests.unit.devproc.ivshmem.rig import Process, Raw, Threaded
from tests.unit.devproc.vhost_rig import open_fds


@pytest.fixture
def no_descriptor_stays() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def server(tmp_path: Path, no_descriptor_stays: None) -> Iterator[Threaded]:
    with Threaded(tmp_path, vectors=2, size=8192) as made:
        yield made


@pytest.fixture
def process(tmp_path: Path, no_descriptor_stays: None) -> Iterator[Process]:
    made = Process(tmp_path, "--vectors", "2", "--size", "8K")
    yield made
    made.close()


def test_two_share_memory_and_ring_each_other(server: Threaded) -> None:
    with connect(server.path) as a, connect(server.path, name="b") as b:
        assert a.wait_event(2) == Joined(1)
        assert (a.id, a.peers, b.peers, len(b.memory)) == (0, {1: 2}, {0: 2}, 8192)
        a.memory[0:5] = b"hello"
        assert bytes(b.memory[0:5]) == b"hello"
        a.ring(1, 1)
        a.ring(1, 1)
        assert (b.wait(1, 2), b.wait(1, 0), b.wait(0, 0.01)) == (2, 0, 0)
        a.ring(0)
        assert a.wait(0, 2) == 1
        with pytest.raises(NotFound, match="no peer 5"):
            a.ring(5)
        with pytest.raises(NotFound, match="no vector 2: peer 1 has 2"):
            a.ring(1, 2)
        with pytest.raises(NotFound, match="no vector 9"):
            a.wait(9, 0)
        with pytest.raises(Refused, match="name taken"):
            connect(server.path, name="b")
    with connect(server.path, name="b") as b:
        assert b.id == 1


def test_version_0_is_spoken_with_a_server_that_knows_no_more(server: Threaded) -> None:
    server.path.with_name("s.busvm").unlink()
    with connect(server.path) as a, connect(server.path) as b:
        assert a.wait_event(2) == Joined(1)
        assert (b.vectors, b.peers) == (2, {0: 2})
        b.ring(0, 1)
        assert a.wait(1, 2) == 1


def test_killed_peers_are_told_of(server: Threaded) -> None:
    with connect(server.path) as me:
        command = [sys.executable, "-m", "devproc.ivshmem.client", str(server.path), "wait"]
        peer = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert me.wait_event(10) == Joined(1)
        peer.kill()
        peer.communicate()
        assert me.wait_event(5) == Left(1)


def test_a_killed_server_takes_nothing_along_and_gives_ids_back(process: Process) -> None:
    with connect(process.path) as a, connect(process.path, name="b") as b:
        assert a.wait_event(2) == Joined(1)
        a.memory[0:4] = b"kept"
        before = os.dup(a.doorbell(1))
        process.kill()
        assert a.wait_event(5) == ServerGone()
        a.ring(1)
        assert b.wait(0, 2) == 1
        process.start()
        assert [b.wait_event(5), b.wait_event(5)] == [ServerGone(), ServerBack()]
        assert a.wait_event(5) == ServerBack()
        assert (a.id, b.id, bytes(b.memory[0:4])) == (0, 1, b"kept")
        with connect(process.path) as late:  # sealed memory is found again at who has it
            assert (late.id, bytes(late.memory[0:4])) == (2, b"kept")
            os.eventfd_write(before, 1)  # by the descriptor of old, which a QEMU would have
            assert a.wait(1, 2) == 1
            os.close(before)
            late.ring(1, 1)
            assert b.wait(1, 2) == 1


def test_a_peer_of_version_0_is_reached_after_the_server_was_started_again(process: Process) -> None:
    qemu = Raw(process.path)
    with connect(process.path) as a:
        assert a.peers == {0: 2}
        process.kill()
        process.start()
        assert [a.wait_event(5), a.wait_event(5)] == [ServerGone(), ServerBack()]
        with connect(process.path) as late:
            assert (a.id, late.id, late.peers) == (1, 2, {0: 2, 1: 2})
    qemu.receiver.close()
    qemu.socket.close()


def test_other_memory_is_not_taken_for_the_old(process: Process) -> None:
    with connect(process.path) as a:
        process.kill()
        process.path.with_name("s.peers").unlink()
        process.start()
        assert a.wait_event(5) == ServerGone()
        with pytest.raises(Refused, match="other memory"):
            a.wait_event(5)


class Mean:
    """A server that sends what a test wants, then hangs up."""

    def __init__(self, path: Path, words: list[tuple[int, str]], rest: bytes = b"") -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._words, self._rest = words, rest
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        peer, _ = self._listener.accept()
        made = {"eventfd": os.eventfd(0), "memory": sealed("x", 4096), "null": os.open("/dev/null", os.O_RDWR)}
        try:
            for value, kind in self._words:
                ivshmem.send(peer, value, made[kind] if kind else None)
            peer.sendall(self._rest)
        except OSError:
            pass
        for fd in made.values():
            os.close(fd)
        peer.close()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


BEGIN = [(0, ""), (4, ""), (-1, "memory")]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([(1, "")], VersionMismatch, "version 1"),
        ([(0, ""), (65536, "")], Malformed, "65536 is no id"),
        ([(0, ""), (4, "eventfd")], Malformed, "with a descriptor in place of an id"),
        ([(0, ""), (4, ""), (-1, "")], Malformed, "without a descriptor in place of the shared memory"),
        ([*BEGIN, (4, "null")], Malformed, "no eventfd"),
        ([(0, ""), (4, ""), (-1, "null"), (4, "eventfd")], Malformed, "came as the shared memory is none"),
        (BEGIN, PeerGone, "closed the connection"),
        ([], PeerGone, "closed the connection"),
    ],
)
@pytest.mark.usefixtures("no_descriptor_stays")
def test_what_a_server_does_wrong_is_said(
    tmp_path: Path, words: list[tuple[int, str]], error: type[BusvmError], message: str
) -> None:
    server = Mean(tmp_path / "s", words)
    with pytest.raises(error, match=message):
        client(tmp_path / "s", words)
    server.close()


def client(path: Path, words: list[tuple[int, str]]) -> None:
    """Connect, and hear the server's end."""
    with Client(path, timeout_s=2) as made:
        assert words
        made.process()


@given(
    st.lists(st.tuples(st.integers(-3, 6), st.sampled_from(["", "eventfd", "memory", "null"])), max_size=6),
    st.sampled_from([0, 1, 2, 3]),
    st.binary(max_size=20),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("no_descriptor_stays")
def test_garbage_of_a_server_is_an_error_in_words(
    tmp_path: Path, words: list[tuple[int, str]], good: int, rest: bytes
) -> None:
    path = tmp_path / "s"
    path.unlink(missing_ok=True)
    server = Mean(path, BEGIN[:good] + words, rest)
    with suppress(BusvmError), Client(path, timeout_s=2) as made:
        made.process()
    server.close()


def test_asyncio_waits_for_doorbells_and_peers(server: Threaded) -> None:
    async def run() -> tuple[int, object, object]:
        async with await connect_async(server.path) as a:
            rung = asyncio.create_task(a.wait(1))
            event = asyncio.create_task(a.event())
            async with await connect_async(server.path, name="b") as b:
                b.memory[0] = 7
                b.ring(a.id, 1)
                came = await asyncio.wait_for(event, 5)
                times = await asyncio.wait_for(rung, 5)
                assert (a.memory[0], a.peers) == (7, {1: 2})
            return times, came, await asyncio.wait_for(a.event(), 5)

    assert asyncio.run(run()) == (1, Joined(1), Left(1))


def test_the_command_shows_rings_waits_and_dumps(server: Threaded, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(server.path)
    with connect(server.path) as me:
        me.memory[4096:4099] = b"abc"
        assert commands.main([path, "peers"]) == 0
        assert commands.main([path, "ring", "0", "1"]) == 0
        assert me.wait(1, 2) == 1
        assert commands.main([path, "wait", "--timeout", "0.01"]) == 1
        assert commands.main([path, "dump", "4K", "3"]) == 0
        assert commands.main([path, "ring", "9"]) == 3
        assert commands.main([path, "dump", "8K", "1"]) == 2
        assert commands.main([path + "x", "peers"]) == 4
    done = capsysbinary.readouterr()
    assert done.out == b"1 vectors=2 size=8192 (this one)\n0 vectors=2\nabc"
    assert done.err.count(b"error:") == 3
    assert done.err.count(b"\n") == 4


def test_the_server_ends_in_order(process: Process) -> None:
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(5) == 0
    assert not process.path.exists()
