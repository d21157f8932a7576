"""The embedded guest on the whole machine: devices in processes of their own, and a guest that means ill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.expect import Guest

MACHINE = """
[vm]
name = "{name}"
[boot]
cmdline = "run={commands}"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "one.raw"
[[device]]
id = "rng0"
type = "python:devproc.template"
[[device]]
id = "rng1"
type = "virtio-rng"
bytes-per-second = "1M"
[[device]]
id = "disk1"
type = "virtio-blk"
image = "two.raw"
readonly = true
queues = 2
"""


def run(folder: Path, name: str, commands: str) -> subprocess.CompletedProcess[str]:
    for image in ("one.raw", "two.raw"):
        (folder / image).write_bytes(bytes(4 << 20))
    (folder / "vm.toml").write_text(MACHINE.format(name=name, commands=commands))
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "up", str(folder / "vm.toml")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_report_finds_every_device_and_exercises_it(tmp_path: Path) -> None:
    done = run(tmp_path, "report", "i;u;f;q 7")
    assert done.returncode == 7, done.stderr
    assert "report: 5 functions, 4 devices exercised, 0 failures" in done.stdout
    assert "float: checksum=8622cd576fa5301b" in done.stdout
    assert "user: mode=sv39" in done.stdout


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hostile_accesses_and_rings_end_nothing(tmp_path: Path, seed: int) -> None:
    done = run(tmp_path, f"hostile{seed}", f"h {seed} 4000;H;d w 0 64 {seed};q 0")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "hostile: ok kind=pci" in done.stdout
    attacks = [line for line in done.stdout.splitlines() if line.startswith("attack: ")]
    assert [line for line in attacks if "expected=no" in line or "recovered=0" in line] == []
    assert "hostile: ok kind=rings attacks=85" in done.stdout
    assert "errors=0 result=ok" in done.stdout  # the disk works as before


def test_reset_brings_the_machine_up_again(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text('[vm]\nname = "again"\n')
    with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
        guest.wait_for("busvm> ")
        guest.type("r")
        guest.wait_for("report: 1 functions")
        guest.wait_for("busvm> ")
        guest.type("q 4")
        assert guest.status() == 4
