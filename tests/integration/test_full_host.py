"""A VM on a host that is full: its runtime folder, with record, orders and sockets, its shared memory, or its logs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import HostError
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_faults import processes
from tests.integration.test_orchestrator_up import vm, wait_for

_MOUNT = 'mount -t tmpfs -o size="$2",mode=700 tmpfs "$1" && echo ready && exec sleep 1000'


class Small(Cli):
    """``orchestrator`` for which ``place``, named by ``variable``, is a small disk of its own."""

    def __init__(self, folder: Path, variable: str, place: str, size: str) -> None:
        super().__init__(folder)
        self.env[variable] = place
        self._as_user = ["--map-root-user"] if os.geteuid() else []
        command = ["unshare", "--mount", *self._as_user, "sh", "-c", _MOUNT, "sh", place, size]
        self.mounted = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.mounted.stdout is not None
        self.is_there = bool(self.mounted.stdout.readline())
        self._filling = Path(f"/proc/{self.mounted.pid}/root{place}/filling")

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs there."""
        user = ["--user", "--preserve-credentials"] if self._as_user else []
        there = ["nsenter", f"--target={self.mounted.pid}", "--mount", *user, f"--wd={self.folder}", "--"]
        return [*there, *super().command(*arguments)]

    def fill(self) -> None:
        """Have it take nothing more."""
        with self._filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(512)):
                pass

    def free(self) -> None:
        """Have it take something again."""
        self._filling.unlink()

    def close(self) -> None:
        """Take it away."""
        self.mounted.kill()
        self.mounted.communicate()


@contextlib.contextmanager
def made(folder: Path, variable: str, size: str) -> Iterator[Small]:
    """Make such a disk."""
    place = tempfile.mkdtemp(prefix="busvm-")  # short, for sockets
    found = Small(folder, variable, place, size)
    try:
        if not found.is_there:
            pytest.skip("no mount namespaces here")
        yield found
        found.run("down", VM, "-t", "0")
    finally:
        found.close()
        shutil.rmtree(place)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """Return a runtime folder, with a vm.toml."""
    with made(tmp_path, "XDG_RUNTIME_DIR", "256k") as found:
        vm(found)
        yield found


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Small]:
    """Return shared memory in which a VM of 32 MiB has room, with its vm.toml."""
    with made(tmp_path, "BUSVM_SHM", "40M") as found:
        vm(found)
        yield found


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Small]:
    """Return a place for logs, with a vm.toml."""
    with made(tmp_path, "XDG_STATE_HOME", "64k") as found:
        vm(found)
        yield found


def started(small: Small) -> list[int]:
    """Return the pids of the disk's processes, as they were started."""
    log = small.run("logs", VM, "orchestrator").stdout
    return [int(pid) for pid in re.findall(r"started disk0, pid (\d+)", log)]


def test_nothing_is_started_without_room(small: Small) -> None:
    small.fill()

    done = small.run("up", "--wait")

    assert (done.returncode, len(done.stderr.splitlines())) == (HostError.exit_status, 1), done.stderr
    assert "No space left on device" in done.stderr
    small.free()


def test_a_vm_goes_on_without_room_and_is_recorded_when_there_is_some(small: Small) -> None:
    done = small.run("up", "--wait")
    assert done.returncode == 0, done.stderr
    small.fill()

    for count in (2, 3):
        os.kill(started(small)[-1], signal.SIGKILL)
        wait_for(lambda count=count: len(started(small)) == count)
    refused = small.run("attach", VM, "more", "--type", "virtio-rng")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (HostError.exit_status, 1), refused.stderr
    assert "No space left on device" in refused.stderr
    os.kill(processes(small)["bus"]["pid"], signal.SIGKILL)
    wait_for(lambda: "bus started again" in small.run("logs", VM, "orchestrator").stdout)

    small.free()
    wait_for(lambda: processes(small)["disk0"]["pid"] == started(small)[-1])
    wait_for(lambda: processes(small)["disk0"]["state"] == "attached")
    assert processes(small)["disk0"]["epoch"] == 3
    assert small.run("down", VM, "-t", "0").returncode == 0


def test_a_machine_that_finds_no_page_any_more_says_why(memory: Small) -> None:
    done = memory.run("up", "--wait", "--stop-at-start")
    assert done.returncode == 0, done.stderr
    memory.fill()

    assert memory.run("resume", VM).returncode == 0

    wait_for(lambda: memory.run("ps", VM).returncode != 0)
    said = memory.run("logs", VM, "orchestrator").stdout
    assert re.search(r"the machine process was killed by SIGBUS: \S+ is full, see vm.prealloc", said)


def test_memory_that_was_reserved_is_there(memory: Small) -> None:
    done = memory.run("up", "--wait", "--stop-at-start", "--set", "vm.prealloc=true", "--set", "vm.hotplug-ports=1")
    assert done.returncode == 0, done.stderr
    memory.fill()

    assert memory.run("resume", VM).returncode == 0

    wait_for(lambda: processes(memory)["disk0"]["state"] == "attached")
    refused = memory.run("attach", VM, "more", "--type", "virtio-rng")
    assert (len(refused.stderr.splitlines()), "no space" in refused.stderr) == (1, True), refused.stderr
    assert processes(memory)["disk0"]["state"] == "attached"
    assert memory.run("down", VM, "-t", "0").returncode == 0


def test_nobody_needs_a_log(logs: Small) -> None:
    machine = logs.start("up")
    wait_for(lambda: processes(logs).get("disk0", {}).get("state") == "attached")
    logs.fill()

    os.kill(processes(logs)["disk0"]["pid"], signal.SIGKILL)
    wait_for(lambda: processes(logs)["disk0"]["epoch"] == 2)

    assert logs.run("down", VM, "-t", "0").returncode == 0
    said = machine.communicate()[1].decode()
    assert "disk0 was killed by SIGKILL; starting it again" in said
    assert "Traceback" not in said
    logs.free()
    logs.fill()
    assert logs.run("up", "--set", "boot.cmdline='run=q 0'").returncode == 0


def test_a_snapshot_that_finds_no_room_leaves_a_guest_that_runs(logs: Small) -> None:
    assert logs.run("up", "--wait").returncode == 0
    logs.fill()

    refused = logs.run("snapshot", "save", VM, "here")

    assert (refused.returncode != 0, len(refused.stderr.splitlines())) == (True, 1), refused.stderr
    assert "No space left on device" in refused.stderr
    assert "here" not in logs.run("snapshot", "list", VM).stdout
    assert json.loads(logs.run("ps", VM, "--json").stdout)["state"] == "running"
