"""The in-flight protocol: whatever store a process dies after, its successor returns every request exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from devproc.driver_queue import DriverQueue
from devproc.inflight import InflightTable
from devproc.virtqueue import QueueRecord, Virtqueue
from protocol.memory import GuestMemory, Shared
from tests.unit.devproc.memory import Budget, Crash, Dying, private

BASE = 0x8000_0000
SIZE = 8
RECORD, TABLE = 0, 64


@pytest.fixture
def memory() -> Iterator[tuple[Shared, Shared]]:
    """Return RAM and page."""
    ram, page = private(0x10000), private(0x1000)
    yield ram, page
    ram.close()
    page.close()


def make_queue(ram: Shared, page: Shared) -> Virtqueue:
    """Return the device side on ``ram`` and ``page``."""
    return Virtqueue(0, GuestMemory(ram, BASE), QueueRecord(page, RECORD), InflightTable(page, TABLE))


def enable(ram: Shared, page: Shared, *, event_idx: bool) -> tuple[DriverQueue, Virtqueue]:
    """Lay a queue out and start it."""
    driver = DriverQueue(GuestMemory(ram, BASE), BASE, SIZE, event_idx=event_idx)
    record = QueueRecord(page, RECORD)
    record.size, record.desc, record.driver, record.device = SIZE, driver.desc, driver.avail, driver.used
    queue = make_queue(ram, page)
    queue.event_idx = event_idx
    queue.start()
    return driver, queue


def serve(queue: Virtqueue, performed: Counter[int]) -> None:
    """Take everything, do it in another order than it came, return it in batches of two."""
    while True:
        taken = []
        while (chain := queue.pop()) is not None:
            taken.append(chain)
        if not taken:
            return
        for number, chain in enumerate(reversed(taken)):
            performed[chain.head] += 1
            queue.push(chain.head, 1)
            if number % 2:
                queue.publish()
        queue.publish()


@pytest.mark.parametrize("event_idx", [False, True])
def test_death_after_every_store_returns_every_request_once(memory: tuple[Shared, Shared], event_idx: bool) -> None:
    ram, page = memory
    deaths = 0
    while True:
        ram.u8[:] = bytes(ram.size)
        page.u8[:] = bytes(page.size)
        driver, queue = enable(ram, page, event_idx=event_idx)
        performed: Counter[int] = Counter()
        serve(queue, performed)  # an uneventful life before, so that old links are in the table
        for _ in range(3):
            driver.add([(BASE, 16)], [(BASE + 16, 1)])
        serve(queue, performed)
        assert len(driver.collect()) == 3
        performed.clear()
        heads = [driver.add([(BASE, 16)], [(BASE + 16, 1)]) for _ in range(4)]

        budget = Budget(deaths)
        died = False
        mortal = make_queue(Dying(ram, budget), Dying(page, budget))
        mortal.event_idx = event_idx
        try:
            mortal.recover()
            serve(mortal, performed)
        except Crash:
            died = True
        successor = make_queue(ram, page)
        successor.event_idx = event_idx
        successor.recover()
        serve(successor, performed)

        assert successor.broken is None
        assert sorted(head for head, _ in driver.collect()) == sorted(heads)
        assert set(performed) == set(heads)
        assert max(performed.values()) <= 2
        assert successor.in_flight == 0
        assert not successor.inflight.heads()
        if not died:
            break
        deaths += 1
    assert deaths > 30


def test_replay_is_in_the_order_of_taking(memory: tuple[Shared, Shared]) -> None:
    driver, queue = enable(*memory, event_idx=False)
    heads = [driver.add([(BASE, 16)], []) for _ in range(5)]
    for _ in heads:
        queue.pop()
    queue.push(heads[2], 0)
    queue.publish()

    successor = make_queue(*memory)

    assert successor.recover() == 4
    replayed = [chain.head for _ in range(4) if (chain := successor.pop())]
    assert replayed == [heads[0], heads[1], heads[3], heads[4]]


def test_used_index_overwritten_by_the_guest_breaks_the_queue(memory: tuple[Shared, Shared]) -> None:
    driver, _ = enable(*memory, event_idx=False)
    driver.store(driver.used + 2, 2, 4000)

    successor = make_queue(*memory)

    assert successor.recover() == 0
    assert successor.broken is not None
