"""The virtio-blk process as a machine sees it: attach, negotiate, requests, several queues, read-only."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from devproc.virtio_spec import Feature, Status
from protocol import messages
from tests.conformance.conftest import Start
from tests.conformance.driver import CONFIG, DISCARD, DRIVERS, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES, Driver
from tests.conformance.fake_cpu import RAM_BASE, FakeCpu

RSS_LIMIT = 40 << 20
RINGS = [0, Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX, Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX]
RINGS += [features | Feature.RING_PACKED for features in RINGS]


def sector(number: int) -> bytes:
    """Return what the test image has in a sector."""
    return number.to_bytes(4, "little") * 128


@pytest.fixture
def driver(cpu: FakeCpu, start: Start, image: Path, transport: str) -> Driver:
    """Return a driver whose disk is ready."""
    start("--image", str(image), "--serial", "disk-0", "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu)
    driver.probe()
    return driver


def test_attach_fresh_machine_is_small_and_shown_on_the_bus(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image))

    answer = cpu.attach()

    assert answer == {"version": 1, "epoch": 1, "resumed": 0}
    assert cpu.get("State") == "attached"
    assert cpu.get("Epoch") == 1
    assert cpu.get("Pid") == process.pid
    assert cpu.get("Type") == "virtio-blk"
    memory = psutil.Process(process.pid).memory_info()
    assert memory.rss - memory.shared < RSS_LIMIT
    assert memory.rss < RSS_LIMIT


def test_configuration_space_as_qemu_has_it(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image))
    cpu.attach()

    assert cpu.read(CONFIG, 0x00, 4) == 0x1042_1AF4
    assert cpu.read(CONFIG, 0x08, 4) == 0x0100_0001
    assert cpu.read(CONFIG, 0x3D, 1) == 1
    cpu.write(CONFIG, 0x20, 4, 0xFFFF_FFFF)
    assert cpu.read(CONFIG, 0x20, 4) == 0xFFFF_C00C  # 16 KiB, 64-bit, prefetchable
    cpu.write(CONFIG, 0x00, 4, 0)
    assert cpu.read(CONFIG, 0x00, 4) == 0x1042_1AF4
    places = Driver(cpu)
    assert set(places.find_capabilities()) == {0x09, 0x11}
    assert places.places == {1: (4, 0), 2: (4, 0x3000), 3: (4, 0x1000), 4: (4, 0x2000), 5: (0, 0)}
    assert places.multiplier == 4


def test_negotiation_without_version_1_is_refused(driver: Driver) -> None:
    driver.reset()
    driver.status(Status.ACKNOWLEDGE | Status.DRIVER)

    driver.status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)

    assert driver.status() == Status.ACKNOWLEDGE | Status.DRIVER


def test_negotiation_of_a_feature_not_offered_is_refused(driver: Driver) -> None:
    driver.reset()
    driver.status(Status.ACKNOWLEDGE | Status.DRIVER)
    driver.set("driver_feature_select", 1)
    driver.set("driver_feature", 1 | 1 << 30)

    driver.status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)

    assert not driver.status() & Status.FEATURES_OK


@pytest.mark.parametrize("features", RINGS)
@pytest.mark.parametrize(("transport", "msix"), [("pci", True), ("pci", False), ("mmio", False)])
def test_requests_with_every_kind_of_ring(
    cpu: FakeCpu, start: Start, image: Path, features: int, transport: str, msix: bool
) -> None:
    start("--image", str(image), "--serial", "disk-0", "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu, features=features, msix=msix)

    driver.probe()

    assert driver.config(0, 8) == 8192
    assert driver.do(IN, 7, 1024) == (0, sector(7) + sector(8))
    assert driver.do(OUT, 100, b"w" * 512)[0] == 0
    assert driver.do(FLUSH)[0] == 0
    assert driver.do(IN, 100, 512) == (0, b"w" * 512)
    assert driver.do(GET_ID, 0, 20) == (0, b"disk-0".ljust(20, b"\0"))
    assert driver.do(99, 0, 512)[0] == 2
    assert image.read_bytes()[100 * 512 : 101 * 512] == b"w" * 512


def test_many_requests_at_once_all_come_back_right(driver: Driver) -> None:
    requests = {}
    for number in range(16):
        request = driver.submit(IN, number * 16, 4096)
        requests[request.head] = (number * 16, request)
    driver.kick()

    done = driver.wait(16)

    assert {head for head, _ in done} == set(requests)
    for head, written in done:
        first, request = requests[head]
        assert written == 4097
        assert driver.cpu.ram.read(request.data, 512) == sector(first)


@pytest.mark.parametrize(("first", "length"), [(8192, 512), (8191, 1024), (1 << 60, 512), (0, 100)])
def test_range_off_the_disk_is_an_io_error(driver: Driver, first: int, length: int) -> None:
    assert driver.do(IN, first, length)[0] == 1
    assert driver.do(OUT, first, b"x" * length)[0] == 1
    assert driver.cpu.get("Counters")["bad_ranges"] == 2


def test_write_zeroes_and_discard(driver: Driver) -> None:
    segment = (64).to_bytes(8, "little") + (8).to_bytes(4, "little")

    assert driver.do(WRITE_ZEROES, 0, segment + bytes(4))[0] == 0
    assert driver.do(DISCARD, 0, segment + bytes(4))[0] == 0

    assert driver.do(IN, 64, 4096) == (0, bytes(4096))
    assert driver.do(IN, 72, 512) == (0, sector(72))


def test_read_only_disk_refuses_writes(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image), "--readonly")
    cpu.attach()
    driver = Driver(cpu)

    driver.probe()

    assert driver.features & 1 << 5
    assert driver.do(IN, 3, 512) == (0, sector(3))
    assert driver.do(OUT, 3, b"x" * 512)[0] == 1
    assert driver.do(IN, 3, 512) == (0, sector(3))


def test_several_queues_each_with_its_own_vector(cpu: FakeCpu, start: Start, image: Path, transport: str) -> None:
    start("--image", str(image), "--queues", "4", "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu, queues=4, size=16)
    driver.probe()

    words = [cpu.word(2 + index) for index in range(4)]
    for index in range(4):
        assert driver.do(IN, index, 512, index=index) == (0, sector(index))

    assert driver.config(0x22, 2) == 4
    assert cpu.get("Doorbells") == 4
    assert not driver.msix or all(cpu.word(2 + index) >= words[index] for index in range(4))
    tables = cpu.call("org.busvm.Queues1", "List")[0]
    assert [t["index"] for t in tables] == [0, 1, 2, 3]
    assert all(t["ready"] and t["avail"] == t["used"] == 1 and not t["inflight"] for t in tables)


def test_reset_stops_the_queues_and_a_second_probe_works(driver: Driver) -> None:
    driver.do(IN, 0, 512)
    again = type(driver)(driver.cpu)

    again.probe()

    assert again.do(IN, 9, 512) == (0, sector(9))


@pytest.mark.parametrize("transport", ["pci"])
def test_access_window_in_configuration_space_reaches_the_registers(driver: Driver) -> None:
    cpu, cap = driver.cpu, 0x40
    cpu.write(CONFIG, cap + 4, 1, 4)
    cpu.write(CONFIG, cap + 8, 4, 0x14)
    cpu.write(CONFIG, cap + 12, 4, 1)
    assert cpu.read(CONFIG, cap + 16, 1) == driver.status()
    request = driver.submit(IN, 5, 512)
    cpu.write(CONFIG, cap + 8, 4, 0x3000)
    cpu.write(CONFIG, cap + 12, 4, 2)

    cpu.write(CONFIG, cap + 16, 2, 0)

    assert driver.wait()[0][0] == request.head


def test_bus_lists_reads_and_writes_registers(driver: Driver) -> None:
    cpu = driver.cpu
    listed = cpu.call("org.busvm.Registers1", "List")[0]
    assert ("device_status", *driver.place("status"), "rw") in [entry[:5] for entry in listed]
    assert cpu.call("org.busvm.Registers1", "Read", "s", "device_status")[0] == driver.status()

    cpu.call("org.busvm.Registers1", "Write", "st", "queue_select", 9)

    assert driver.get("queue_max") == 0


def test_barriers(driver: Driver) -> None:
    cpu = driver.cpu
    cpu.barrier("flush")
    cpu.barrier("quiesce")
    assert cpu.get("State") == "quiesced"
    request = driver.submit(IN, 5, 512)
    driver.kick()
    time.sleep(0.05)
    assert not driver.queues[0].collect()

    cpu.barrier("resume")

    assert driver.wait()[0][0] == request.head
    cpu.barrier("reset")
    assert driver.status() == 0
    assert not driver.msix or cpu.read(CONFIG, 0x04, 2) == 0


def test_sigterm_leaves_cleanly_and_a_successor_goes_on(
    driver: Driver, start: Start, image: Path, transport: str
) -> None:
    cpu = driver.cpu
    driver.do(OUT, 1, b"a" * 512)
    os.kill(cpu.get("Pid"), 15)
    while cpu.run(cpu.bus.name_owner(cpu.bus_name)):
        time.sleep(0.01)
    cpu._owners.clear()
    process = start("--image", str(image), "--transport", transport)

    assert cpu.attach()["resumed"] == 1

    assert driver.do(IN, 1, 512) == (0, b"a" * 512)
    assert process.terminate() == 0
    assert "level=error" not in process.log


def test_detach_and_attach_again(driver: Driver) -> None:
    cpu = driver.cpu
    driver.do(OUT, 1, b"a" * 512)
    cpu.call("org.busvm.Device1", "Detach")
    assert cpu.get("State") == "waiting"

    assert cpu.attach()["resumed"] == 1

    assert driver.do(IN, 1, 512) == (0, b"a" * 512)


def test_full_size_request_in_many_segments(driver: Driver) -> None:
    queue = driver.queues[0]
    header, status = queue.lend(16), queue.lend(1)
    driver.cpu.ram.write(header, bytes(16))
    parts = [(queue.lend(512, 512), 512) for _ in range(30)]

    queue.add([(header, 4), (header + 4, 12)], [*parts, (status, 1)])
    driver.kick()

    assert driver.wait()[0][1] == 30 * 512 + 1
    assert [driver.cpu.ram.read(at, 512) for at, _ in parts] == [sector(n) for n in range(30)]
    assert RAM_BASE == 0x8000_0000


def test_doorbell_that_overtakes_posted_writes_waits_for_them(driver: Driver) -> None:
    cpu = driver.cpu
    assert cpu.link is not None
    driver.submit(IN, 5, 512)
    driver.kick(always=True)
    driver.wait()
    time.sleep(0.05)  # the queue is at rest: what comes next is not found by a look that began before
    cpu.page.posted += 1
    request = driver.submit(IN, 5, 512)
    driver.kick(always=True)
    time.sleep(0.05)
    assert not driver.queues[0].collect()

    cpu.link.send(messages.Write(cpu.epoch, cpu.page.posted, *driver.place("queue_select"), 0))

    assert driver.wait()[0][0] == request.head
