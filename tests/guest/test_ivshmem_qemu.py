"""Guests of QEMU at our server: 100 000 messages between guests, and with programs of the host, that come and go.

QEMU's ivshmem-doorbell of revision 1 interrupts by MSI-X alone, which no driver of Linux hands to a program: what
waits in a guest looks again and again, and rings who sleeps on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.ivshmem.client import ServerGone, connect
from protocol.ivshmem import Joined, Left
from tests.guest import ivshmem, network
from tests.guest.expect import Guest
from tests.unit.devproc.ivshmem.rig import Process

pytestmark = [pytest.mark.boot, pytest.mark.peer, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ivshmem.disk(tmp_path_factory.mktemp("program"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path, "--vectors", "2", "--size", "1M")
    yield made
    made.close()


def test_a_guest_and_a_host_program_that_sleeps(debian: Path, program: Path, server: Process) -> None:
    with connect(server.path) as watcher:
        with Guest(ivshmem.qemu(debian, program, server.path)) as guest:
            assert watcher.wait_event(30) == Joined(1)
            ivshmem.install(guest, uio=False)
            for verb, other in (("receive", "send"), ("send", "receive")):
                host = ivshmem.Program(ivshmem.PYTHON, other, "--socket", server.path)
                joined = watcher.wait_event(10)
                assert isinstance(joined, Joined)
                ivshmem.start(guest, verb)

                inside, outside = ivshmem.result(guest), host.result()

                assert inside.messages == outside.messages == ivshmem.MESSAGES
                assert inside.whole
                assert outside.whole
                assert inside.rings >= 1
                assert watcher.wait_event(10) == Left(joined.peer)
            network.end(guest)
        assert watcher.wait_event(10) == Left(1)


def test_two_guests_and_one_that_is_killed_and_comes_late(debian: Path, program: Path, server: Process) -> None:
    with Guest(ivshmem.qemu(debian, program, server.path)) as one:
        ivshmem.install(one, uio=False)
        with ivshmem.Killable(ivshmem.qemu(debian, program, server.path)) as two:
            ivshmem.install(two, uio=False)
            ivshmem.start(one, "receive --timeout 5")
            ivshmem.start(two, "send")
            received, sent = ivshmem.result(one), ivshmem.result(two)
            assert received.messages == sent.messages == ivshmem.MESSAGES
            assert received.whole

            ivshmem.start(one, "receive --count 1000000000 --timeout 5")
            ivshmem.start(two, "send --count 1000000000")
            with connect(server.path) as watcher:
                assert watcher.peers == {0: 2, 1: 2}
                ivshmem.wait_for_flow(watcher.memory)
                two.kill()
                assert watcher.wait_event(10) == Left(1)
        assert "does nothing any more" in ivshmem.finish(one)

        with Guest(ivshmem.qemu(debian, program, server.path)) as late:
            ivshmem.install(late, uio=False)
            ivshmem.start(one, "receive --count 1000")
            ivshmem.start(late, "send --count 1000")
            assert ivshmem.result(one).messages == ivshmem.result(late).messages == 1000
            network.end(late)
        network.end(one)


def test_a_guest_goes_on_when_the_server_was_killed(debian: Path, program: Path, server: Process) -> None:
    with Guest(ivshmem.qemu(debian, program, server.path)) as guest:
        ivshmem.install(guest, uio=False)
        with connect(server.path) as watcher:
            host = ivshmem.Program(ivshmem.PYTHON, "receive", "--socket", server.path, "--count", "300000")
            assert watcher.wait_event(10) == Joined(2)
            ivshmem.start(guest, "send --count 300000")
            ivshmem.wait_for_flow(watcher.memory)
            server.kill()
            assert watcher.wait_event(10) == ServerGone()
        inside, outside = ivshmem.result(guest), host.result()
        assert inside.messages == outside.messages == 300_000
        assert outside.whole

        server.start()
        network.end(guest)
