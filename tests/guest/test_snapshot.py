"""Snapshots of whole machines: the guest goes on in new processes, and its own checksums say that nothing is amiss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = pytest.mark.timeout(300)

EMBEDDED = """
[vm]
name = "{name}"
memory = "64M"
[[device]]
id = "disk0"
type = "virtio-blk"
image = "one.raw"
{more}
[[device]]
id = "rng0"
type = "virtio-rng"
[[device]]
id = "extra"
type = "python:devproc.template"
"""


def orchestrator(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def embedded(folder: Path, name: str, more: str = "") -> Path:
    """Return the vm.toml of an embedded guest with a disk."""
    (folder / "one.raw").write_bytes(bytes(4 << 20))
    path = folder / "vm.toml"
    path.write_text(EMBEDDED.format(name=name, more=more))
    return path


def up(path: Path, *words: str) -> Guest:
    """Start it."""
    return Guest([sys.executable, "-m", "orchestrator", "up", str(path), *words])


def command(guest: Guest, line: str) -> str:
    """Give the embedded guest a command; return what it says."""
    guest.type(line)
    return guest.wait_for("busvm> ", 60)


@pytest.mark.parametrize("more", ["queues = 2", "snapshot = true"])
def test_a_guest_is_put_away_and_goes_on_with_its_disk(tmp_path: Path, more: str) -> None:
    path, name = embedded(tmp_path, "putaway", more), "putaway"
    folder = f"{tmp_path}/saved"
    with up(path) as guest:
        guest.wait_for("busvm> ", 60)
        assert "result=ok" in command(guest, "d w 0 512 7")
        done = orchestrator("snapshot", "save", name, folder, "--stop")
        assert done.returncode == 0, done.stderr
        assert guest.status() == 0
    for seed in (8, 9):  # twice from the same, if the disk forgets, else from the next
        with up(path, "--restore", folder) as guest:
            guest.type("")
            guest.wait_for("busvm> ", 60)
            assert "result=ok" in command(guest, "d v 0 512 7")
            assert "result=ok" in command(guest, f"d w 1000 64 {seed}")
            assert "result=ok" in command(guest, "d s 64 8") or "errors=0" in guest.output
            assert "lost=0" in command(guest, "i")
            done = orchestrator("snapshot", "save", name, folder, "--replace", "--stop")
            assert done.returncode == 0, done.stderr
            assert guest.status() == 0


def test_what_does_not_fit_is_said_before_the_guest_runs(tmp_path: Path) -> None:
    path, folder = embedded(tmp_path, "unfit"), f"{tmp_path}/saved"
    with up(path) as guest:
        guest.wait_for("busvm> ", 60)
        assert orchestrator("snapshot", "save", "unfit", folder).returncode == 0
        again = orchestrator("snapshot", "save", "unfit", folder)
        assert (again.returncode, "there is a snapshot" in again.stderr) == (2, True)
        assert "result=ok" in command(guest, "d w 0 8 3")  # it goes on, and the snapshot is of an image that was
        orchestrator("down", "unfit", "-t", "0")

    def refused(*words: str) -> str:
        done = orchestrator("up", path, "-d", "--wait", "--restore", folder, *words)
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "disk0 cannot go on from the snapshot: image" in (said := refused())
    assert "was written after the snapshot was made" in said
    assert "of another machine" in refused("--set", "vm.memory=32M")
    text = path.read_text()
    path.write_text(text.replace('id = "extra"', 'id = "other"'))
    assert "the snapshot has the devices" in refused()
    path.write_text(text.replace('type = "virtio-rng"', 'type = "virtio-console"'))
    assert "cannot go on from the snapshot" in refused()
    path.write_text(text)
    ram = tmp_path / "saved" / "ram"
    data = bytearray(ram.read_bytes())
    data[len(data) // 2] ^= 1
    ram.write_bytes(data)
    assert "ram is damaged" in refused()
    assert "has no snapshot" in orchestrator("up", path, "--restore", "none").stderr


def test_debian_goes_on_with_its_memory_its_files_and_its_card(debian: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    text = on_a_snapshot("asleep").format(image=debian).replace("root=/dev/vda rw", f"root=/dev/vda rw {network.SHELL}")
    path.write_text(text + '[[device]]\nid = "net0"\ntype = "virtio-net"\nbackend = "user"\n')
    folder = tmp_path / "saved"
    with up(path) as guest:
        network.shell(guest)
        sums = guest.run(
            "head -c 20000000 /dev/urandom > /tmp/m; head -c 20000000 /dev/urandom > /root/f; sync; "
            "echo 3 > /proc/sys/vm/drop_caches; sha256sum /tmp/m /root/f"
        )
        guest.run("ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; while :; do :; done & true")
        assert network.ping(guest, "10.0.2.2") == 3
        done = orchestrator("snapshot", "save", "asleep", folder)
        assert done.returncode == 0, done.stderr
        guest.run("rm /tmp/m /root/f; sync")
        assert network.end(guest) == 0
    with up(path, "--restore", f"{folder}") as guest:
        guest.type("")
        assert guest.run("sha256sum /tmp/m /root/f").split()[-4:] == sums.split()[-4:]
        assert network.ping(guest, "10.0.2.2") == 3
        guest.run("kill %1; head -c 1000000 /dev/urandom > /root/g; sync; echo 3 > /proc/sys/vm/drop_caches")
        assert network.digest_of(guest.run("sha256sum /root/f")) in sums  # from the disk this time
        assert "none" in guest.run("dmesg | grep -i 'error\\|lockup\\|stall' || echo none")
        assert network.end(guest) == 0
