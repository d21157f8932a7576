"""A VM with one container per process, by podman: Compose and a Pod of Kubernetes (docs/testing.md says how)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.guest.conftest import build
from tests.guest.expect import Guest
from tests.peers.containers import IMAGE, VARIABLE, Podman

FOUND = Podman.prepared()
pytestmark = [
    pytest.mark.peer,
    pytest.mark.boot,
    pytest.mark.timeout(600),
    pytest.mark.skipif(FOUND is None, reason=f"{VARIABLE} names no folder of python -m tests.peers.containers"),
]
NAME = f"c{os.getpid()}"
DEVICES = ("disk0", "net0")
PS = ("orchestrator", "ps", NAME)
DIED = 9  # SIGKILL


@pytest.fixture
def podman() -> Podman:
    """Return podman."""
    assert FOUND is not None
    return FOUND


@pytest.fixture
def vm(cli: Cli) -> Path:
    """Return the folder of a Debian that belongs to the image's user."""
    image = build("debian")
    for name in ("vmlinuz", "initrd.img", "root.ext4"):
        shutil.copyfile(image / name, cli.folder / name)
        os.chown(cli.folder / name, 1000, 1000)
    for folder in (cli.folder, *cli.folder.parents):  # pytest's own are closed to others
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cli.write(
        "vm.toml",
        f"""
[vm]
name = "{NAME}"
memory = "512M"
[boot]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0 root=/dev/vda rw loglevel=3"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "root.ext4"
[[device]]
id = "net0"
type = "virtio-net"
backend = "user"
forward = ["tcp:127.0.0.1:{port}:22"]
""",
    )
    return cli.folder


@pytest.fixture
def compose(podman: Podman, vm: Path, cli: Cli) -> Iterator[str]:
    """Return the start of the containers' names, which run by podman-compose."""
    done = cli.run("render", "compose", "-o", "compose.yaml", "--image", IMAGE)
    assert done.returncode == 0, done.stderr
    podman.compose(vm, "up", "-d")
    yield f"busvm-{NAME}_"
    podman.compose(vm, "down", "-v", "-t", "1")


@pytest.fixture
def pod(podman: Podman, vm: Path, cli: Cli) -> Iterator[str]:
    """Return the start of the containers' names, which run as a Pod."""
    done = cli.run("render", "kubernetes", "-o", "pod.yaml", "--image", IMAGE)
    assert done.returncode == 0, done.stderr
    podman.run("kube", "play", str(vm / "pod.yaml"))
    yield f"{NAME}-"
    podman.run("pod", "stop", "-t", "5", NAME, check=False)
    podman.run("pod", "rm", "-f", NAME)
    for volume in re.findall(rf"^{NAME}-\S+$", podman.run("volume", "ls", "-q"), re.MULTILINE):
        podman.run("volume", "rm", volume)


def until_epoch(podman: Podman, cpu: str, number: int) -> None:
    """Return when the disk is attached in an epoch."""
    deadline = time.monotonic() + 90
    while not re.search(rf"^disk0 .* attached +{number} ", podman.run("exec", cpu, *PS, check=False), re.MULTILINE):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def works_while_its_disk_dies(podman: Podman, cpu: str) -> None:
    """Log in, write while the disk's process is killed, find everything, and power off."""
    until_epoch(podman, cpu, 1)
    with Guest(podman.command("exec", "-i", cpu, "orchestrator", "console", NAME)) as guest:
        guest.type("")
        guest.login("busvm")
        guest.run("dmesg -n 1")
        guest.type(
            "for i in 1 2 3 4; do dd if=/dev/urandom of=b$i bs=1M count=4 2>&-; sha256sum b$i; sync; done >sums; "
            "echo ev''ery"
        )
        for number in range(1, 4):
            until_epoch(podman, cpu, number)
            pid = podman.run("exec", cpu, *PS, "--pid", "disk0").strip()
            podman.run("exec", cpu, "python", "-c", f"import os; os.kill({pid}, {DIED})")
        guest.wait_for("every", 120)
        checked = guest.run("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum -c sums")
        assert checked.count(": OK") == 4, checked
        until_epoch(podman, cpu, 4)
        podman.run("exec", cpu, "orchestrator", "restart", NAME, "disk0")
        until_epoch(podman, cpu, 5)
        assert "I/O error" not in guest.run("dmesg")
        guest.type("poweroff")
        assert guest.status(60) == 0


def test_compose_restarts_what_dies_and_all_end_with_the_guest(podman: Podman, compose: str) -> None:
    works_while_its_disk_dies(podman, f"{compose}cpu_1")

    names = [f"busvm-{NAME}-bus", f"{compose}cpu_1", *(f"{compose}{device}_1" for device in DEVICES)]
    assert podman.until_ended(names) == dict.fromkeys(names, 0)


def test_compose_down_asks_the_guest_to_power_down(podman: Podman, compose: str, vm: Path) -> None:
    until_epoch(podman, f"{compose}cpu_1", 1)
    with Guest(podman.command("exec", "-i", f"{compose}cpu_1", "orchestrator", "console", NAME)) as guest:
        guest.type("")
        guest.login("busvm")
        podman.compose(vm, "stop")
        assert "Emergency Sync" in guest.wait_for("Sync", 60)
    assert podman.containers()[f"{compose}cpu_1"] == ("exited", 0)


def test_a_pod_restarts_what_dies_and_all_end_with_the_guest(podman: Podman, pod: str) -> None:
    works_while_its_disk_dies(podman, f"{pod}cpu")

    names = [f"{pod}{name}" for name in ("bus", "cpu", *DEVICES)]
    assert podman.until_ended(names) == dict.fromkeys(names, 0)
