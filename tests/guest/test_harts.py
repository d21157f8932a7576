"""Debian on four harts: it uses them all, loses none of their results, and takes them out and in again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import build
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

HARTS = 4
# as a build does it: many short processes side by side, whose joint result is the same in any order
LOAD = (
    "ls /usr/bin/* | head -60 | xargs -P4 -n4 sh -c 'for f; do gzip -c $f | gunzip | sha256sum; done' sh "
    "| sort | sha256sum"
)
ALONE = "for f in $(ls /usr/bin/* | head -60); do sha256sum < $f; done | sort | sha256sum"


@pytest.fixture(scope="module")
def image() -> Path:
    """Return an image with stress-ng."""
    return build("stress", "--include", "stress-ng")


def test_four_harts(image: Path, tmp_path: Path) -> None:
    shutil.copyfile(image / "root.ext4", tmp_path / "root.ext4")
    (tmp_path / "vm.toml").write_text(f"""
[vm]
name = "harts"
memory = "768M"
cpus = {HARTS}
engine = "translate"
[boot]
kernel = "{image / "vmlinuz"}"
initrd = "{image / "initrd.img"}"
cmdline = "console=ttyS0 root=/dev/vda rw {network.SHELL}"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "root.ext4"
""")
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        network.shell(guest, "virtio_blk")
        assert guest.run("nproc").split() == [str(HARTS)]
        said = guest.run(f"stress-ng --cpu {HARTS} --verify --timeout 8 2>&1", 300)
        assert "failed: 0" in said
        assert f"passed: {HARTS}" in said
        said = guest.run("stress-ng --mutex 2 --futex 2 --atomic 2 --membarrier 1 --verify --timeout 8 2>&1", 300)
        assert "failed: 0" in said
        assert guest.run(LOAD, 300).split() == guest.run(ALONE, 300).split()
        for hart in (1, 3):  # SBI hart_stop and hart_start
            guest.run(f"echo 0 > /sys/devices/system/cpu/cpu{hart}/online")
        assert guest.run("nproc").split() == [str(HARTS - 2)]
        for hart in (3, 1):
            guest.run(f"echo 1 > /sys/devices/system/cpu/cpu{hart}/online")
        assert guest.run("nproc").split() == [str(HARTS)]
        assert guest.run("for c in 0 1 2 3; do taskset -c $c nproc; done").split() == ["1"] * HARTS
        assert not guest.run("dmesg | grep -E 'BUG|Oops|self-detected|soft lockup'").strip()
        assert network.end(guest) == 0
