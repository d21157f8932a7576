"""Linux's own driver on packed rings, over PCI and MMIO, with disks that die while it writes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

VM = (
    on_a_snapshot("rings").replace("root=/dev/vda rw", f"root=/dev/vda rw {network.SHELL}")
    + """\
[[device]]
id = "pci"
type = "virtio-blk"
image = "pci.img"
queues = 2
[[device]]
id = "mmio"
type = "virtio-blk"
image = "mmio.img"
bus = "mmio"
"""
)
DISKS = {"vdb": "pci", "vdc": "mmio"}
MIB = 16
PACKED, NOTIFICATION_DATA = 34, 38  # feature bits


def kill(device: str) -> None:
    """End a device's process, and return when its successor serves."""

    def process() -> dict[str, Any]:
        command = [sys.executable, "-m", "orchestrator", "ps", "rings", "--json"]
        shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        return next(found for found in shown["processes"] if found["id"] == device)

    before = process()
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (now := process())["epoch"] == before["epoch"] or now["state"] != "attached":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_linux_writes_to_disks_that_are_killed(debian: Path, tmp_path: Path) -> None:
    for name in DISKS.values():
        (tmp_path / f"{name}.img").write_bytes(bytes(MIB << 20))
    (tmp_path / "vm.toml").write_text(VM.format(image=debian))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        network.shell(guest, "virtio_blk")
        guest.run("mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm")
        for disk in ("vda", *DISKS):
            features = guest.run(f"cat /sys/block/{disk}/device/features").strip()
            assert features[PACKED] + features[NOTIFICATION_DATA] == "11", disk
        guest.run(f"dd if=/dev/urandom of=/dev/shm/blob bs=1M count={MIB}", 120)
        wanted = guest.run("sha256sum /dev/shm/blob", 120).split()[0]
        for disk in DISKS:
            write = f"dd if=/dev/shm/blob of=/dev/{disk} bs=64k conv=fsync"
            guest.run(f"{{ while [ ! -e /dev/shm/enough ]; do {write} 2>/dev/null; done & }}")
        for device in (*DISKS.values(), *DISKS.values()):
            kill(device)
        guest.run("touch /dev/shm/enough; wait", 120)
        guest.run("echo 3 > /proc/sys/vm/drop_caches")
        for disk in DISKS:
            assert guest.run(f"sha256sum /dev/{disk}", 120).split()[0] == wanted
        assert "error" not in guest.run("dmesg | grep -E 'vd[bc]|virtio'")
        assert network.end(guest) == 0
    for name in DISKS.values():
        assert hashlib.sha256((tmp_path / f"{name}.img").read_bytes()).hexdigest() == wanted
