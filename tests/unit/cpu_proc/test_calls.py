"""The thread that counts what back-ends write into their calls."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from cpu_proc import memory_map as mm
from cpu_proc.calls import Calls, Route
from protocol.layout import IrqPage
from tests.unit.cpu_proc.harness import Bench, anonymous, engine

SOURCE = 17


class Plant:
    """An interrupt page, its event, and calls."""

    def __init__(self) -> None:
        self.irq = IrqPage(anonymous(IrqPage.SIZE))
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.calls = Calls(engine(), self.irq, self.event)
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(100)]

    def woken(self) -> bool:
        """Wait for the wake of the harts."""
        if not select.select([self.event], [], [], 5)[0]:
            return False
        os.eventfd_read(self.event)
        return True

    def until(self, source: int, word: int) -> None:
        """Wait until a word has come so far."""
        while self.irq.word(source) != word:
            assert self.woken()

    def close(self) -> None:
        """Give everything back."""
        self.calls.close()
        self.irq.shared.close()
        for fd in [*self.fds, self.event]:
            os.close(fd)


@pytest.fixture
def plant() -> Iterator[Plant]:
    plant = Plant()
    yield plant
    plant.close()


def test_a_call_counts_up_its_source_and_makes_the_harts_look(plant: Plant) -> None:
    plant.calls.add(plant.fds[0], SOURCE)
    os.eventfd_write(plant.fds[0], 1)

    assert plant.woken()
    assert plant.irq.word(SOURCE) == 1
    assert plant.irq.shared.u8[IrqPage.LOOK] == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(plant.fds[0])  # it is taken


def test_what_was_written_before_it_is_watched_counts(plant: Plant) -> None:
    os.eventfd_write(plant.fds[0], 5)
    plant.calls.add(plant.fds[0], SOURCE)

    plant.until(SOURCE, 1)  # written together, taken together


def test_more_than_one_wake_can_carry(plant: Plant) -> None:
    for index, fd in enumerate(plant.fds):
        plant.calls.add(fd, SOURCE + index)
    for fd in plant.fds:
        os.eventfd_write(fd, 1)
    for index in range(len(plant.fds)):
        plant.until(SOURCE + index, 1)


def test_a_call_that_is_forgotten_counts_no_more(plant: Plant) -> None:
    for index in range(2):
        plant.calls.add(plant.fds[index], SOURCE + index)
    plant.calls.remove(plant.fds[0], SOURCE)
    os.eventfd_write(plant.fds[0], 1)
    os.eventfd_write(plant.fds[1], 1)

    plant.until(SOURCE + 1, 1)
    assert plant.irq.word(SOURCE) == 0


def test_the_thread_is_there_with_the_first_call_and_gone_at_the_end() -> None:
    def running() -> bool:
        return any(thread.name == "calls" for thread in threading.enumerate())

    plant = Plant()
    assert not running()
    plant.calls.add(plant.fds[0], SOURCE)
    assert running()
    plant.close()
    assert not running()


# messages that the thread sends itself

CONTROL, VECTOR, TABLE = 0x00, 0x10, 0x100
S_FILE = mm.IMSIC_S.base


class Direct(Plant):
    """A plant with a hart, and a page with MSI-X of two vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls.close()
        self.bench = Bench()
        self.bench.hart.connect([self.bench.hart], np.zeros(1, np.int64), self.event)
        self.calls = Calls(engine(), self.irq, self.event, [self.bench.hart])
        self.page = np.zeros(0x200, np.uint8)
        here = int(self.page.ctypes.data)
        self.route = Route(here + CONTROL, here + VECTOR, here + TABLE, 2)
        self.calls.add(self.fds[0], SOURCE)
        self.calls.route(SOURCE, self.route)
        self.put(CONTROL, 2, 0x8000)
        self.entry(0, S_FILE, 70)
        self.entry(1, S_FILE, 71)

    def put(self, at: int, size: int, value: int) -> None:
        """Store a number in the page."""
        self.page[at : at + size] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)

    def entry(self, vector: int, address: int, identity: int, *, masked: int = 0) -> None:
        """Write an entry of the table."""
        for offset, size, value in ((0, 8, address), (8, 4, identity), (12, 4, masked)):
            self.put(TABLE + 16 * vector + offset, size, value)

    def call(self) -> bool:
        """Write the eventfd; return whether the thread has sent a message, and did not count."""
        sent, word = self.calls.sent(SOURCE), self.irq.word(SOURCE)
        os.eventfd_write(self.fds[0], 1)
        deadline = time.monotonic() + 5
        while self.calls.sent(SOURCE) == sent and self.irq.word(SOURCE) == word:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self.calls.sent(SOURCE) > sent

    def pending(self, identity: int) -> bool:
        """Take over what was posted, and return whether that is pending in the file of S mode."""
        self.bench.run([0x13])
        return bool(self.bench[f"SI_EIP{identity >> 6}"] >> (identity & 63) & 1)

    def close(self) -> None:
        """Give back."""
        super().close()
        self.bench.close()


@pytest.fixture
def direct() -> Iterator[Direct]:
    plant = Direct()
    yield plant
    plant.close()


def test_a_message_goes_to_the_interrupt_file_without_python(direct: Direct) -> None:
    assert direct.call()
    assert direct.pending(70)
    assert not direct.pending(71)
    direct.put(VECTOR, 2, 1)  # the device says that it is another vector now
    assert direct.call()
    assert direct.pending(71)
    assert direct.irq.shared.u8[IrqPage.LOOK] == 0


@pytest.mark.parametrize(
    ("at", "size", "value"),
    [
        (CONTROL, 2, 0),
        (CONTROL, 2, 0xC000),
        (VECTOR, 2, 2),
        (VECTOR, 2, 0xFFFF),
        (TABLE + 12, 4, 1),
        (TABLE, 8, 0x1000_0000),
        (TABLE, 8, S_FILE + 4),  # big-endian
        (TABLE, 8, S_FILE + 0x1000),  # a hart that is not there
        (TABLE + 8, 4, 0),
        (TABLE + 8, 4, 256),
        (TABLE + 8, 4, 0xFFFF_FFFF),
    ],
)
def test_whatever_stands_in_the_way_is_counted_for_python(direct: Direct, at: int, size: int, value: int) -> None:
    direct.put(at, size, value)
    assert not direct.call()
    assert not direct.pending(70)
    direct.calls.route(SOURCE, None)
    direct.put(at, size, 0)
    assert not direct.call()


def test_a_call_that_is_exchanged_for_another_is_that_one(direct: Direct) -> None:
    direct.calls.remove(direct.fds[0], SOURCE)
    direct.calls.add(direct.fds[1], SOURCE)
    os.eventfd_write(direct.fds[0], 1)
    os.eventfd_write(direct.fds[1], 1)
    direct.until(SOURCE, 1)
    assert direct.calls.sent(SOURCE) == 0
    direct.calls.route(SOURCE, direct.route)
    os.eventfd_write(direct.fds[1], 1)
    while not direct.calls.sent(SOURCE):
        time.sleep(0.001)
    assert direct.pending(70)
