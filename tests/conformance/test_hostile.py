"""What a hostile guest or a broken peer sends: counted, answered where there is an answer, and survived."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from devproc.virtio_spec import Feature, Status
from devproc.virtqueue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from protocol import messages
from protocol.bus import BusError
from tests.conformance.conftest import Start
from tests.conformance.driver import DISCARD, DRIVERS, IN, Driver, MmioDriver
from tests.conformance.fake_cpu import DEVICE1, RAM_BASE, FakeCpu

INDIRECT = Feature.RING_INDIRECT_DESC


@pytest.fixture
def driver(cpu: FakeCpu, start: Start, image: Path, transport: str) -> Driver:
    """Return a driver whose disk is ready; its rings take direct and indirect descriptors."""
    start("--image", str(image), "--log-level", "debug", "--transport", transport)
    cpu.attach()
    driver = DRIVERS[transport](cpu, features=INDIRECT, size=16)
    driver.probe()
    driver.queues[0].indirect = False
    return driver


def gave_up(driver: Driver) -> bool:
    """Wait for DEVICE_NEEDS_RESET."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if driver.status() & Status.NEEDS_RESET:
            return True
        time.sleep(0.005)
    return False


def works_after_reset(driver: Driver) -> bool:
    """Probe again and read a sector."""
    again = type(driver)(driver.cpu, features=INDIRECT, size=16)
    again.probe()
    return again.do(IN, 3, 512) == (0, (3).to_bytes(4, "little") * 128)


def bad_descriptors(driver: Driver, *descriptors: tuple[int, int, int, int]) -> None:
    """Write descriptors from 0 on, offer head 0, ring."""
    queue = driver.queues[0]
    for index, (address, length, flags, following) in enumerate(descriptors):
        queue.describe(queue.desc + 16 * index, address, length, flags, following)
    queue.offer(0)
    driver.kick(always=True)


