"""The hot-plug slot against Linux's own controller driver, in a kernel that has one: tests/peers/pciehp_kernel.sh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.expect import Guest

KERNEL = os.environ.get("BUSVM_PCIEHP_KERNEL", "")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KERNEL, reason="BUSVM_PCIEHP_KERNEL names no kernel"),
]

VM = """
[vm]
name = "pciehp"
memory = "128M"
hotplug-ports = 1
interrupts = "{interrupts}"
[boot]
kernel = "{kernel}"
cmdline = "console=ttyS0 quiet loglevel=7 pciehp.dyndbg=+p"
[[device]]
id = "first"
type = "virtio-blk"
image = "first.img"
bus = "pcie"
"""
SETTLE_S = 1.5  # after it has switched a slot off, pciehp is deaf for a second (remove_board)
BLINK_S = 5.0  # a press of the button can be taken back for so long (pciehp_ctrl.c)


def orchestrator(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command about the machine."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def did(*words: str) -> float:
    """Run a command that succeeds; return the seconds it took."""
    before = time.monotonic()
    done = orchestrator(*words)
    assert done.returncode == 0, done.stderr
    assert "rescan" not in done.stderr  # the guest sees by itself
    return time.monotonic() - before


def shell(guest: Guest, line: str) -> str:
    """Return the answer of the guest's few words."""
    guest.type(line)
    return guest.wait_for("done\n", 60)


def until(guest: Guest, device: str, *, there: bool, folder: str = "/sys/block") -> float:
    """Wait until the guest has a disk, or has it no more; return for how long."""
    before = time.monotonic()
    while (f"\n{device}\n" in "\n" + shell(guest, f"list {folder}")) != there:
        assert time.monotonic() < before + 30, guest.output[-3000:]
    return time.monotonic() - before


@pytest.mark.parametrize("interrupts", ["aia", "plic"])
def test_pciehp_plugs_and_unplugs(tmp_path: Path, interrupts: str) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.img").write_bytes(b"\x01" * (4 << 20))
    (tmp_path / "vm.toml").write_text(VM.format(interrupts=interrupts, kernel=Path(KERNEL).resolve()))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        guest.wait_for("ready\n", 60)
        assert f"sum {4 << 20} of {4 << 20} bytes" in shell(guest, "read /dev/vda")
        assert shell(guest, "list /sys/bus/pci/slots").split()[:-1] == ["1", "2"]
        assert "0\n" in shell(guest, "cat /sys/bus/pci/slots/2/power")  # empty: switched off
        # one is plugged in, and used
        did("attach", "pciehp", "second", "--type", "virtio-blk", "--set", f"image={tmp_path / 'second.img'}")
        seen_s = until(guest, "vdb", there=True)
        shell(guest, "write /dev/vdb")
        assert (tmp_path / "second.img").read_bytes() == b"\x5a" * (4 << 20)
        # asked back in too little time: the button is pressed once more, and the guest keeps it
        kept = orchestrator("detach", "pciehp", "second", "--timeout", "1")
        assert "has not let go" in kept.stderr
        guest.wait_for("canceling request to power off", 30)
        # and asked back, by the button
        took_s = did("detach", "pciehp", "second")
        assert took_s >= BLINK_S
        until(guest, "vdb", there=False)
        assert "0\n" in shell(guest, "cat /sys/bus/pci/slots/2/adapter")
        # what has been there from the start goes and comes as well
        did("detach", "pciehp", "first")
        until(guest, "vda", there=False)
        did("attach", "pciehp", "first")
        until(guest, "vda", there=True)
        assert f"sum {4 << 20} of {4 << 20} bytes" in shell(guest, "read /dev/vda")
        # the guest switches off and on by itself: the device is reset and there again
        shell(guest, "put /sys/bus/pci/slots/1/power 0")
        until(guest, "vda", there=False)
        shell(guest, "put /sys/bus/pci/slots/1/power 1")
        until(guest, "vda", there=True)
        assert f"sum {4 << 20} of {4 << 20} bytes" in shell(guest, "read /dev/vda")
        # pulled without a word: one that no driver has, as Linux's virtio drivers wait for ever for a status of 0
        for _ in range(2):
            did("attach", "pciehp", "odd", "--type", "python:devproc.template")
            until(guest, "0000:02:00.0", there=True, folder="/sys/bus/pci/devices")
            gone_s = did("detach", "pciehp", "odd", "--force")
            until(guest, "0000:02:00.0", there=False, folder="/sys/bus/pci/devices")
            time.sleep(SETTLE_S)
        used = re.findall(r"^ *\d+: +(\d+) .*pciehp", shell(guest, "cat /proc/interrupts"), re.MULTILINE)
        assert len(used) == 2
        assert all(int(count) > 0 for count in used)
        print(f"{interrupts}: seen {seen_s:.2f} s after attach, detached in {took_s:.1f} s, pulled in {gone_s:.2f} s")
        guest.type("off")
        assert guest.status(60) == 0
    for wrong in ("Call trace", "Unable to handle", "timed out", "Timeout", "failed"):
        assert wrong not in guest.output
