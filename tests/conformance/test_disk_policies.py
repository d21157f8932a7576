"""What a disk does beyond requests, as a machine and an operator see it: sizes, snapshots, limits, a full host."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol import names
from protocol.bus import BusError
from protocol.objects import Tree
from tests.conformance.conftest import Start
from tests.conformance.driver import DISCARD, DRIVERS, FLUSH, IN, OUT, WRITE_ZEROES, Driver
from tests.conformance.fake_cpu import DEVICE1, FakeCpu
from tests.conformance.test_virtio_blk import sector

BLOCK1 = "org.busvm.Block1"


class Machine1:
    """As much of org.busvm.Machine1 as a device calls."""

    state, state_reason = "running", ""

    async def pause_for(self, reason: str) -> None:
        """Pause."""
        self.state, self.state_reason = "paused", reason


@pytest.fixture
def machine(cpu: FakeCpu) -> Machine1:
    """Return a machine on the bus that can be paused."""
    machine = Machine1()

    async def show() -> None:
        Tree(cpu.bus, names.ROOT_PATH).add(names.MACHINE_PATH, "org.busvm.Machine1", machine)
        await cpu.bus.request_name(names.MACHINE_NAME)

    cpu.run(show())
    return machine


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ready(cpu: FakeCpu, transport: str = "pci") -> Driver:
    """Attach and return a driver whose disk is ready."""
    cpu.attach()
    driver = DRIVERS[transport](cpu)
    driver.probe()
    return driver


def successor(cpu: FakeCpu, start: Start, *arguments: str, module: str = "devproc.virtio_blk") -> None:
    """Start a process in the place of one that was killed."""
    assert until(lambda: not cpu.run(cpu.bus.name_owner(cpu.bus_name)))
    cpu._owners.clear()
    start(*arguments, module=module)
    cpu.wait_for_device()


def test_resize_is_seen_by_the_driver(cpu: FakeCpu, start: Start, image: Path, transport: str) -> None:
    start("--image", str(image), "--transport", transport)
    driver = ready(cpu, transport)
    assert cpu.get("Size", BLOCK1) == 4 << 20
    before = cpu.word(1 if driver.msix else 0)

    cpu.call(BLOCK1, "Resize", "t", 8 << 20)

    assert driver.config(0, 8) == 16384
    if driver.msix:
        assert cpu.word(1) == before + 1
    else:
        assert driver.acknowledge() & 2
    assert driver.do(OUT, 16383, b"e" * 512)[0] == 0
    assert image.stat().st_size == 8 << 20
    with pytest.raises(BusError, match="cut it off"):
        cpu.call(BLOCK1, "Resize", "t", 4 << 20)


def test_block1_says_how_the_disk_is(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--cache", "writethrough", "--block-size", "4096")
    driver = ready(cpu)

    found = {
        name: cpu.get(name, BLOCK1) for name in ("Image", "BlockSize", "CacheMode", "ReadOnly", "LastError", "Lost")
    }

    assert found == {
        "Image": str(image),
        "BlockSize": 4096,
        "CacheMode": "writethrough",
        "ReadOnly": False,
        "LastError": "",
        "Lost": False,
    }
    assert (driver.config(0x14, 4), driver.config(0x20, 1)) == (4096, 0)


def test_no_cache_of_the_hosts(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image), "--cache", "none")
    try:
        driver = ready(cpu)
    except Exception:
        if process.wait() == 4 and "no direct I/O" in process.log:
            pytest.skip("no direct I/O here")
        raise

    assert driver.do(OUT, 3, b"w" * 512)[0] == 0
    assert driver.do(IN, 2, 1536) == (0, sector(2) + b"w" * 512 + sector(4))
    assert driver.do(FLUSH)[0] == 0


def test_a_discard_of_several_ranges(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image))
    driver = ready(cpu)
    blocks = image.stat().st_blocks
    ranges = b"".join(
        first.to_bytes(8, "little") + (64).to_bytes(4, "little") + bytes(4) for first in range(0, 1024, 128)
    )

    assert driver.config(0x28, 4) == 32
    assert driver.do(DISCARD, 0, ranges)[0] == 0

    assert image.stat().st_blocks == blocks - 8 * 64
    assert driver.do(IN, 64, 512) == (0, sector(64))


def test_a_snapshot_is_gone_with_its_process_and_no_successor_pretends(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image), "--snapshot")
    driver = ready(cpu)
    before = image.read_bytes()
    assert driver.do(OUT, 5, b"s" * 1024)[0] == 0
    zeroes = (100).to_bytes(8, "little") + (300).to_bytes(4, "little") + bytes(4)
    assert driver.do(WRITE_ZEROES, 0, zeroes)[0] == 0
    assert driver.do(IN, 4, 2048) == (0, sector(4) + b"s" * 1024 + sector(7))
    assert driver.do(IN, 399, 1024) == (0, bytes(512) + sector(400))
    assert image.read_bytes() == before

    process.kill()
    successor(cpu, start, "--image", str(image), "--snapshot")

    with pytest.raises(BusError, match="ended with the process"):
        cpu.attach()
    assert cpu.get("State") == "waiting"
    assert cpu.get("CacheMode", BLOCK1) == "writeback"


def test_limits_slow_the_disk_and_not_the_device(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--iops", "20")
    driver = ready(cpu)
    began = time.monotonic()
    for number in range(30):
        driver.submit(IN, number, 512)
    driver.kick()

    assert until(lambda: cpu.get("Waiting", BLOCK1) > 0)
    asked = time.monotonic()
    cpu.barrier("flush")
    answered = time.monotonic()
    driver.wait(30)

    assert answered - asked < 0.3
    assert 0.4 < time.monotonic() - began < 5


def test_bytes_a_second(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--bytes-per-second", "1M")
    driver = ready(cpu)
    began = time.monotonic()
    for _ in range(6):
        assert driver.do(IN, 0, 256 << 10)[0] == 0

    assert 0.2 < time.monotonic() - began < 5


def test_queues_share_the_limits_and_each_gets_its_answers(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--iops", "40", "--queues", "2")
    cpu.attach()
    driver = DRIVERS["pci"](cpu, queues=2, size=64)
    driver.probe()
    for number in range(30):
        for index in (0, 1):
            driver.submit(IN, number, 512, index=index)
            driver.kick(index, always=True)

    assert (len(driver.wait(30)), len(driver.wait(30, index=1))) == (30, 30)


def test_a_killed_device_does_what_waited_for_its_limits(cpu: FakeCpu, start: Start, image: Path) -> None:
    arguments = ("--image", str(image), "--iops", "5")
    process = start(*arguments)
    driver = ready(cpu)
    requests = {driver.submit(OUT, number, bytes([number]) * 512).head for number in range(8)}
    driver.kick()
    done = driver.wait(2)

    process.kill()
    successor(cpu, start, *arguments)
    cpu.attach()

    done += driver.wait(8 - len(done))
    assert {head for head, _ in done} == requests
    assert image.read_bytes()[: 8 * 512] == b"".join(bytes([number]) * 512 for number in range(8))


@pytest.mark.parametrize("killed", [False, True])
def test_a_full_host_pauses_the_machine_and_nothing_is_lost(
    cpu: FakeCpu, start: Start, image: Path, machine: Machine1, killed: bool
) -> None:
    full = image.with_suffix(".full")
    arguments = ("--image", str(image), "--on-error", "pause")
    process = start(*arguments, module="tests.conformance.full_disk")
    driver = ready(cpu)
    full.touch()

    requests = [driver.submit(OUT, number, b"w" * 512) for number in (3, 4)]
    driver.kick()
    assert until(lambda: machine.state == "paused" and cpu.get("Waiting", BLOCK1) == 2)
    assert machine.state_reason == f"disk0: {image}: ENOSPC: No space left on device"
    assert not driver.queues[0].collect()
    assert cpu.get("LastError", BLOCK1).startswith("ENOSPC")
    assert driver.do(IN, 9, 512) == (0, sector(9))
    if killed:
        process.kill()
        successor(cpu, start, *arguments, module="tests.conformance.full_disk")
        cpu.attach()
        assert until(lambda: cpu.get("Waiting", BLOCK1) == 2)
    full.unlink()
    machine.state = "running"

    assert {head for head, _ in driver.wait(2)} == {request.head for request in requests}
    assert [cpu.ram.read(request.status, 1) for request in requests] == [b"\0", b"\0"]
    assert image.read_bytes()[3 * 512 : 5 * 512] == b"w" * 1024
    counters = cpu.get("Counters", DEVICE1)
    assert counters["host_error_ENOSPC"] >= 2
    assert "failed_requests" not in counters


def test_without_a_machine_to_pause_a_full_host_is_reported(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--on-error", "pause", module="tests.conformance.full_disk")
    driver = ready(cpu)
    image.with_suffix(".full").touch()

    assert driver.do(OUT, 3, b"w" * 512)[0] == 1
    assert driver.do(OUT, 3, b"w" * 512)[0] == 1
    image.with_suffix(".full").unlink()
    assert driver.do(OUT, 3, b"w" * 512)[0] == 0
