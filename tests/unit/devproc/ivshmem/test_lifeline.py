"""A peer whose process may die and whose guest lives on: with a lifeline it stays, and comes back to its own place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devproc.ivshmem.client import Before, Client, Joined, Left, ServerBack, ServerGone, connect
from devproc.ivshmem.exported import _shown
from devproc.ivshmem.peer import Peer
from protocol.errors import HostError, Malformed, Refused
from protocol.ivshmem import same_doorbells, send
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


class Lifeline:
    """Both ends, as a guest's machine has them."""

    def __init__(self) -> None:
        self.fd, self.end = os.pipe()

    def hang_up(self) -> None:
        os.close(self.end)
        os.close(self.fd)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def peers(server: Threaded) -> dict[int, Peer]:
    return server.service.peers


def test_others_notice_nothing_until_the_lifeline_hangs_up(server: Threaded) -> None:
    line = Lifeline()
    with connect(server.path) as other:
        device = Client(server.path, name="vm.shm0", lifeline=line.fd)
        assert other.wait_event(2) == Joined(1)
        device.close()
        until(lambda: peers(server)[1].away)
        assert _shown(peers(server)[1])[4:7] == ("busvm", True, False)
        assert other.wait_event(0.05) is None
        other.ring(1, 1)
        with connect(server.path) as late:
            late.ring(1, 1)
            assert other.wait_event(2) == Joined(2)
        assert other.wait_event(2) == Left(2)
        with Client(server.path, name="vm.shm0", lifeline=line.fd) as again:
            assert (again.id, again.wait(1, 1)) == (1, 2)  # what was rung meanwhile is not lost
            assert not peers(server)[1].away
            assert other.wait_event(0.05) is None
        until(lambda: server.service.counters["away"] == 2)
        line.hang_up()
        assert other.wait_event(2) == Left(1)


def test_a_lifeline_ends_a_peer_that_is_connected(server: Threaded) -> None:
    here, there = socket.socketpair()
    with (
        connect(server.path) as other,
        Client(server.path, lifeline=there.fileno()) as device,
    ):
        assert other.wait_event(2) == Joined(device.id)
        there.close()  # the client has a copy
        assert other.wait_event(0.05) is None
        here.close()
        assert other.wait_event(2) == Left(1)
        assert device.wait_event(2) == ServerGone()


def test_by_its_lifeline_a_peer_without_a_name_is_known(server: Threaded) -> None:
    line = Lifeline()
    command = [sys.executable, "-c", "import sys; from devproc.ivshmem.client import *; from pathlib import Path; "
               f"Client(Path(sys.argv[1]), lifeline={line.fd}).wait()", str(server.path)]  # fmt: skip
    with connect(server.path) as other:
        child = subprocess.Popen(command, pass_fds=[line.fd])
        assert other.wait_event(10) == Joined(1)
        child.kill()
        child.wait()
        with Client(server.path, lifeline=line.fd) as again:
            assert again.id == 1
            assert other.wait_event(0.05) is None
    line.hang_up()


def test_a_name_that_comes_with_another_lifeline_after_the_first_hung_up_is_another_guest(server: Threaded) -> None:
    first, second = Lifeline(), Lifeline()
    with connect(server.path) as other:
        Client(server.path, name="a", lifeline=first.fd).close()
        first.hang_up()
        with Client(server.path, name="a", lifeline=second.fd) as again:
            assert again.id == 1
            assert [other.wait_event(2) for _ in range(3)] == [Joined(1), Left(1), Joined(1)]
            with pytest.raises(Refused, match="name taken"):
                Client(server.path, name="a", lifeline=second.fd)
    second.hang_up()


def test_a_successor_that_dies_at_once_takes_nobody_along(server: Threaded) -> None:
    held = Lifeline()
    with connect(server.path) as other:
        Client(server.path, name="a", lifeline=held.fd).close()
        assert other.wait_event(2) == Joined(1)
        for _ in range(6):
            never_held = Lifeline()
            Client(server.path, name="a", lifeline=never_held.fd).close()
            never_held.hang_up()
        assert other.wait_event(0.1) is None
        next_one = Lifeline()
        with Client(server.path, name="a", lifeline=next_one.fd) as again:
            assert again.id == 1
            held.hang_up()  # the machine has the new one
            assert other.wait_event(0.1) is None
        assert other.wait_event(0.1) is None
        next_one.hang_up()
        assert other.wait_event(2) == Left(1)


def test_two_names_on_one_lifeline_are_two_peers(server: Threaded) -> None:
    line = Lifeline()
    Client(server.path, name="a", lifeline=line.fd).close()
    with Client(server.path, name="b", lifeline=line.fd) as b:
        assert b.id == 1
    line.hang_up()
    until(lambda: not peers(server))


def made(kind: str, stack: ExitStack) -> int:
    """Return a descriptor that is no lifeline."""
    if kind == "eventfd":
        fd = os.eventfd(0)
    elif kind == "file":
        fd = os.open("/dev/null", os.O_RDONLY)
    elif kind == "socket":
        return stack.enter_context(socket.socket(socket.AF_UNIX)).fileno()
    else:
        read, fd = os.pipe()
        stack.callback(os.close, read)
    stack.callback(os.close, fd)
    return fd


