"""The thread that counts what back-ends write into their calls."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from cpu_proc.calls import Calls
from protocol.layout import IrqPage
from tests.unit.cpu_proc.harness import anonymous, engine

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
    plant.calls.remove(plant.fds[0])
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
