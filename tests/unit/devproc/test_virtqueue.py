"""The split ring, against a driver that keeps the rules and against one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.driver_queue import DriverQueue
from devproc.inflight import InflightTable
from devproc.virtqueue import QueueRecord, Virtqueue
from protocol.memory import GuestMemory, Shared
from tests.unit.devproc.memory import private

BASE = 0x8000_0000
RAM_SIZE = 0x40000


class Rig:
    """Both ends of a queue of ``size``."""

    def __init__(self, ram: Shared, page: Shared, size: int = 8, *, event_idx: bool = False, indirect: bool = False):
        ram.u8[:] = bytes(ram.size)
        page.u8[:] = bytes(page.size)
        memory = GuestMemory(ram, BASE)
        self.driver = DriverQueue(memory, BASE, size, event_idx=event_idx, indirect=indirect)
        record = QueueRecord(page, 0)
        record.size = size
        record.desc, record.driver, record.device = self.driver.desc, self.driver.avail, self.driver.used
        self.device = Virtqueue(0, memory, record, InflightTable(page, 64))
        self.device.event_idx, self.device.indirect = event_idx, indirect
        self.device.start()


@pytest.fixture(scope="module")
def memory() -> Iterator[tuple[Shared, Shared]]:
    """Return RAM and page."""
    ram, page = private(RAM_SIZE), private(0x1000)
    yield ram, page
    ram.close()
    page.close()


@pytest.mark.parametrize("indirect", [False, True])
def test_chain_has_the_buffers_of_the_driver(memory: tuple[Shared, Shared], indirect: bool) -> None:
    rig = Rig(*memory, indirect=indirect)
    head = rig.driver.add([(BASE + 0x100, 16), (BASE + 0x200, 32)], [(BASE + 0x300, 8)])

    chain = rig.device.pop()

    assert chain is not None
    assert (chain.head, chain.readable, chain.writable) == (head, [(0x100, 16), (0x200, 32)], [(0x300, 8)])
    assert (chain.readable_size, chain.writable_size) == (48, 8)
    assert rig.device.pop() is None
    assert rig.device.in_flight == 1


@settings(max_examples=60, deadline=None)
@given(
    event_idx=st.booleans(),
    indirect=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=60),
    seed=st.integers(0, 1000),
)
def test_everything_comes_back_once_and_nobody_sleeps_for_ever(
    memory: tuple[Shared, Shared],
    event_idx: bool,
    indirect: bool,
    steps: list[tuple[int, int, bool]],
    seed: int,
) -> None:
    rig = Rig(*memory, event_idx=event_idx, indirect=indirect)
    driver, device = rig.driver, rig.device
    chance = random.Random(seed)
    taken: list[int] = []
    expected: set[int] = set()
    doorbell = False
    device.listen()
    for adds, completions, look in steps:
        for _ in range(adds):
            try:
                expected.add(driver.add([(BASE, 1)], [(BASE + 8, 1)]))
            except IndexError:
                break
        doorbell |= driver.kick()
        if doorbell:
            doorbell = False
            device.quiet()
            while True:
                while (chain := device.pop()) is not None:
                    taken.append(chain.head)
                if device.listen():
                    break
        assert len(taken) == len(expected)  # a driver that does not ring has nothing new there
        slept = driver.ask()
        chance.shuffle(taken)
        for head in taken[:completions]:
            device.push(head, 7)
        done, taken = set(taken[:completions]), taken[completions:]
        interrupt = device.publish()
        assert not (slept and done) or interrupt
        if look or interrupt:
            for head, written in driver.collect():
                assert written == 7
                expected.remove(head)
        else:
            expected -= done
            driver.collect()
    assert set(taken) == expected
    assert device.broken is None


@settings(max_examples=150, deadline=None)
@given(
    garbage=st.binary(min_size=64, max_size=512),
    avail=st.integers(0, 0xFFFF),
    indirect=st.booleans(),
    event_idx=st.booleans(),
)
def test_garbage_in_the_rings_never_raises(
    memory: tuple[Shared, Shared], garbage: bytes, avail: int, indirect: bool, event_idx: bool
) -> None:
    rig = Rig(*memory, event_idx=event_idx, indirect=indirect)
    rig.driver.memory.ram.u8[: len(garbage)] = garbage
    rig.driver.store(rig.driver.avail + 2, 2, avail)

    for _ in range(20):
        chain = rig.device.pop()
        if chain is None:
            break
        for offset, length in chain.readable + chain.writable:
            assert offset >= 0
            assert offset + length <= RAM_SIZE
        rig.device.push(chain.head, 0)
        rig.device.publish()
    rig.device.listen()


@pytest.mark.parametrize(
    "places", [(0, BASE, BASE), (BASE + 8, BASE, BASE), (BASE, BASE + 1, BASE), (BASE, BASE, BASE + 2)]
)
def test_ring_that_is_not_in_ram_or_misaligned_is_broken(
    memory: tuple[Shared, Shared], places: tuple[int, int, int]
) -> None:
    record = QueueRecord(memory[1], 0)
    record.size, record.broken = 8, 0
    record.desc, record.driver, record.device = places

    queue = Virtqueue(0, GuestMemory(memory[0], BASE), record, InflightTable(memory[1], 64))

    assert queue.broken is not None
    assert queue.pop() is None
    assert record.broken == 1


def test_no_interrupt_when_the_guest_asked_for_none(memory: tuple[Shared, Shared]) -> None:
    rig = Rig(*memory)
    rig.driver.store(rig.driver.avail, 2, 1)
    rig.driver.add([(BASE, 1)], [])
    chain = rig.device.pop()
    assert chain is not None

    rig.device.push(chain.head, 0)

    assert not rig.device.publish()


def test_indices_wrap_at_65536(memory: tuple[Shared, Shared]) -> None:
    rig = Rig(*memory, event_idx=True)
    for _ in range(66000):
        rig.driver.add([(BASE, 1)], [])
        chain = rig.device.pop()
        assert chain is not None
        rig.device.push(chain.head, 0)
        rig.device.publish()
        assert len(rig.driver.collect()) == 1

    assert rig.device.indices()["avail"] == 66000 & 0xFFFF
