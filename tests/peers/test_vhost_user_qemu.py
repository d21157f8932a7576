"""QEMU 7.2 or newer as the front-end of our block device's process: the embedded guest and Debian on its disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import build
from tests.guest.expect import Guest
from tests.peers.test_guest_on_qemu import DISK_SECTORS, REPORT, SECTOR, Disk, Run, disk
from tests.peers.vhost_user_qemu import (
    QEMUS,
    BackEnd,
    Monitor,
    Qemu,
    Serve,
    boot,
    command_line,
    embedded,
    new_qemu,
    system_qemu,
)

__all__ = ["disk"]

pytestmark = pytest.mark.peer


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[BackEnd] = []

    def run(image: Path, *options: str) -> BackEnd:
        folder = tmp_path / f"b{len(started)}"
        folder.mkdir()
        started.append(BackEnd.disk(image, folder, *options))
        return started[-1]

    yield run
    for back_end in started:
        back_end.close()


@pytest.fixture(params=QEMUS)
def qemu(request: pytest.FixtureRequest) -> Qemu:
    return QEMUS[request.param]()


@pytest.mark.parametrize("aia", ["none", "aplic-imsic"])
def test_reads_writes_and_verifies(serve: Serve, qemu: Qemu, disk: Disk, aia: str) -> None:
    back_end = serve(disk.path)

    run = boot(embedded(qemu, back_end, "d r 5 64;d w 100 128 7;d f;d v 100 128 7;d s 500 32;i;q", aia=aia))

    found = REPORT.search(run.text)
    assert found, run.text
    assert found.groups() == ("2", "1", "0")
    identity = run.line("disk0: at=")
    assert (identity["sectors"], identity["id"]) == (str(DISK_SECTORS), '"BUSVM-0"')
    assert int(run.line("read:")["crc32"], 16) == zlib.crc32(disk.content[5 * SECTOR : 69 * SECTOR])
    assert [run.line(word)["result"] for word in ("write:", "flush:", "verify:")] == ["ok"] * 3
    assert (run.line("stress:")["errors"], run.line("interrupts:")["lost"]) == ("0", "0")
    after = disk.path.read_bytes()
    assert zlib.crc32(after[100 * SECTOR : 228 * SECTOR]) == int(run.line("write:")["crc32"], 16)
    assert after[: 100 * SECTOR] == disk.content[: 100 * SECTOR]
    assert after[228 * SECTOR :] == disk.content[228 * SECTOR :]
    again = boot(embedded(qemu, back_end, "d v 100 128 7;q", aia=aia))  # the same process, the next front-end
    assert again.line("verify:")["result"] == "ok"


def test_hostile_accesses_leave_back_end_and_front_end_working(serve: Serve, disk: Disk) -> None:
    back_end = serve(disk.path)

    run = boot(embedded(system_qemu(), back_end, "H;d r 1;q 3"))

    assert run.status == 3, run.text
    assert re.search(r"^hostile: ok kind=rings", run.text, re.MULTILINE), run.text
    assert disk.path.read_bytes() == disk.content


def test_a_read_only_disk_is_one(serve: Serve, qemu: Qemu, disk: Disk) -> None:
    run = boot(embedded(qemu, serve(disk.path, "--readonly"), "d r 1;q"))

    assert run.line("disk0: at=")["read_only"] == "1"
    assert disk.path.read_bytes() == disk.content


def test_back_end_killed_under_load_loses_nothing(serve: Serve, qemu: Qemu, disk: Disk) -> None:
    back_end = serve(disk.path)
    commands = "d w 0 1000 3;" + "d s 60000 32;" * 6 + "d v 0 1000 3;i;q"
    with subprocess.Popen(
        embedded(qemu, back_end, commands), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        guard = threading.Timer(100, process.kill)
        guard.start()
        lines, kills = [], 0
        for line in process.stdout:
            lines.append(line)
            if line.startswith(("write:", "stress:")) and sum(s.startswith("stress:") for s in lines) < 4:
                time.sleep(0.1)  # into the next load
                back_end.kill()
                back_end.start()
                kills += 1
        guard.cancel()
        status = process.wait()

    run = Run("".join(lines), status)
    assert status == 0, run.text
    assert re.findall(r"^stress: .* errors=(\d+)", run.text, re.MULTILINE) == ["0"] * 6
    assert run.line("verify:")["result"] == "ok"
    # killed between the used index and the call, its interrupt comes with its successor, after a tick of the guest's
    assert int(run.line("interrupts:")["lost"]) <= kills


def test_front_end_killed_under_load_and_another_comes(serve: Serve, qemu: Qemu, disk: Disk) -> None:
    back_end = serve(disk.path)
    for _ in range(3):
        with subprocess.Popen(
            embedded(qemu, back_end, "d w 0 64 9;d s 90000000 32"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("write:"):
                    break
            time.sleep(0.2)
            process.kill()

    assert boot(embedded(qemu, back_end, "d v 0 64 9;q")).line("verify:")["result"] == "ok"


def test_a_guest_that_was_stopped_goes_on(serve: Serve, qemu: Qemu, disk: Disk, tmp_path: Path) -> None:
    control = tmp_path / "qmp"
    commands = "d w 0 1000 3;" + "d s 20000 32;" * 4 + "d v 0 1000 3;i;q"
    command = [*embedded(qemu, serve(disk.path), commands), *Monitor.option(control)]
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process,
        Monitor(control) as monitor,
    ):
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(("write:", "stress:")) and sum(s.startswith("stress:") for s in lines) < 3:
                time.sleep(0.05)
                monitor.do("stop")
                monitor.do("cont")
        status = process.wait()

    run = Run("".join(lines), status)
    assert status == 0, run.text
    assert re.findall(r"^stress: .* errors=(\d+)", run.text, re.MULTILINE) == ["0"] * 4
    assert run.line("verify:")["result"] == "ok"


@pytest.mark.boot
@pytest.mark.timeout(600)
def test_debian_on_two_queues_and_a_back_end_that_dies(serve: Serve, tmp_path: Path) -> None:
    image = build("debian")
    shutil.copyfile(image / "root.ext4", tmp_path / "root.ext4")
    back_end = serve(tmp_path / "root.ext4", "--queues", "2")
    command = [
        *command_line(system_qemu(), back_end, board="", memory="512M", device=",num-queues=2,packed=on"), "-smp", "2",
        "-no-reboot", "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", f"console=ttyS0 root=/dev/vda rw {network.SHELL}",
    ]  # fmt: skip
    with Guest(command) as machine:
        network.shell(machine)
        assert "BUSVM-0" in machine.run("cat /sys/block/vda/serial")
        assert machine.run("ls /sys/block/vda/mq | wc -l").strip() == "2"
        assert machine.run("cat /sys/block/vda/device/features").split()[-1][34] == "1"  # VIRTIO_F_RING_PACKED
        write_while_it_dies(machine, back_end)
        assert network.end(machine) == 0


@pytest.mark.boot
@pytest.mark.timeout(600)
def test_debian_on_as_many_queues_as_it_has_and_a_disk_that_grows(serve: Serve, tmp_path: Path) -> None:
    image = build("debian")
    disk = tmp_path / "root.ext4"
    shutil.copyfile(image / "root.ext4", disk)
    back_end = serve(disk)
    command = [
        *command_line(new_qemu(), back_end, board="", memory="512M"), "-smp", "2", "-no-reboot",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", f"console=ttyS0 root=/dev/vda rw {network.SHELL}",
    ]  # fmt: skip
    with Guest(command) as machine:
        network.shell(machine)
        assert machine.run("ls /sys/block/vda/mq | wc -l").strip() == "2"
        size = disk.stat().st_size + (64 << 20)
        os.truncate(disk, size)
        back_end.process.send_signal(signal.SIGHUP)
        assert machine.run("sleep 1; cat /sys/block/vda/size").strip() == str(size // SECTOR)
        write_while_it_dies(machine, back_end)
        assert network.end(machine) == 0


def write_while_it_dies(machine: Guest, back_end: BackEnd) -> None:
    """Write a file while the back-end is killed and started again; it is on the disk, and nobody has complained."""
    machine.type("dd if=/dev/urandom of=/root/blob bs=64k count=256 conv=fsync 2>/dev/null; echo writ''ten")
    time.sleep(0.5)
    back_end.kill()
    back_end.start()
    machine.wait_for("written", 120)
    before = machine.run("sha256sum /root/blob", 120).split()[0]
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    assert machine.run("sha256sum /root/blob", 120).split()[0] == before
    assert "I/O error" not in machine.run("dmesg")
