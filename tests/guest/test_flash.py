"""Code in flash: the user's own after the reset vector, and EDK II as virt boots it, with its variables beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.guest.test_firmware import OPENSBI, POWER_OFF_7, installed, shell, up
from tests.peers.testing_suite import unpacked

BANK = 32 << 20


@pytest.mark.parametrize("interrupts", ["aia", "plic"])
def test_flash_alone_is_executed_after_reset(cli: Cli, interrupts: str) -> None:
    with (cli.folder / "flash0").open("wb") as file:
        file.write(POWER_OFF_7)
        file.truncate(BANK)
    cli.write("vm.toml", f'[vm]\nname = "flash-{interrupts}"\ninterrupts = "{interrupts}"\n[boot]\nflash0 = "flash0"\n')

    assert cli.run("up").returncode == 7


def edk2(folder: Path, name: str, firmware: str | None, more: str = "") -> str:
    """Return a vm.toml with EDK II from Debian testing in flash."""
    files = unpacked("edk2", ["qemu-efi-riscv64"], alone=True) / "usr/share/qemu-efi-riscv64"
    for flash, file in (("flash0", "RISCV_VIRT_CODE.fd"), ("flash1", "RISCV_VIRT_VARS.fd")):
        shutil.copyfile(files / file, folder / flash)
    boot = f'firmware = "{installed(OPENSBI / firmware, "opensbi")}"\n' if firmware else ""
    return f'[vm]\nname = "{name}"\nmemory = "512M"\n[boot]\n{boot}flash0 = "flash0"\nflash1 = "flash1"\n{more}'


@pytest.mark.boot
@pytest.mark.timeout(400)
def test_edk2_gives_its_shell_and_keeps_variables_in_flash(tmp_path: Path) -> None:
    with up(tmp_path, edk2(tmp_path, "edk2-shell", "fw_dynamic.bin")) as guest:
        guest.wait_for("UEFI Interactive Shell", 240)
        guest.wait_for("Shell> ", 60)
        guest.type("setvar busvm -guid 5ca1ab1e-93ca-11d2-aa0d-00e098032b8c -bs -nv =0x1234\r")
        guest.wait_for("Shell> ", 60)
        guest.type("reset -s\r")
        assert guest.status(60) == 0
    assert "busvm".encode("utf-16-le") in (tmp_path / "flash1").read_bytes()


@pytest.mark.boot
@pytest.mark.timeout(400)
def test_edk2_starts_the_kernel_that_fw_cfg_has(debian: Path, tmp_path: Path) -> None:
    kernel = (
        f'kernel = "{debian}/vmlinuz"\ninitrd = "{debian}/initrd.img"\n'
        'cmdline = "console=ttyS0 root=/dev/vda ro init=/bin/sh"\n'
        f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nbus = "mmio"\nimage = "{debian}/root.ext4"\nreadonly = true\n'
    )
    text = edk2(tmp_path, "edk2-kernel", None, kernel).replace("[vm]\n", '[vm]\nengine = "translate"\n')
    with up(tmp_path, text) as guest:
        shell(guest)
        assert guest.run("ls -d /sys/firmware/efi") == "/sys/firmware/efi\n"
        assert "10001000.virtio_mmio" in guest.run("readlink -f /sys/block/vda/device")
        guest.type("echo o > /proc/sysrq-trigger")
        assert guest.status(60) == 0
