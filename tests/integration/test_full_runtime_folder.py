"""A VM whose runtime folder, where the record, orders and sockets are, takes nothing more."""

from __future__ import annotations

import contextlib
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

_MOUNT = 'mount -t tmpfs -o size=256k,mode=700 tmpfs "$1" && echo ready && exec sleep 1000'


class Small(Cli):
    """``orchestrator`` where the runtime folder is a small disk of its own."""

    def __init__(self, folder: Path, place: str) -> None:
        super().__init__(folder)
        self.env["XDG_RUNTIME_DIR"] = place
        self._as_user = ["--map-root-user"] if os.geteuid() else []
        command = ["unshare", "--mount", *self._as_user, "sh", "-c", _MOUNT, "sh", place]
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


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """Return such a place, with a vm.toml."""
    place = tempfile.mkdtemp(prefix="busvm-")  # short, for sockets
    found = Small(tmp_path, place)
    if not found.is_there:
        found.close()
        shutil.rmtree(place)
        pytest.skip("no mount namespaces here")
    vm(found)
    yield found
    found.run("down", VM, "-t", "0")
    found.close()
    shutil.rmtree(place)


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
