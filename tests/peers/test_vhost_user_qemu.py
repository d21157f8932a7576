"""QEMU 7.2 or newer as the front-end of our block device's process: the embedded guest and Debian on its disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import guest
from tests.guest.conftest import build
from tests.guest.expect import Guest
from tests.guest.test_debian import PASSWORD
from tests.peers.test_guest_on_qemu import DISK_SECTORS, REPORT, SECTOR, Disk, Run, disk, qemu

__all__ = ["disk", "qemu"]

pytestmark = pytest.mark.peer


class BackEnd:
    """The process under test; ``start`` again after ``kill``."""

    def __init__(self, image: Path, folder: Path, *options: str) -> None:
        self.socket = folder / "vhost"
        self.log = folder / "back-end.log"
        self._command = [
            sys.executable, "-m", "devproc.virtio_blk", "--vhost-user", str(self.socket), "--image", str(image),
            "--serial", "BUSVM-0", *options,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        before = self.socket.stat().st_ino if self.socket.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 10
        while not self.socket.exists() or self.socket.stat().st_ino == before:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert "Traceback" not in self.log.read_text()


Serve = Callable[..., BackEnd]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[BackEnd] = []

    def run(image: Path, *options: str) -> BackEnd:
        started.append(BackEnd(image, tmp_path, *options))
        return started[-1]

    yield run
    for back_end in started:
        back_end.close()


def command_line(program: str, back_end: BackEnd, *, board: str, memory: str, device: str = "") -> list[str]:
    return [
        program, "-M", f"virt,memory-backend=m{board}", "-m", memory, "-display", "none", "-monitor", "none",
        "-serial", "stdio", "-object", f"memory-backend-memfd,id=m,size={memory},share=on",
        "-chardev", f"socket,id=c,path={back_end.socket},reconnect=1",
        "-device", f"vhost-user-blk-pci,disable-legacy=on,chardev=c{device}",
    ]  # fmt: skip


def embedded(program: str, back_end: BackEnd, commands: str, aia: str = "aplic-imsic", *extra: str) -> list[str]:
    line = command_line(program, back_end, board=f",aia={aia}", memory="128M")
    return [*line, *extra, "-kernel", str(guest.elf_path()), "-append", f'run="{commands}"']


def boot(command: list[str]) -> Run:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    return Run(done.stdout, done.returncode)


@pytest.mark.parametrize("aia", ["none", "aplic-imsic"])
def test_reads_writes_and_verifies(serve: Serve, qemu: str, disk: Disk, aia: str) -> None:
    back_end = serve(disk.path)

    run = boot(embedded(qemu, back_end, "d r 5 64;d w 100 128 7;d f;d v 100 128 7;d s 500 32;i;q", aia))

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
    again = boot(embedded(qemu, back_end, "d v 100 128 7;q", aia))  # the same process, the next front-end
    assert again.line("verify:")["result"] == "ok"


def test_hostile_accesses_leave_back_end_and_front_end_working(serve: Serve, qemu: str, disk: Disk) -> None:
    back_end = serve(disk.path)

    run = boot(embedded(qemu, back_end, "H;d r 1;q 3"))

    assert run.status == 3, run.text
    assert re.search(r"^hostile: ok kind=rings", run.text, re.MULTILINE), run.text
    assert disk.path.read_bytes() == disk.content


def test_a_read_only_disk_is_one(serve: Serve, qemu: str, disk: Disk) -> None:
    run = boot(embedded(qemu, serve(disk.path, "--readonly"), "d r 1;q"))

    assert run.line("disk0: at=")["read_only"] == "1"
    assert disk.path.read_bytes() == disk.content


def test_back_end_killed_under_load_loses_nothing(serve: Serve, qemu: str, disk: Disk) -> None:
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


def test_front_end_killed_under_load_and_another_comes(serve: Serve, qemu: str, disk: Disk) -> None:
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


@pytest.mark.boot
@pytest.mark.timeout(600)
def test_debian_on_two_queues_and_a_back_end_that_dies(serve: Serve, qemu: str, tmp_path: Path) -> None:
    image = build("debian")
    shutil.copyfile(image / "root.ext4", tmp_path / "root.ext4")
    back_end = serve(tmp_path / "root.ext4", "--queues", "2")
    command = [
        *command_line(qemu, back_end, board="", memory="512M", device=",num-queues=2,packed=on"),
        "-smp", "2", "-no-reboot",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", "console=ttyS0 root=/dev/vda rw",
    ]  # fmt: skip
    with Guest(command) as machine:
        machine.login(PASSWORD)
        assert "BUSVM-0" in machine.run("cat /sys/block/vda/serial")
        assert machine.run("ls /sys/block/vda/mq | wc -l").strip() == "2"
        assert machine.run("cat /sys/block/vda/device/features").strip()[34] == "1"  # VIRTIO_F_RING_PACKED
        machine.type("dd if=/dev/urandom of=/root/blob bs=64k count=256 conv=fsync 2>/dev/null; echo writ''ten")
        time.sleep(0.5)
        back_end.kill()
        back_end.start()
        machine.wait_for("written", 120)
        before = machine.run("sha256sum /root/blob", 120).split()[0]
        machine.run("echo 3 > /proc/sys/vm/drop_caches")
        assert machine.run("sha256sum /root/blob", 120).split()[0] == before
        assert "I/O error" not in machine.run("dmesg")
        machine.type("poweroff")
        assert machine.status(120) == 0