BUFFER = RAM_BASE + 0x10_0000
CHAINS = {
    "buffer below RAM": [(0x1000, 16, 0, 0)],
    "buffer over the end": [(RAM_BASE + (16 << 20) - 8, 16, 0, 0)],
    "buffer around the top": [((1 << 64) - 8, 16, 0, 0)],
    "huge length": [(BUFFER, 0xFFFF_FFFF, DESC_WRITE, 0)],
    "loop": [(BUFFER, 16, DESC_NEXT, 1), (BUFFER, 16, DESC_NEXT, 0)],
    "next out of the table": [(BUFFER, 16, DESC_NEXT, 99)],
    "readable after writable": [(BUFFER, 16, DESC_WRITE | DESC_NEXT, 1), (BUFFER, 16, 0, 0)],
    "no status": [(BUFFER, 16, 0, 0)],
    "short header": [(BUFFER, 4, DESC_NEXT, 1), (BUFFER, 1, DESC_WRITE, 0)],
    "empty status": [(BUFFER, 16, DESC_NEXT, 1), (BUFFER, 0, DESC_WRITE, 0)],
    "indirect not in RAM": [(0x10, 32, DESC_INDIRECT, 0)],
    "indirect of 17 bytes": [(BUFFER, 17, DESC_INDIRECT, 0)],
    "indirect of 0 bytes": [(BUFFER, 0, DESC_INDIRECT, 0)],
    "indirect with next": [(BUFFER, 16, DESC_INDIRECT | DESC_NEXT, 1), (BUFFER, 16, 0, 0)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_bad_chain_needs_a_reset_and_nothing_else(driver: Driver, name: str) -> None:
    bad_descriptors(driver, *CHAINS[name])

    assert gave_up(driver)
    assert driver.cpu.get("Counters")["bad_rings"] == 1
    assert works_after_reset(driver)


@pytest.mark.parametrize(
    "inner",
    [
        (BUFFER, 16, DESC_INDIRECT, 0),
        (BUFFER, 16, DESC_NEXT, 0),
        (BUFFER, 16, DESC_NEXT, 7),
        (0, 16, 0, 0),
    ],
)
def test_bad_indirect_table(driver: Driver, inner: tuple[int, int, int, int]) -> None:
    address, length, flags, following = inner
    table = RAM_BASE + 0x20_0000
    driver.cpu.ram.write(table, struct.pack("<QIHH", address, length, flags, following) * 2)

    bad_descriptors(driver, (table, 32, DESC_INDIRECT, 0))

    assert gave_up(driver)
    assert works_after_reset(driver)


def test_available_index_far_ahead(driver: Driver) -> None:
    driver.cpu.ram.store(driver.queues[0].avail + 2, 2, 1000)
    driver.kick(always=True)

    assert gave_up(driver)
    assert works_after_reset(driver)


def test_head_beyond_the_ring_and_head_offered_twice(driver: Driver) -> None:
    driver.queues[0].offer(4000)
    driver.kick(always=True)

    assert gave_up(driver)
    assert works_after_reset(driver)


@pytest.mark.parametrize("gpa", [0, RAM_BASE + (16 << 20) - 64, RAM_BASE + 8])
def test_ring_outside_ram_or_misaligned(driver: Driver, gpa: int) -> None:
    driver.reset()
    driver.status(Status.ACKNOWLEDGE | Status.DRIVER)
    driver.negotiate()
    driver.set("queue_select", 0)
    driver.set_ring(gpa, RAM_BASE + 1, RAM_BASE + 2)

    driver.set("queue_ready", 1)

    assert gave_up(driver)
    assert works_after_reset(driver)


def test_registers_written_at_random(driver: Driver) -> None:
    chance = random.Random(5)
    cpu = driver.cpu
    limits = {0: 0x1000} if isinstance(driver, MmioDriver) else {4: 0x4000, 7: 0x100, 1: 0x1000}
    for _ in range(1500):
        size = chance.choice((1, 2, 4, 8))
        bar = chance.choice((0,) if 0 in limits else (4, 4, 4, 7, 1))
        limit = limits[bar]
        offset = chance.randrange(0, 0x40 if chance.random() < 0.7 else limit - 8) & -size
        if chance.random() < 0.5:
            cpu.write(bar, offset, size, chance.getrandbits(8 * size))
        else:
            cpu.read(bar, offset, size)
    cpu.wait_processed()

    assert works_after_reset(driver)


def test_requests_mutated_at_random(driver: Driver) -> None:
    chance = random.Random(7)
    cpu, queue = driver.cpu, driver.queues[0]
    header, data, status = BUFFER, BUFFER + 0x1000, BUFFER + 0x8000
    edges = (0, 1, 7, 8191, 8192, (1 << 32) - 1, 1 << 55, (1 << 64) - 1)
    for _ in range(600):
        kind = chance.choice((0, 1, 4, 8, 10, 11, 13, 14, 16, chance.getrandbits(32)))
        sector = chance.choice((chance.randrange(8192), chance.choice(edges)))
        cpu.ram.write(header, struct.pack("<IIQ", kind, chance.getrandbits(32), sector))
        ranges = [
            struct.pack(
                "<QII",
                chance.choice((chance.randrange(8192), chance.choice(edges))),
                chance.choice((0, 1, 8, 1 << 22, (1 << 32) - 1)),
                chance.choice((0, 0, 1, 2, 1 << 31)),
            )
            for _ in range(chance.choice((0, 1, 1, 2, 32, 33)))
        ]
        length = chance.choice((16 * len(ranges), 512, 1024, 1, 20, 4097))
        cpu.ram.write(data, b"".join(ranges).ljust(4097, b"x"))
        cpu.ram.write(status, b"\xff")
        split = chance.randrange(length + 1)
        parts = [(data, split), (data + split, length - split)]
        inwards = chance.random() < 0.5
        queue.add([(header, 16), *([] if inwards else parts)], [*(parts if inwards else []), (status, 1)])
        driver.kick(always=True)
        ((_, written),) = driver.wait()
        assert cpu.ram.read(status, 1) in (b"\0", b"\1", b"\2")
        assert 1 <= written <= length + 1

    assert driver.do(DISCARD, 0, struct.pack("<QII", 0, 8, 0))[0] == 0
    assert not driver.status() & Status.NEEDS_RESET


def test_garbage_on_the_link_is_counted_and_answered(driver: Driver) -> None:
    cpu = driver.cpu
    assert cpu.link is not None
    garbage = [b"", b"\xc1", b"\x93", messages.encode(messages.Read(cpu.epoch, 1, 4, 0, 1))[:-1], b"\xff" * 100]

    for data in garbage:
        cpu.link.socket.send(data)
    cpu.link.socket.send(messages.encode(messages.Value(cpu.epoch, 5, 5)))
    cpu.link.socket.send(messages.encode(messages.Read(cpu.epoch + 1, 5, 4, 0, 1)))
    cpu.link.socket.send(messages.encode(messages.Barrier(cpu.epoch, 5, "nonsense")))

    assert driver.do(IN, 1, 512)[0] == 0
    assert cpu.ask(*driver.place("status")) == driver.status()
    counters = cpu.get("Counters")
    assert counters["link_malformed"] == len(garbage)
    assert counters["link_stale"] == 1
    assert cpu.link.counters.faults == len(garbage) + 3


def test_reads_and_writes_outside_the_bars_are_values(driver: Driver) -> None:
    cpu = driver.cpu
    before = cpu.page.bad_accesses
    bar, _, _ = driver.place("status")
    assert cpu.ask(bar, 0x3FFF, 4) == 0xFFFF_FFFF
    assert cpu.ask(3, 0, 8) == (1 << 64) - 1
    cpu.post(5, 0x100, 4, 1)
    cpu.wait_processed()

    assert cpu.page.bad_accesses == before + 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 2}, "VersionMismatch"),
        ({"epoch": 9}, "StaleEpoch"),
        ({"ram": None}, "Malformed"),
        ({"doorbells": []}, "Malformed"),
        ({"ram_size": 1 << 40}, "HostError"),
        ({"link": "nonsense://"}, "HostError"),
    ],
)
def test_bad_offer_is_refused_and_a_good_one_still_works(
    cpu: FakeCpu, start: Start, image: Path, changes: dict[str, object], error: str
) -> None:
    process = start("--image", str(image))
    cpu.wait_for_device()
    cpu.prepare()
    descriptors = []

    for _ in range(12):
        with pytest.raises(BusError) as refused:
            cpu.call(DEVICE1, "Attach", "a{sv}", cpu.offer(**changes))
        descriptors.append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))

    assert refused.value.name.endswith(error)
    assert descriptors[-1] <= descriptors[1] + 2  # the first starts ZeroMQ, which closes its own a moment later
    assert cpu.get("State") == "waiting"
    assert cpu.attach()["epoch"] == 2


def test_page_of_another_layout_is_refused(cpu: FakeCpu, start: Start, image: Path) -> None:
    start("--image", str(image))
    cpu.wait_for_device()
    cpu.prepare()
    cpu.page.version = 99

    with pytest.raises(BusError, match="version 99"):
        cpu.call(DEVICE1, "Attach", "a{sv}", cpu.offer())
