"""The in-flight protocol: whatever store a process dies after, its successor returns every request exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from devproc.virtqueue import Virtqueue
from protocol.memory import Shared
from tests.unit.devproc.memory import Budget, Crash, Dying, private
from tests.unit.devproc.queues import BASE, KINDS, PACKED, PAGE_SIZE, SPLIT, TABLE, Ends

Memory = tuple[Shared, Shared]


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Return RAM and page."""
    ram, page = private(0x10000), private(PAGE_SIZE)
    yield ram, page
    ram.close()
    page.close()


def serve(queue: Virtqueue, performed: Counter[int], batch: int = 2) -> None:
    """Take everything, do it in another order than it came, return it in batches."""
    while True:
        taken = []
        while (chain := queue.pop()) is not None:
            taken.append(chain)
        if not taken:
            return
        for number, chain in enumerate(reversed(taken), 1):
            performed[chain.readable[0][0]] += 1
            queue.push(chain.head, 1)
            if number % batch == 0:
                queue.publish()
        queue.publish()


def add(ends: Ends, serial: int) -> int:
    """Add a request that is known by its address; some have one descriptor, some two."""
    return ends.driver.add([(BASE + serial, 1)], [(BASE + 16, 1)] if serial % 3 else [])


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize(("features", "size"), [(SPLIT, 8), (PACKED, 8), (PACKED, 7), (PACKED, 11)])
def test_death_after_every_store_returns_every_request_once(
    memory: Memory, features: int, size: int, event_idx: bool, batch: int
) -> None:
    ram, page = memory
    deaths = 0
    while True:
        ends = Ends(ram, page, size, features=features, event_idx=event_idx)
        performed: Counter[int] = Counter()
        serve(ends.device, performed, batch)  # an uneventful life before, so that old links are in the table
        for serial in range(3):
            add(ends, serial)
        serve(ends.device, performed, batch)
        assert len(ends.driver.collect()) == 3
        performed.clear()
        heads = {add(ends, serial): serial for serial in range(3, 7)}

        budget = Budget(deaths)
        died = False
        mortal = ends.make(Dying(ram, budget), Dying(page, budget))
        try:
            mortal.recover()
            serve(mortal, performed, batch)
        except Crash:
            died = True
        early = ends.driver.collect()
        late = [] if early or size < 8 else [7]  # a driver does not wait for the successor
        heads |= {add(ends, serial): serial for serial in late}
        successor = ends.make()
        successor.recover()
        serve(successor, performed, 1)

        assert successor.broken is None
        assert sorted(head for head, _ in early + ends.driver.collect()) == sorted(heads)
        assert set(performed) == set(heads.values())
        assert max(performed.values()) <= 2
        assert successor.in_flight == 0
        assert ends.driver.outstanding == 0
        if not died:
            break
        deaths += 1
    assert deaths > 30


@pytest.mark.parametrize("features", KINDS)
def test_replay_is_in_the_order_of_taking(memory: Memory, features: int) -> None:
    ends = Ends(*memory, features=features)
    for serial in range(5):
        ends.driver.add([(BASE + serial, 16)], [])
    chains = [chain for _ in range(5) if (chain := ends.device.pop())]
    ends.device.push(chains[2].head, 0)
    ends.device.publish()

    successor = ends.make()

    assert successor.recover() == 4
    again = [chain.readable[0][0] for _ in range(4) if (chain := successor.pop())]
    assert again == [0, 1, 3, 4]


def test_used_index_overwritten_by_the_guest_breaks_the_queue(memory: Memory) -> None:
    ends = Ends(*memory)
    ends.driver.store(ends.driver.used + 2, 2, 4000)

    successor = ends.make()

    assert successor.recover() == 0
    assert successor.broken is not None


def test_a_batch_that_was_not_shown_is_not_seen_later(memory: Memory) -> None:
    """Used descriptors behind the first one of a batch must be gone before a shorter batch is shown."""
    ends = Ends(*memory, features=PACKED)
    for serial in range(3):
        ends.driver.add([(BASE + serial, 1)], [])
    budget = Budget(1_000)
    mortal = ends.make(Dying(memory[0], budget), memory[1])
    mortal.recover()
    chains = [chain for _ in range(3) if (chain := mortal.pop())]
    for chain in chains:
        mortal.push(chain.head, 0)
    budget.left = 2  # the second and the third, not the first
    with pytest.raises(Crash):
        mortal.publish()

    successor = ends.make()
    successor.recover()
    again = successor.pop()
    assert again is not None
    successor.push(again.head, 7)
    successor.publish()

    assert [written for _, written in ends.driver.collect()] == [7]


def test_the_table_of_a_packed_ring_is_laid_out_as_vhost_user_has_it(memory: Memory) -> None:
    ends = Ends(*memory, 5, features=PACKED, indirect=False)
    page = memory[1]

    def entry(number: int) -> tuple[int, ...]:
        at = TABLE + 32 + 32 * number
        widths = ((0, 1), (2, 2), (4, 2), (6, 2), (8, 8), (16, 2), (18, 2), (20, 4), (24, 8))
        return tuple(page.load(at + offset, width) for offset, width in widths)

    def header() -> tuple[int, ...]:
        widths = ((0, 8), (8, 2), (10, 2), (12, 2), (14, 2), (16, 2), (18, 2), (20, 1), (21, 1))
        return tuple(page.load(TABLE + offset, width) for offset, width in widths)

    assert header() == (0, 1, 5, 0, 0, 0, 0, 1, 1)
    head = ends.driver.add([(BASE + 0x40, 3)], [(BASE + 0x80, 9)])
    chain = ends.device.pop()
    assert chain is not None

    assert header() == (0, 1, 5, 2, 2, 0, 0, 1, 1)
    assert entry(0) == (1, 1, 1, 2, 1, head, 0x81, 3, BASE + 0x40)
    assert entry(1)[5:] == (head, 0x82, 9, BASE + 0x80)
    ends.device.push(chain.head, 1)
    ends.device.publish()
    assert header() == (0, 1, 5, 0, 0, 2, 2, 1, 1)
    assert [entry(number)[:2] for number in range(5)] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
