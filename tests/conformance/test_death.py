"""Death and return: ``kill -9`` under load, writes sent again, images, bus and arguments that are not there."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devproc.virtio_spec import Feature
from tests.conformance.conftest import Start
from tests.conformance.driver import DRIVERS, IN, OUT, Driver, Request
from tests.conformance.fake_cpu import FakeCpu

BLOCKS = 512
RINGS = [
    Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX | Feature.RING_PACKED,
]


def wait_gone(cpu: FakeCpu) -> None:
    """Wait until the device's name is free."""
    while cpu.run(cpu.bus.name_owner(cpu.bus_name)):
        time.sleep(0.002)
    cpu._owners[cpu.bus_name] = ""


@pytest.mark.parametrize("features", RINGS)
def test_kill_under_load_loses_and_repeats_nothing_the_guest_can_see(
    cpu: FakeCpu, start: Start, image: Path, transport: str, features: int
) -> None:
    process = start("--image", str(image), "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu, size=128, features=features)
    driver.probe()
    chance = random.Random(1)
    version = [0] * BLOCKS
    busy: dict[int, tuple[int, Request]] = {}
    completed = 0

    def fill() -> None:
        used = {block for block, _ in busy.values()}
        while len(busy) < 32:
            block = chance.randrange(BLOCKS)
            if block in used:
                continue
            used.add(block)
            version[block] += 1
            data = (block << 32 | version[block]).to_bytes(8, "little") * 512
            request = driver.submit(OUT, block * 8, data)
            busy[request.head] = (block, request)
        driver.kick()

    def reap(timeout_s: float) -> int:
        done = driver.wait(timeout_s=timeout_s)
        for head, written in done:
            _, request = busy.pop(head)
            assert written == 1
            assert cpu.ram.read(request.status, 1) == b"\0"
            driver.recycle(request)
        return len(done)

    for kill in range(6):
        goal = completed + 60 + 37 * kill
        while completed < goal:
            fill()
            completed += reap(10)
        fill()
        process.kill()
        wait_gone(cpu)
        process = start("--image", str(image), "--transport", transport)
        assert cpu.attach() == {"version": 1, "epoch": kill + 2, "resumed": 1}
    while busy:
        completed += reap(10)

    assert completed == sum(version)
    content = image.read_bytes()
    for block in range(BLOCKS):
        if version[block]:
            data = (block << 32 | version[block]).to_bytes(8, "little") * 512
            assert content[block * 4096 : block * 4096 + 4096] == data
    assert process.terminate() == 0


def test_posted_writes_that_died_with_the_device_are_sent_again(
    cpu: FakeCpu, start: Start, image: Path, transport: str
) -> None:
    process = start("--image", str(image), "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu)
    driver.probe()
    process.kill()
    wait_gone(cpu)

    for select in (0, 1):
        cpu.post(*driver.place("device_feature_select"), select)
    request = driver.submit(IN, 4, 512)
    driver.kick()
    start("--image", str(image), "--transport", transport)
    cpu.attach()

    assert driver.wait()[0][0] == request.head
    assert driver.get("device_feature") & 1  # VERSION_1


def test_reset_that_died_half_way_is_finished(cpu: FakeCpu, start: Start, image: Path, transport: str) -> None:
    process = start("--image", str(image), "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu)
    driver.probe()
    driver.submit(IN, 4, 512)
    process.kill()
    wait_gone(cpu)

    cpu.post(*driver.place("status"), 0)
    driver.kick(always=True)
    start("--image", str(image), "--transport", transport)
    cpu.attach()

    assert driver.status() == 0
    again = DRIVERS[transport](cpu)
    again.probe()
    assert again.do(IN, 6, 512)[0] == 0


def test_both_interrupts_are_raised_once_on_return(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image))
    cpu.attach()
    driver = Driver(cpu)
    driver.probe()
    process.kill()
    wait_gone(cpu)
    before = cpu.word(1), cpu.word(2)

    start("--image", str(image))
    cpu.attach()

    assert (cpu.word(1), cpu.word(2)) == (before[0] + 1, before[1] + 1)


def test_other_shape_is_refused(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image))
    cpu.attach()
    process.kill()
    wait_gone(cpu)
    start("--image", str(image), "--queues", "2")
    cpu.wait_for_device()
    cpu.prepare()
    cpu._doorbells.append(cpu._doorbells[0])

    with pytest.raises(Exception, match=r"other BARs|shared object has \d+ bytes"):
        cpu.call("org.busvm.Device1", "Attach", "a{sv}", cpu.offer())
    cpu._doorbells.pop()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the device in the foreground."""
    command = [sys.executable, "-m", "devproc.virtio_blk", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--bus", "unix:path=/nonexistent", "--id", "d", "--image", "{image}"], 4, "cannot reach the bus"),
        (["--bus", "x", "--id", "d"], 2, "--image is missing"),
        (["--bus", "x", "--id", "7up", "--image", "{image}"], 2, "--id '7up'"),
        (["--image", "{image}"], 2, "nothing to do"),
        (["--nonsense"], 2, "unrecognized"),
        (["--bus", "x", "--id", "d", "--image", "/nonexistent/disk"], 4, "No such file"),
        (["--bus", "x", "--id", "d", "--image", "/dev/null"], 2, "neither a file nor a block device"),
        (["--bus", "x", "--id", "d", "--image", "{image}", "--queues", "0"], 2, "--queues 0"),
        (["--bus", "x", "--id", "d", "--image", "{odd}"], 2, "not a multiple of 512"),
    ],
)
def test_bad_start_ends_early_with_one_line(
    image: Path, tmp_path: Path, arguments: list[str], status: int, text: str
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1000)
    result = run(*[word.format(image=image, odd=odd) for word in arguments])

    assert result.returncode == status
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_image_has_one_writer(start: Start, cpu: FakeCpu, image: Path) -> None:
    process = start("--image", str(image))
    cpu.wait_for_device()

    result = run("--bus", "x", "--id", "d", "--image", str(image))

    assert result.returncode == 4
    assert f"locked by process {process.pid}" in result.stderr


def test_capabilities_need_nothing_else() -> None:
    result = run("--print-capabilities")

    assert result.returncode == 0
    assert result.stdout == '{"type": "block", "features": ["read-only", "blk-file"]}\n'


def test_second_device_of_a_name_is_refused(start: Start, cpu: FakeCpu, image: Path, tmp_path: Path) -> None:
    start("--image", str(image))
    cpu.wait_for_device()
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))

    second = start("--image", str(other))

    assert second.wait() == 4
    assert "is taken on this bus" in second.log
