"""Many peers with many vectors, too few descriptors, many who say nothing: served, or refused with the reason."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from devproc.ivshmem.arrivals import HELLOS_MAX
from devproc.ivshmem.client import connect
from protocol.errors import BusvmError
from protocol.ivshmem import Refusal, TryAgain, send
from protocol.ivshmem_hello import Hello
from tests.unit.devproc.ivshmem.crowd import Crowd
from tests.unit.devproc.ivshmem.rig import Process, Raw, Rig


def test_64_peers_of_64_vectors_know_each_other(tmp_path: Path) -> None:
    server = Process(tmp_path, "--vectors", "64")
    crowd = Crowd(server.path)
    for _ in range(64):
        crowd.join()
    while crowd.read(1):
        pass
    assert set(crowd.told.values()) == {1 + 64 * 64}
    crowd.close()
    server.close()


def cpu_s(pid: int) -> float:
    """Return what a process has used of the CPU."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_without_descriptors_newcomers_are_told_so_and_the_others_served(tmp_path: Path) -> None:
    server = Process(tmp_path, "--vectors", "64")
    pid = server.process.pid
    crowd = Crowd(server.path)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (500, 500))  # it has less than it thinks
        for _ in range(12):
            crowd.join()
        while crowd.read(0.2):
            pass
        assert set(crowd.told.values()) == {1 + 64 * 7}
        assert crowd.refused == 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (400, 500))  # now it cannot even accept
        with pytest.raises(TryAgain, match="full"):
            connect(server.path)
        used = cpu_s(pid)
        time.sleep(0.3)
        assert cpu_s(pid) - used < 0.1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (500, 500))
        crowd.leave(next(iter(crowd.told)))
        with connect(server.path) as me:
            assert len(me.peers) == 6
        assert "no descriptors are left" in server.log.read_text()
    finally:
        crowd.close()
        server.close()


def test_who_brings_most_descriptors_gives_way(tmp_path: Path) -> None:
    rig = Rig(tmp_path, vectors=2)
    assert rig.service._arrivals is not None
    rig.service._arrivals._room = 40
    with ExitStack() as stack:
        greedy, modest = (Raw(rig.path.with_name("s.busvm")) for _ in range(2))
        for raw in (greedy, modest):
            stack.callback(raw.close)
        mine = rig.join()
        mine.messages()
        eventfd = mine.session.own[0]
        known = {peer: [eventfd, eventfd] for peer in range(100, 130)}
        for raw, hello in ((modest, Hello(known={100: [eventfd] * 2})), (greedy, Hello(known=known))):
            for value, fd in hello.words()[:-1]:
                send(raw.socket, value, fd)
        rig.settle()
        assert greedy.receiver.receive() == (Refusal.FULL, None)
        send(modest.socket, -1)
        rig.settle()
        assert modest.receiver.receive() == (0, None)
    rig.close()


def test_who_says_nothing_is_bounded_in_number_and_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.now = 1.0
    silent: list[socket.socket] = []
    for _ in range(HELLOS_MAX + 1):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(rig.path.with_name("s.busvm")))
        silent.append(sock)
        rig.service.turn()
    rig.settle()
    assert int.from_bytes(silent[-1].recv(8), "little", signed=True) == Refusal.FULL
    rig.now = 10.0
    rig.service._alarm.set(0.001)
    rig.settle()
    assert int.from_bytes(silent[0].recv(8), "little", signed=True) == Refusal.LATE
    assert rig.service.counters["refused"] == HELLOS_MAX + 1
    for sock in silent:
        sock.close()
    rig.close()


def test_a_flood_of_comers_does_not_put_off_what_is_due(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.now = 1.0
    silent = Raw(rig.path.with_name("s.busvm"))
    rig.settle()
    due = rig.service._alarm_at
    rig.now = 4.0
    other = Raw(rig.path.with_name("s.busvm"))
    rig.settle()
    assert rig.service._alarm_at == due
    for raw in (silent, other):
        raw.close()
    rig.close()


def test_a_client_does_not_wait_for_a_server_that_hangs(tmp_path: Path) -> None:
    server = Process(tmp_path)
    with connect(server.path) as me, socket.socket(socket.AF_UNIX) as hanging:
        server.kill()
        path = server.path.with_name("s.busvm")
        path.unlink()
        hanging.bind(str(path))
        hanging.listen()
        me.wait_event(2)
        deadline = time.monotonic() + 2
        while me.fileno() < 0:
            assert time.monotonic() < deadline
            started = time.monotonic()
            me.process()
            assert time.monotonic() - started < 0.2
        assert not me.connected
        assert me.wait(0, 0.2) == 0
        me.ring(me.id)
        assert me.wait(0, 1) == 1
    with pytest.raises(BusvmError):
        connect(server.path, timeout_s=0.1)
