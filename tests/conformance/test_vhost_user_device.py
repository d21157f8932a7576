"""The vhost-user device's process: a disk of somebody else's, here of our own back-end, on a machine without a CPU."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import DeviceProcess, Start
from tests.conformance.driver import DRIVERS, GET_ID, IN, OUT, Driver, Request
from tests.conformance.fake_cpu import FakeCpu
from tests.conformance.test_death import wait_gone

BLOCKS = 512
Serve = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def place(runtime: Path) -> Iterator[Path]:
    """Return where the back-end listens."""
    path = runtime / "back-end"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def serve(image: Path, place: Path) -> Iterator[Serve]:
    """Return a function that starts the back-end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "devproc.virtio_blk", "--vhost-user", str(place), "--image", str(image)]
        process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def connect(start: Start, place: Path, transport: str) -> Callable[..., DeviceProcess]:
    """Return a function that starts the device, which waits for its back-end."""

    def run(*arguments: str) -> DeviceProcess:
        where = ("--socket", str(place), "--wait", "10", "--transport", transport)
        return start("--device", "blk", *where, *arguments, module="devproc.vhost_user")

    return run


@pytest.fixture
def driver(cpu: FakeCpu, serve: Serve, connect: Callable[..., DeviceProcess], transport: str) -> Driver:
    """Return a driver whose disk is ready."""
    serve("--serial", "far-away")
    connect()
    cpu.attach()
    driver = DRIVERS[transport](cpu)
    driver.probe()
    return driver


class Load:
    """Writes of versioned blocks, many at a time, and what the image must hold when all have come back."""

    def __init__(self, cpu: FakeCpu, driver: Driver) -> None:
        self.cpu, self.driver = cpu, driver
        self.completed = 0
        self.version = [0] * BLOCKS
        self.busy: dict[int, tuple[int, Request]] = {}
        self._chance = random.Random(1)

    def fill(self) -> None:
        """Have 32 writes under way."""
        used = {block for block, _ in self.busy.values()}
        while len(self.busy) < 32:
            block = self._chance.randrange(BLOCKS)
            if block in used:
                continue
            used.add(block)
            self.version[block] += 1
            data = (block << 32 | self.version[block]).to_bytes(8, "little") * 512
            request = self.driver.submit(OUT, block * 8, data)
            self.busy[request.head] = (block, request)
        self.driver.kick()

    def reap(self, *, wait: bool = True) -> None:
        """Take back what is done, each once."""
        for head, written in self.driver.wait() if wait else self.driver.queues[0].collect():
            _, request = self.busy.pop(head)
            assert written == 1
            assert self.cpu.ram.read(request.status, 1) == b"\0"
            self.driver.recycle(request)
            self.completed += 1

    def work(self, count: int) -> None:
        """Do at least so many, and leave more under way."""
        goal = self.completed + count
        while self.completed < goal:
            self.fill()
            self.reap()
        self.fill()

    def finish(self, image: Path) -> None:
        """Wait for all, and compare."""
        while self.busy:
            self.reap()
        assert self.completed == sum(self.version)
        content = image.read_bytes()
        for block, version in enumerate(self.version):
            if version:
                data = (block << 32 | version).to_bytes(8, "little") * 512
                assert content[block * 4096 : block * 4096 + 4096] == data


def test_requests_go_past_the_device_process(cpu: FakeCpu, driver: Driver, transport: str) -> None:
    assert driver.config(0, 8) == 8192
    assert driver.do(GET_ID, 0, 20) == (0, b"far-away".ljust(20, b"\0"))
    assert driver.do(OUT, 8, b"\xa5" * 4096) == (0, b"\xa5" * 4096)
    assert driver.do(IN, 8, 4096) == (0, b"\xa5" * 4096)
    assert driver.do(IN, 3, 512) == (0, (3).to_bytes(4, "little") * 128)

    seen = cpu.get("Counters").get("calls", 0)  # interrupts that the device process had to pass on
    cpu.take_calls()

    assert (seen > 0) == (transport == "mmio")
    assert (cpu.counters["calls"] > 0) == (transport == "pci")


def test_writes_of_the_config_space_reach_the_back_end(driver: Driver) -> None:
    bar, base = driver.places[4]
    assert driver.config(32, 1) == 1

    driver.cpu.write(bar, base + 32, 1, 0)

    assert driver.config(32, 1) == 0


def test_a_back_end_that_is_killed_under_load_is_waited_for(
    cpu: FakeCpu, serve: Serve, connect: Callable[..., DeviceProcess], image: Path, transport: str
) -> None:
    back_end = serve()
    connect()
    cpu.attach()
    driver = DRIVERS[transport](cpu, size=64)
    driver.probe()
    load = Load(cpu, driver)
    for kill in range(4):
        load.work(60 + 37 * kill)
        back_end.kill()
        back_end.wait()
        back_end = serve()
    load.finish(image)


def test_a_device_process_that_is_killed_under_load_is_replaced(
    cpu: FakeCpu, serve: Serve, connect: Callable[..., DeviceProcess], image: Path, transport: str
) -> None:
    serve()
    process = connect()
    cpu.attach()
    driver = DRIVERS[transport](cpu, size=64)
    driver.probe()
    load = Load(cpu, driver)
    for kill in range(3):
        load.work(60 + 37 * kill)
        process.kill()
        wait_gone(cpu)
        process = connect()
        assert cpu.attach() == {"version": 1, "epoch": kill + 2, "resumed": 1}
    load.finish(image)
    assert process.terminate() == 0


def test_the_rings_stop_at_a_boundary_and_go_on(cpu: FakeCpu, driver: Driver, image: Path) -> None:
    load = Load(cpu, driver)
    for _ in range(3):
        load.work(40)
        assert cpu.barrier("quiesce") is not None
        before = image.read_bytes()
        time.sleep(0.05)
        assert image.read_bytes() == before
        assert [queue["given"] for queue in cpu.call("org.busvm.Queues1", "List")[0]] == [0]
        assert cpu.barrier("resume") is not None
    load.finish(image)


def test_a_reset_takes_the_rings_back_and_the_next_driver_gets_them(
    cpu: FakeCpu, driver: Driver, transport: str
) -> None:
    load = Load(cpu, driver)
    for _ in range(3):
        load.fill()
        driver.reset()
        load.busy.clear()
        driver = DRIVERS[transport](cpu)
        driver.probe()
        load.driver = driver
        assert driver.do(IN, 4096, 512) == (0, (4096).to_bytes(4, "little") * 128)
    assert cpu.barrier("reset") is not None
    driver = DRIVERS[transport](cpu)
    driver.probe()
    assert driver.do(IN, 4097, 512) == (0, (4097).to_bytes(4, "little") * 128)


def test_without_a_back_end_it_says_so_and_how_to_wait(start: Start, place: Path) -> None:
    process = start("--device", "blk", "--socket", str(place), module="devproc.vhost_user")

    assert process.wait() == 4
    assert "no back-end" in process.log
    assert "--wait" in process.log
