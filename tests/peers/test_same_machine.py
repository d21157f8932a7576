"""The same kernel, initramfs and disk on QEMU's ``virt`` with AIA and here: the guest sees the same machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import build
from tests.guest.expect import Guest
from tests.guest.test_debian import machine
from tests.peers import newer_qemu

pytestmark = [pytest.mark.boot, pytest.mark.peer, pytest.mark.timeout(600)]


def facts(guest: Guest) -> dict[str, object]:
    """Return what has to agree."""
    network.shell(guest)
    isa = re.search(r"isa\s*: (\S+)", guest.run("cat /proc/cpuinfo"))
    assert isa is not None
    classes = sorted(line.split()[1] for line in guest.run("lspci -n").splitlines() if line.strip())
    disks = guest.run("lsblk -nbdo NAME,SIZE,RO,TYPE").split()
    chips = guest.run("cat /proc/interrupts")
    found = {
        "base isa": isa[1].split("_")[0].rstrip("bhv"),
        "class codes": classes,
        "block devices": disks,
        "disk interrupts by message": bool(re.search(r"MSI.*virtio0|virtio0", chips)),
    }
    network.end(guest)
    return found


def test_cpu_class_pci_classes_and_disks_agree(tmp_path: Path) -> None:
    assert newer_qemu.version() >= (8, 0), "AIA does not carry Linux's console in QEMU 7"
    image = build("debian")
    path = machine(image, tmp_path, "same")
    path.write_text(path.read_text().replace("root=/dev/vda rw", f"root=/dev/vda rw {network.SHELL}"))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(path)]) as guest:
        ours = facts(guest)
    command = [
        *newer_qemu.command(), "-M", "virt,aia=aplic-imsic", "-m", "512M", "-nographic", "-no-reboot",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", f"console=ttyS0 root=/dev/vda rw {network.SHELL}",
        "-drive", f"file={tmp_path / 'root.ext4'},format=raw,if=none,id=d",
        "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
    ]  # fmt: skip
    with Guest(command) as guest:
        theirs = facts(guest)
    assert ours == theirs
