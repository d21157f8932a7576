"""Debian's kernel, which has no hot-plug driver, with devices that come and go: its user does what the driver would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from protocol.memory import SHM, shm_name
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

NAME = "hotplug"
VM = (
    on_a_snapshot(NAME).replace('memory = "512M"', 'memory = "512M"\nhotplug-ports = 1')
    + """\
[[device]]
id = "entropy"
type = "virtio-rng"
bus = "pcie"
plugged = false
"""
)
DISK, ENTROPY = "0000:02:00.0", "0000:01:00.0"
MIB = 1 << 20


def orchestrator(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command about the machine."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def did(*words: str) -> str:
    """Run a command that succeeds; return what it says beside its output."""
    done = orchestrator(*words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def shown(name: str) -> dict[str, Any]:
    """Return a process as ``ps`` shows it."""
    processes = json.loads(orchestrator("ps", NAME, "--json").stdout)["processes"]
    found: dict[str, Any] = next((p for p in processes if p["id"] == name), {})
    return found


def kill(name: str, epoch: int) -> None:
    """Kill a device and wait for its successor."""
    os.kill(shown(name)["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (shown(name)["state"], shown(name)["epoch"]) != ("attached", epoch):
        assert time.monotonic() < deadline


def login(guest: Guest) -> None:
    """Log in, and keep the kernel off the console."""
    guest.login("busvm")
    guest.run("dmesg -n 1")


def rescan(guest: Guest) -> None:
    """Have the guest look for devices, and load what drives them."""
    guest.run("echo 1 > /sys/bus/pci/rescan; udevadm settle")


def remove(guest: Guest, address: str) -> None:
    """Have the guest let go of a device."""
    guest.run(f"echo 1 > /sys/bus/pci/devices/{address}/remove")


def test_debian_plugs_by_hand(debian: Path, tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text(VM.format(image=debian))
    image = tmp_path / "data.img"
    image.write_bytes(bytes(16 * MIB))
    described = ["--type", "virtio-blk", "--set", f"image={image}", "--set", "serial=plugged"]
    did("up", "--wait", str(tmp_path / "vm.toml"))
    try:
        with Guest([sys.executable, "-m", "orchestrator", "console", NAME]) as guest:
            login(guest)
            # ports as a guest sees them: bus numbers and windows, also of empty ones
            windows = guest.run("lspci -vv -s 00:11.0 2>/dev/null | grep -E 'behind|secondary|SltCap'")
            assert "secondary=02" in windows
            assert windows.count("[size=2M]") == 2
            assert "AttnBtn+ PwrCtrl+" in windows
            assert guest.run(f"ls -d /sys/bus/pci/devices/{ENTROPY} 2>/dev/null || echo none").strip() == "none"
            # a random-number source comes, and is the kernel's
            assert "rescan" in did("attach", NAME, "entropy")
            rescan(guest)
            assert "virtio_rng" in guest.run("cat /sys/class/misc/hw_random/rng_available")
            assert len(guest.run("head -c 16 /dev/hwrng | base64").strip()) == 24
            assert "Express (v2) Endpoint" in guest.run(f"lspci -vv -s {ENTROPY}")
            # a disk comes, which dies while it is written to
            did("attach", NAME, "data", *described)
            assert shown("data")["slot"] == "00:11.0/02:00.0"
            rescan(guest)
            assert guest.run("cat /sys/block/vdb/serial").strip() == "plugged"
            guest.run("head -c 16M /dev/urandom > /tmp/r")
            guest.type("dd if=/tmp/r of=/dev/vdb bs=64k oflag=direct; echo w-''ritten")
            kill("data", 2)
            guest.wait_for("w-ritten\n", 120)
            digest = guest.run("sha256sum < /tmp/r").split()[0]
            assert guest.run("sha256sum < /dev/vdb").split()[0] == digest
            # its guest keeps it, then lets go
            kept = orchestrator("detach", NAME, "data", "--timeout", "1")
            assert kept.returncode == 1
            assert kept.stderr.startswith("error: the guest has not let go of data in 1 s (a guest without")
            assert DISK in kept.stderr
            assert shown("data")["state"] == "attached"
            assert guest.run("sha256sum < /dev/vdb").split()[0] == digest
            remove(guest, DISK)
            did("detach", NAME, "data")
            assert not shown("data")
            # the supervisor dies meanwhile
            os.kill(json.loads(orchestrator("ps", NAME, "--json").stdout)["supervisor"], signal.SIGKILL)
            did("up", "-d", str(tmp_path / "vm.toml"))
            did("attach", NAME, "data", *described)
            rescan(guest)
            assert guest.run("sha256sum < /dev/vdb").split()[0] == digest
            kill("data", shown("data")["epoch"] + 1)
            assert guest.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vdb").split()[0] == digest
            # pulled: all ones, and nothing else happens
            did("detach", NAME, "entropy", "--force")
            read = f"dd if=/sys/bus/pci/devices/{ENTROPY}/config bs=4 count=1 2>/dev/null | od -An -tx4"
            assert guest.run(read).strip() == "ffffffff"
            assert guest.run("sha256sum < /dev/vdb").split()[0] == digest
            # a reset: what is plugged in is there from the start
            guest.type("reboot -f")
            login(guest)
            assert guest.run("sha256sum < /dev/vdb").split()[0] == digest
            remove(guest, DISK)
            did("detach", NAME, "data")
            guest.type("poweroff -f")
            guest.status(120)
    finally:
        orchestrator("down", NAME, "-t", "0")
    assert not list(SHM.glob(shm_name(NAME, "*")))
