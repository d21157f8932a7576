"""Both kinds of ring, against a driver that keeps the rules and against one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc import rings
from devproc.virtqueue import Chain, QueueRecord
from protocol.memory import GuestMemory, Shared
from tests.unit.devproc.memory import private
from tests.unit.devproc.queues import BASE, KINDS, PAGE_SIZE, RAM_SIZE, SPLIT, TABLE, Ends

Memory = tuple[Shared, Shared]


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    """Return RAM and page."""
    ram, page = private(RAM_SIZE), private(PAGE_SIZE)
    yield ram, page
    ram.close()
    page.close()


@pytest.mark.parametrize("features", KINDS)
@pytest.mark.parametrize("indirect", [False, True])
def test_chain_has_the_buffers_of_the_driver(memory: Memory, indirect: bool, features: int) -> None:
    ends = Ends(*memory, indirect=indirect, features=features)
    head = ends.driver.add([(BASE + 0x100, 16), (BASE + 0x200, 32)], [(BASE + 0x300, 8)])

    chain = ends.device.pop()

    assert chain is not None
    assert (chain.readable, chain.writable) == ([(0x100, 16), (0x200, 32)], [(0x300, 8)])
    assert (chain.readable_size, chain.writable_size) == (48, 8)
    assert ends.device.pop() is None
    assert ends.device.in_flight == 1
    ends.device.push(chain.head, 5)
    ends.device.publish()
    assert ends.driver.collect() == [(head, 5)]


class Conversation:
    """Driver and device take turns; a request is known by the address of its first buffer."""

    def __init__(self, ends: Ends, chance: random.Random) -> None:
        self.ends = ends
        self.chance = chance
        self.serial = 0
        self.expected: dict[int, int] = {}  # the driver's head → serial
        self.taken: dict[int, Chain] = {}  # serial → what the device has of it
        self.returned: set[int] = set()  # published, not collected
        self.doorbell = False
        ends.device.listen()

    def add(self, count: int) -> None:
        """Add a chain of ``count`` buffers, if there is room."""
        self.serial += 1
        address = BASE + self.serial % (RAM_SIZE - 16)
        readable = self.chance.randint(1, count)
        buffers = [(address, 1), *((BASE + n, n) for n in range(count - 1))]
        try:
            head = self.ends.driver.add(buffers[:readable], buffers[readable:])
        except IndexError:
            return
        assert head not in self.expected
        self.expected[head] = self.serial % (RAM_SIZE - 16)
        self.doorbell |= self.ends.driver.kick()

    def serve(self) -> None:
        """Take everything, if the doorbell has rung."""
        if not self.doorbell:
            return
        self.doorbell = False
        device = self.ends.device
        device.quiet()
        while True:
            while (chain := device.pop()) is not None:
                assert chain.readable[0][0] not in self.taken
                self.taken[chain.readable[0][0]] = chain
            if device.listen():
                return

    def complete(self, count: int) -> None:
        """Return some of the taken, in any order, as one batch."""
        serials = self.chance.sample(sorted(self.taken), min(count, len(self.taken)))
        slept = self.ends.driver.ask()
        for serial in serials:
            self.ends.device.push(self.taken.pop(serial).head, serial)
        wanted = self.ends.device.publish()
        self.returned.update(serials)
        assert wanted or not (slept and serials)

    def collect(self) -> None:
        """Collect what was returned: that, and nothing else."""
        for head, written in self.ends.driver.collect():
            serial = self.expected.pop(head)
            assert written == serial
            self.returned.remove(serial)
        assert not self.returned

    def die(self) -> None:
        """Let another process go on: what was taken comes again, in the order of taking."""
        before = {serial: (chain.readable, chain.writable) for serial, chain in self.taken.items()}
        self.ends.device = device = self.ends.make()
        assert device.left_behind or not before
        assert device.recover() == len(before)
        self.taken = {}
        for _ in before:
            chain = device.pop()
            assert chain is not None
            self.taken[chain.readable[0][0]] = chain
        assert {serial: (chain.readable, chain.writable) for serial, chain in self.taken.items()} == before
        assert list(before) == list(self.taken)
        self.doorbell = True  # the successor looks at every queue


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "serve", "complete", "collect", "die"]), st.integers(1, 6)), max_size=80
)


@settings(max_examples=250, deadline=None)
@given(
    event_idx=st.booleans(),
    indirect=st.booleans(),
    features=st.sampled_from(KINDS),
    size=st.integers(1, 256),
    steps=STEPS,
    seed=st.integers(0, 1000),
)
def test_everything_comes_back_once_and_nobody_sleeps_for_ever(
    memory: Memory,
    event_idx: bool,
    indirect: bool,
    features: int,
    size: int,
    steps: list[tuple[str, int]],
    seed: int,
) -> None:
    if features == SPLIT:
        size = max(2, 1 << size.bit_length() - 1)
    elif seed % 2:
        size = size % 12 + 1  # so small that chains go over the end of the ring
    ends = Ends(*memory, size, features=features, event_idx=event_idx, indirect=indirect)
    talk = Conversation(ends, random.Random(seed))
    for step, argument in steps:
        if step in ("add", "complete"):
            getattr(talk, step)(argument)
        else:
            getattr(talk, step)()
        if step == "serve":
            assert len(talk.taken) + len(talk.returned) == len(talk.expected)  # no doorbell, nothing new
        assert ends.device.broken is None
        assert ends.device.in_flight == len(talk.taken)
    talk.doorbell = True
    talk.serve()
    talk.complete(1000)
    talk.collect()
    assert not talk.expected
    assert not talk.taken
    assert ends.device.listen()


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("features", KINDS)
def test_a_ring_goes_on_at_a_position(memory: Memory, features: int, both: bool) -> None:
    ends = Ends(*memory, 8, features=features)
    for _ in range(11):
        ends.driver.add([(BASE, 1)], [])
        chain = ends.device.pop()
        assert chain is not None
        ends.device.push(chain.head, 0)
        ends.device.publish()
        ends.driver.collect()
    position = ends.device.position

    ends.device = ends.make()
    ends.device.start(position if both else position & 0xFFFF)

    assert position == (0x0003_0003 if features else 11)  # over the end once: the wrap counters are 0
    head = ends.driver.add([(BASE, 1)], [])
    chain = ends.device.pop()
    assert chain is not None
    ends.device.push(chain.head, 9)
    ends.device.publish()
    assert ends.driver.collect() == [(head, 9)]


@settings(max_examples=300, deadline=None)
@given(
    garbage=st.binary(min_size=64, max_size=512),
    avail=st.integers(0, 0xFFFF),
    indirect=st.booleans(),
    event_idx=st.booleans(),
    features=st.sampled_from(KINDS),
)
def test_garbage_in_the_rings_never_raises(
    memory: Memory, garbage: bytes, avail: int, indirect: bool, event_idx: bool, features: int
) -> None:
    ends = Ends(*memory, event_idx=event_idx, indirect=indirect, features=features)
    ends.driver.memory.ram.u8[: len(garbage)] = garbage
    if features == SPLIT:
        ends.driver.store(ends.driver.avail + 2, 2, avail)
    else:
        ends.driver.store(BASE + 14, 2, avail & ~0x8000 | 0x80)

    for _ in range(20):
        chain = ends.device.pop()
        if chain is None:
            break
        for offset, length in chain.readable + chain.writable:
            assert offset >= 0
            assert offset + length <= RAM_SIZE
        ends.device.push(chain.head, 0)
        ends.device.publish()
    ends.device.listen()
    again = ends.make()
    again.recover()
    again.pop()


@settings(max_examples=200, deadline=None)
@given(garbage=st.binary(min_size=288, max_size=288), begin=st.booleans())
def test_garbage_in_the_table_of_a_packed_ring_never_raises(memory: Memory, garbage: bytes, begin: bool) -> None:
    ends = Ends(*memory, features=KINDS[1])
    for _ in range(3):
        ends.driver.add([(BASE, 1)], [])
        ends.device.pop()
    page = memory[1]
    page.u8[TABLE + (16 if begin else 0) : TABLE + len(garbage)] = garbage[16 if begin else 0 :]

    again = ends.make()
    for _ in range(again.recover()):
        again.pop()

    assert again.broken is None or again.pop() is None


@pytest.mark.parametrize("features", KINDS)
@pytest.mark.parametrize(
    "places", [(0, BASE, BASE), (BASE + 8, BASE, BASE), (BASE, BASE + 1, BASE), (BASE, BASE, BASE + 2)]
)
def test_ring_that_is_not_in_ram_or_misaligned_is_broken(
    memory: Memory, places: tuple[int, int, int], features: int
) -> None:
    record = QueueRecord(memory[1], 0)
    record.size, record.broken = 8, 0
    record.desc, record.driver, record.device = places

    queue = rings.make_queue(features, 0, GuestMemory(memory[0], BASE), record, (memory[1], TABLE))
    queue.start(0)

    assert queue.broken is not None
    assert queue.pop() is None
    assert record.broken == 1


def test_no_interrupt_when_the_guest_asked_for_none(memory: Memory) -> None:
    ends = Ends(*memory)
    ends.driver.store(ends.driver.avail, 2, 1)
    ends.driver.add([(BASE, 1)], [])
    chain = ends.device.pop()
    assert chain is not None

    ends.device.push(chain.head, 0)

    assert not ends.device.publish()


@pytest.mark.parametrize("features", KINDS)
def test_indices_wrap(memory: Memory, features: int) -> None:
    ends = Ends(*memory, event_idx=True, features=features)
    for _ in range(66000):
        ends.driver.add([(BASE, 1)], [])
        chain = ends.device.pop()
        assert chain is not None
        ends.device.push(chain.head, 0)
        ends.device.publish()
        assert len(ends.driver.collect()) == 1

    assert ends.device.indices()["avail"] == (66000 % 8 if features else 66000 & 0xFFFF)
