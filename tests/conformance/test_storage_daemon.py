"""qemu-storage-daemon as the back-end of the vhost-user device's process, on a machine without a CPU."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devproc.virtio_spec import Status
from tests.conformance.conftest import Start
from tests.conformance.driver import OUT, Driver
from tests.conformance.fake_cpu import FakeCpu
from tests.conformance.test_death import wait_gone
from tests.conformance.test_vhost_user_device import BLOCKS, Load
from tests.peers.back_ends import DAEMON, blockdevs, export, make, newer, program, wait_for

pytestmark = pytest.mark.peer

Serve = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def place(runtime: Path) -> Iterator[Path]:
    path = runtime / "daemon"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(params=["raw", "qcow2"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a disk image whose name says what it is."""
    return make(request.param, tmp_path / f"disk.{request.param}")


@pytest.fixture
def serve(image: Path, place: Path) -> Iterator[Serve]:
    """Return a function that starts the storage daemon on the image."""
    started: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        command = [program(DAEMON), *blockdevs(image.suffix[1:], str(image)), *export(str(place))]
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        process.wait(10)


class Disk:
    """The device process, its daemon, and a driver."""

    def __init__(self, cpu: FakeCpu, start: Start, serve: Serve, place: Path) -> None:
        self.cpu, self._start, self._serve, self._place = cpu, start, serve, place
        self.daemon = serve()
        self.join()
        self.drive()

    def join(self) -> None:
        """Start the device process."""
        where = ("--socket", str(self._place), "--wait", "10")
        self.process = self._start("--device", "blk", *where, module="devproc.vhost_user")
        self.cpu.attach()

    def drive(self) -> None:
        """Begin with a new driver."""
        self.driver = Driver(self.cpu, size=64)
        self.driver.probe()
        self.load = Load(self.cpu, self.driver)

    def kill_daemon(self) -> None:
        """Kill it and start another."""
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = self._serve()

    def finish(self, image: Path, tmp_path: Path) -> None:
        """End everything, and compare what is in the image."""
        while self.load.busy:
            self.load.reap()
        assert self.process.terminate() == 0
        self.daemon.terminate()
        self.daemon.wait(10)
        raw = tmp_path / "content"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
        self.load.finish(raw)


def test_the_storage_daemon_serves_and_our_process_may_be_killed(
    cpu: FakeCpu, start: Start, serve: Serve, place: Path, image: Path, tmp_path: Path
) -> None:
    disk = Disk(cpu, start, serve, place)
    assert disk.driver.config(0, 8) == 32768
    for kill in range(3):
        disk.load.work(100 + 31 * kill)
        disk.process.kill()
        wait_gone(cpu)
        disk.join()
    assert disk.driver.status() & Status.NEEDS_RESET == 0
    disk.finish(image, tmp_path)


def test_a_storage_daemon_that_is_killed_idle_is_replaced_and_one_that_was_busy_breaks_the_device(
    cpu: FakeCpu, start: Start, serve: Serve, place: Path, image: Path, tmp_path: Path
) -> None:
    disk = Disk(cpu, start, serve, place)
    disk.load.work(100)
    while disk.load.busy:
        disk.load.reap()
    disk.kill_daemon()
    wait_for(lambda: cpu.get("Counters").get("lost_back_ends") == 1)  # seen before there is more to do
    disk.load.work(100)  # goes on by itself

    disk.daemon.send_signal(signal.SIGSTOP)  # what is under way stays under way
    time.sleep(0.1)
    disk.load.reap(wait=False)
    disk.load.fill()
    disk.kill_daemon()
    # it has no in-flight tables: nobody knows what it did
    wait_for(lambda: bool(disk.driver.status() & Status.NEEDS_RESET))
    disk.drive()
    disk.load.work(BLOCKS // 4)
    disk.finish(image, tmp_path)


def order(place: Path, execute: str, **arguments: object) -> None:
    """Have the storage daemon do something (QMP)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place))
        with sock.makefile("rw") as lines:
            assert "QMP" in lines.readline()
            for name, given in (("qmp_capabilities", {}), (execute, arguments)):
                lines.write(json.dumps({"execute": name, "arguments": given}) + "\n")
                lines.flush()
                assert "return" in lines.readline()


def test_growth_of_the_daemons_disk_reaches_the_driver(
    cpu: FakeCpu, start: Start, place: Path, runtime: Path, tmp_path: Path
) -> None:
    image, monitor = make("qcow2", tmp_path / "disk.qcow2"), runtime / "monitor"
    chardev = ["--chardev", f"socket,id=m,path={monitor},server=on,wait=off", "--monitor", "chardev=m"]
    command = [*newer("bin/qemu-storage-daemon"), *blockdevs("qcow2", str(image)), *export(str(place)), *chardev]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # that of Debian 12 does not tell
    try:
        start("--device", "blk", "--socket", str(place), "--wait", "10", module="devproc.vhost_user")
        cpu.attach()
        driver = Driver(cpu)
        driver.probe()
        word = cpu.word(1)
        order(monitor, "block_resize", **{"node-name": "top", "size": 32 << 20})

        cpu.wait_interrupt(1, word)

        assert driver.config(0, 8) == 65536
        assert driver.do(OUT, 65535, b"\x5a" * 512)[0] == 0
    finally:
        daemon.terminate()
        daemon.wait(10)
        monitor.unlink(missing_ok=True)