@pytest.mark.parametrize("kind", ["eventfd", "file", "socket", "write end"])
def test_what_does_not_hang_up_is_refused_on_both_sides(server: Threaded, kind: str) -> None:
    with ExitStack() as stack:
        fd = made(kind, stack)
        with pytest.raises(Malformed, match="does not hang up"):
            Client(server.path, lifeline=fd)
        raw = Raw(server.path.with_name("s.busvm"))
        stack.callback(raw.close)
        words = [int.from_bytes(b"busvmiv2", "little"), -1, *[0] * 8]
        for word in words:
            send(raw.socket, word)
        send(raw.socket, 0, fd)
        raw.socket.setblocking(True)
        assert raw.receiver.receive() == (-4, None)


def test_a_successor_begins_without_a_server(process: Process) -> None:
    line = Lifeline()
    with connect(process.path, name="other") as other:
        device = Client(process.path, name="d", lifeline=line.fd)
        assert other.wait_event(2) == Joined(1)
        before = Before(1, list(map(os.dup, device.own)), {0: list(map(os.dup, device.doorbells_of(0)))})
        device.close()
        process.kill()
        with Client(process.path, name="d", lifeline=line.fd, before=before) as again:
            assert (again.id, again.peers, again.connected, again.memory_fd) == (1, {0: 2}, False, -1)
            assert again.wait_event(0) == ServerGone()
            with pytest.raises(HostError, match="no server was there yet"):
                _ = again.memory
            again.ring(0)
            assert other.wait(0, 2) == 1
            other.ring(1, 1)
            assert again.wait(1, 2) == 1
            own = again.own
            process.start()
            assert again.wait_event(5) == ServerBack()
            assert other.wait_event(5) == ServerGone()
            assert other.wait_event(5) == ServerBack()
            assert (other.wait_event(0.1), again.wait_event(0.1)) == (None, None)  # nobody came, nobody went
            assert (again.id, other.id, again.own, again.memory_size) == (1, 0, own, 8192)
    line.hang_up()


def test_a_successor_is_told_what_changed_meanwhile(server: Threaded) -> None:
    line = Lifeline()
    device = Client(server.path, name="d", lifeline=line.fd)
    with connect(server.path) as one:
        assert device.wait_event(2) == Joined(1)
        before = Before(0, list(map(os.dup, device.own)), {1: list(map(os.dup, device.doorbells_of(1)))})
        device.close()
        one.close()
        with connect(server.path, name="a") as a, connect(server.path, name="b") as b:
            assert (a.id, b.id) == (2, 3)
            with Client(server.path, name="d", lifeline=line.fd, before=before) as again:
                assert again.connected
                assert [again.wait_event(0) for _ in range(4)] == [Left(1), Joined(2), Joined(3), None]
                assert same_doorbells(again.own, peers(server)[0].doorbells)
    line.hang_up()


def test_a_restarted_server_waits_for_a_name_that_others_still_ring(process: Process) -> None:
    line = Lifeline()
    with connect(process.path) as other:
        device = Client(process.path, name="d", lifeline=line.fd)
        assert other.wait_event(2) == Joined(1)
        before = Before(1, list(map(os.dup, device.own)), {0: list(map(os.dup, device.doorbells_of(0)))})
        device.close()
        process.kill()
        process.start()
        assert [other.wait_event(5), other.wait_event(5)] == [ServerGone(), ServerBack()]
        other.ring(1)
        with Client(process.path, name="d", lifeline=line.fd, before=before) as again:
            assert (again.id, again.wait(0, 1)) == (1, 1)
            assert other.wait_event(0.1) is None
        line.hang_up()
        assert other.wait_event(5) == Left(1)


def test_memory_that_only_a_machine_has_is_found_again(process: Process) -> None:
    line = Lifeline()
    device = Client(process.path, name="d", lifeline=line.fd)
    device.memory[0:4] = b"kept"
    with subprocess.Popen(["sleep", "60"], pass_fds=[device.memory_fd]) as machine:
        before = Before(0, list(map(os.dup, device.own)), {})
        device.close()
        process.kill()
        process.start()
        with Client(process.path, name="d", lifeline=line.fd, before=before) as again:
            assert (again.id, bytes(again.memory[0:4])) == (0, b"kept")
        machine.kill()
    line.hang_up()


def test_who_only_reads_cannot_write(server: Threaded) -> None:
    with connect(server.path) as writer, connect(server.path, readonly=True) as reader:
        writer.memory[0:2] = b"hi"
        assert bytes(reader.memory[0:2]) == b"hi"
        with pytest.raises(TypeError):
            reader.memory[0] = 1
        with pytest.raises(OSError, match="Bad file"):
            os.pwrite(reader.memory_fd, b"x", 0)
        assert _shown(peers(server)[1])[5:7] == (False, True)
