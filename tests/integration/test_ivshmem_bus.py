"""An ivshmem server on a bus: who is there, and signals of who comes and goes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.ivshmem.client import connect
from tests.unit.devproc.ivshmem.rig import Process

PLACE = ["org.busvm.ivshmem.lan", "/org/busvm/ivshmem/lan", "org.busvm.Ivshmem1"]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    command = ["dbus-daemon", "--session", "--nofork", f"--address=unix:path={tmp_path}/bus", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        yield daemon.stdout.readline().strip()
        daemon.terminate()


def shown(address: str, member: str) -> str:
    """Return a property as busctl writes it, once the server has its name."""
    command = ["busctl", f"--address={address}", "get-property", *PLACE, member]
    deadline = time.monotonic() + 10
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        if not done.returncode:
            return done.stdout.strip()
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)


def test_who_is_there_is_on_the_bus(address: str, tmp_path: Path) -> None:
    server = Process(tmp_path, "--vectors", "3", "--size", "64K", "--bus", address, "--id", "lan")
    assert (shown(address, "Vectors"), shown(address, "Size")) == ("u 3", "t 65536")
    monitor = ["dbus-monitor", "--address", address, "interface='org.busvm.Ivshmem1'"]
    with subprocess.Popen(monitor, stdout=subprocess.PIPE, text=True, bufsize=1) as heard:
        assert heard.stdout is not None
        assert "NameAcquired" in heard.stdout.readline()
        time.sleep(0.2)
        with connect(server.path, name="me"):
            peers = shown(address, "Peers")
            assert peers.startswith(f'a(uustsbba{{st}}) 1 0 {os.getpid()} "me" ')
            assert '"busvm" false false ' in peers
        lines: list[str] = []
        while not any("PeerLeft" in line for line in lines):
            lines.append(heard.stdout.readline())
        assert any("PeerJoined" in line for line in lines)
        heard.terminate()
    assert '"left" 1' in shown(address, "Counters")
    server.close()
