"""Debian's own kernel and user space, with the disk in another process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

PASSWORD = "busvm"


def machine(image: Path, folder: Path, name: str, engine: str = "interp") -> Path:
    """Write a vm.toml with a copy of the image's disk."""
    shutil.copyfile(image / "root.ext4", folder / "root.ext4")
    (folder / "vm.toml").write_text(f"""
[vm]
name = "{name}"
memory = "512M"
engine = "{engine}"
[boot]
kernel = "{image / "vmlinuz"}"
initrd = "{image / "initrd.img"}"
cmdline = "console=ttyS0 root=/dev/vda rw"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "root.ext4"
serial = "BUSVM-TEST"
""")
    return folder / "vm.toml"


def up(path: Path) -> Guest:
    return Guest([sys.executable, "-m", "orchestrator", "up", str(path)])


def test_login_work_and_power_off(debian: Path, tmp_path: Path) -> None:
    with up(machine(debian, tmp_path, "deb")) as guest:
        guest.wait_for("busvm initramfs: up")
        guest.login(PASSWORD)
        assert "BUSVM-TEST" in guest.run("cat /sys/block/vda/serial")
        assert "1af4:1042" in guest.run("lspci -n")
        interrupts = guest.run("cat /proc/interrupts")
        assert "PCI-MSIX" in interrupts or "MSI" in interrupts
        assert "rv64imafdc" in guest.run("cat /proc/cpuinfo")
        guest.run("dd if=/dev/urandom of=/root/blob bs=64k count=64 status=none; sync", 120)
        before = guest.run("sha256sum /root/blob").split()[0]
        guest.run("echo 3 > /proc/sys/vm/drop_caches")
        assert guest.run("sha256sum /root/blob").split()[0] == before
        assert "0 loaded units" in guest.run("systemctl --failed --no-pager")
        guest.type("poweroff")
        assert guest.status(120) == 0
    with up(tmp_path / "vm.toml") as guest:  # what was written is there after a second boot
        guest.login(PASSWORD)
        assert guest.run("sha256sum /root/blob").split()[0] == before
        guest.type("poweroff -f")
        assert guest.status(120) == 0


def test_another_image_boots_as_well(other_debian: Path, tmp_path: Path) -> None:
    with up(machine(other_debian, tmp_path, "other", "translate")) as guest:
        guest.login(PASSWORD)
        assert guest.run("echo 2^70 | bc").strip() == str(2**70)
        assert "fio-" in guest.run("fio --version", 120)
        assert "1.5G" in guest.run("lsblk -o SIZE /dev/vda")
        guest.type("reboot -f")
        guest.wait_for("busvm initramfs: up", 120)  # the machine resets, devices and all, and boots again
        guest.login(PASSWORD)
        guest.type("poweroff -f")
        assert guest.status(120) == 0
