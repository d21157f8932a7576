"""QEMU's ivshmem-doorbell at our server: it joins, is rung, leaves, has the memory; its vectors need not be ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devproc.ivshmem.client import ServerBack, ServerGone, connect
from protocol.ivshmem import Joined, Left
from tests.peers.vhost_user_qemu import Monitor, system_qemu
from tests.unit.devproc.ivshmem.rig import Process

pytestmark = [pytest.mark.peer, pytest.mark.timeout(60)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path, "--vectors", "2", "--size", "1M")
    yield made
    made.close()


@contextmanager
def machine(server: Process, name: str, vectors: int) -> Iterator[tuple[Monitor, subprocess.Popen[bytes], Path]]:
    """Run a QEMU without a guest."""
    folder = server.path.parent
    log = folder / f"{name}.log"
    command = [
        *system_qemu().words, "-M", "virt,aia=aplic-imsic", "-S", "-display", "none", "-serial", "none",
        "-bios", "none", "-chardev", f"socket,path={server.path},id=c",
        "-device", f"ivshmem-doorbell,vectors={vectors},chardev=c,id=iv",
        *Monitor.option(folder / name),
    ]  # fmt: skip
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        with Monitor(folder / name) as monitor:
            yield monitor, process, log
    finally:
        process.kill()
        process.wait()


def test_it_joins_has_the_memory_and_leaves(server: Process) -> None:
    with connect(server.path) as me:
        with machine(server, "a", 2) as (monitor, process, log):
            assert me.wait_event(10) == Joined(1)
            assert me.peers == {1: 2}
            me.memory[0:8] = b"from us."
            assert "1af4:1110" in monitor.do("human-monitor-command", **{"command-line": "info pci"})
            assert "/memfd:ivshmem" in Path(f"/proc/{process.pid}/maps").read_text()
            me.ring(1, 0)
            me.ring(1, 1)
            assert not log.read_text()
        assert me.wait_event(10) == Left(1)


def test_other_numbers_of_vectors_than_ours(server: Process) -> None:
    with machine(server, "few", 1) as (few, _, few_log), machine(server, "many", 4) as (many, _, many_log):
        assert few.do("query-status")["status"] == many.do("query-status")["status"] == "prelaunch"
        with connect(server.path) as me:
            assert me.peers == {0: 2, 1: 2}
        assert "Too many eventfd received, device has 1 vectors" in few_log.read_text()
        assert not many_log.read_text()


def test_it_is_rung_by_late_peers_after_the_server_was_killed(server: Process) -> None:
    with machine(server, "a", 2) as (monitor, process, _), connect(server.path) as me:
        server.kill()
        server.start()
        assert [me.wait_event(5), me.wait_event(5)] == [ServerGone(), ServerBack()]
        with connect(server.path) as late:
            assert (me.id, late.peers) == (1, {0: 2, 1: 2})
            late.ring(0, 1)
            assert monitor.do("query-status")["status"] == "prelaunch"
            process.kill()
            assert late.wait_event(5) == Left(0)
