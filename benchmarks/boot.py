"""Debian's kernel from the start of the process to the initramfs's first line and to the login prompt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.figures import Figure, at_most, median
from benchmarks.machines import busvm, disk_options, qemu, qemu_available, scratch

FIRST_LINE = "busvm initramfs: up"
_ROUNDS = 3


def images() -> Path:
    """Return the folder of the Debian image: BUSVM_IMAGES, or where ``make run`` builds it."""
    return Path(os.environ.get("BUSVM_IMAGES", "images/debian")).resolve()


def toml(name: str, folder: Path, *, cmdline: str = "console=ttyS0 root=/dev/vda rw", disk: Path | None = None) -> str:
    """Return a vm.toml for the image in ``folder``."""
    text = (
        f'[vm]\nname = "{name}{os.getpid()}"\nmemory = "512M"\n[boot]\nkernel = "{folder / "vmlinuz"}"\n'
        f'initrd = "{folder / "initrd.img"}"\ncmdline = "{cmdline}"\n'
    )
    if disk:
        text += f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "{disk}"\n'
    return text


def measure() -> list[Figure]:
    """Return the figures; none without the image."""
    folder = images()
    if not (folder / "vmlinuz").exists():
        print(f"no Debian image in {folder}: `make run` or `orchestrator image debian` builds it")
        return []
    with scratch() as name:
        disk = Path(name) / "root.ext4"
        shutil.copyfile(folder / "root.ext4", disk)
        ours = [busvm(toml("boot", folder, disk=disk), Path(name), until=FIRST_LINE) for _ in range(_ROUNDS)]
        mine = median(run.seconds_to(FIRST_LINE) for run in ours)
        if not qemu_available():
            return [Figure("Debian kernel to initramfs", mine, "s", peer="QEMU is not installed")]
        options = [
            "-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"),
            "-append", "console=ttyS0 root=/dev/vda rw",
            *disk_options(disk),
        ]  # fmt: skip
        theirs = median(qemu(*options, until=FIRST_LINE).seconds_to(FIRST_LINE) for _ in range(_ROUNDS))
        ratio = at_most(
            "Debian kernel to initramfs, times QEMU TCG", mine / theirs, "x", 5, f"{mine:.1f} s, QEMU {theirs:.1f} s"
        )
        login = busvm(toml("login", folder, disk=disk), Path(name), until="Welcome to", timeout_s=180)
        return [ratio, Figure("Debian kernel to systemd's first line", login.seconds_to("Welcome to"), "s")]
