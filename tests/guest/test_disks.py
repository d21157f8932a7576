"""Linux's own driver and tools on disks with policies."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocol import names
from protocol.bus import Bus
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

VM = (
    on_a_snapshot("disks").replace("console=ttyS0", "console=hvc0 console=ttyS0")
    + """\
[[device]]
id = "blocks"
type = "virtio-blk"
image = "blocks.img"
block-size = 4096
cache = "writethrough"
[[device]]
id = "full"
type = "python:tests.conformance.full_disk"
args = ["--image", "full.img", "--on-error", "pause"]
[[device]]
id = "terminal"
type = "virtio-console"
socket = "console.sock"
size = "132x43"
ports = ["org.busvm.agent=agent.sock"]
[[device]]
id = "entropy"
type = "python:devproc.template.entropy:Entropy"
[[device]]
id = "clock"
type = "python:devproc.template.clock:Clock"
bus = "platform"
"""
)


def orchestrator(*arguments: str) -> str:
    """Run a command about the machine."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout


async def resize(address: str, device: str, size: int) -> None:
    """Make a disk longer."""
    bus = await Bus.connect(address)
    await bus.call(names.device_name(device), names.device_path(device), "org.busvm.Block1", "Resize", "t", [size])
    bus.close()


def test_linux_finds_what_vm_toml_says(debian: Path, tmp_path: Path) -> None:
    for name in ("blocks", "full"):
        (tmp_path / f"{name}.img").write_bytes(b"\1" * (8 << 20))
    (tmp_path / "vm.toml").write_text(VM.format(image=debian))
    root = (debian / "root.ext4").stat()
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        guest.login("busvm")
        # a root that forgets
        assert "kept" in guest.run("echo kept > /root/note; sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/note")
        # blocks, cache mode, discard of several ranges, zeros
        queue = "/sys/block/vdb/queue"
        shown = guest.run(f"cat {queue}/logical_block_size {queue}/write_cache {queue}/discard_max_bytes")
        assert shown.split() == ["4096", "write", "through", "2147483648"]
        before = (tmp_path / "blocks.img").stat().st_blocks
        guest.run("blkdiscard -o 4096 -l 4194304 /dev/vdb")
        assert (tmp_path / "blocks.img").stat().st_blocks == before - 8192
        guest.run("blkdiscard -z /dev/vdb")
        assert not any((tmp_path / "blocks.img").read_bytes())
        guest.run(
            "echo write back > /sys/block/vdb/cache_type; dd if=/dev/urandom of=/dev/vdb bs=1M count=4 conv=fsync"
        )
        # growth
        asyncio.run(resize(orchestrator("env", "disks").split("'")[1], "blocks", 16 << 20))
        assert "new size: 4096 4096-byte logical blocks" in guest.run("sleep 0.2; dmesg | tail -3")
        assert guest.run("blockdev --getsize64 /dev/vdb").strip() == str(16 << 20)
        # a full host
        (tmp_path / "full.full").touch()
        guest.type("dd if=/dev/zero of=/dev/vdc bs=1M count=4 oflag=direct; echo dd-''ended $?")
        deadline = time.monotonic() + 30
        while '"paused"' not in orchestrator("ps", "disks", "--json"):
            assert time.monotonic() < deadline
        assert "full.img: ENOSPC" in orchestrator("inspect", "disks", "--json")
        (tmp_path / "full.full").unlink()
        orchestrator("resume", "disks")
        assert "error" not in guest.wait_for("dd-ended 0", 30)
        assert not any((tmp_path / "full.img").read_bytes()[: 4 << 20])
        # a terminal of its size, and a named port both ways
        assert guest.run("stty size < /dev/hvc0").split() == ["43", "132"]
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(tmp_path / "agent.sock"))
            agent.settimeout(30)
            guest.run("exec 5<>/dev/virtio-ports/org.busvm.agent; echo hello host >&5")
            assert agent.recv(100) == b"hello host\n"
            guest.type(f"head -c {1 << 20} <&5 | sha256sum; exec 5<&-")
            agent.sendall(bytes(1 << 20))
            guest.wait_for(f"{hashlib.sha256(bytes(1 << 20)).hexdigest()}  -\n", 60)
        with socket.socket(socket.AF_UNIX) as terminal:  # a console of the kernel has a login
            terminal.connect(str(tmp_path / "console.sock"))
            terminal.settimeout(30)
            terminal.sendall(b"\n")
            said = b""
            while b"login:" not in said:
                said += terminal.recv(4096)
        # the tutorial's devices, with Linux's drivers: one alarm is one interrupt
        assert len(guest.run("head -c 16 /dev/hwrng | base64").strip()) == 24
        guest.run("rtcwake -d /dev/rtc1 -m on -s 2")
        (row,) = re.findall(r"^ *\d+: +(\d+) .*goldfish-rtc$", guest.run("cat /proc/interrupts"), re.MULTILINE)
        assert row == "1"
        guest.type("poweroff -f")
        assert guest.status(120) == 0
    after = (debian / "root.ext4").stat()
    assert (after.st_mtime_ns, after.st_blocks) == (root.st_mtime_ns, root.st_blocks)
