"""Trace pages: what is written is read, in order; what is overwritten is counted; what is no page is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from protocol.errors import Malformed, VersionMismatch
from protocol.trace import DATA, EVENT_SIZE, Kind, Reader, Side, TracePage, Writer, accept, create


@pytest.fixture
def page() -> Iterator[TracePage]:
    made = create(slots=8)
    yield made
    made.shared.close()


def test_an_event_is_read_as_it_was_written(page: TracePage) -> None:
    reader, other = Reader(page, Side.DEVICE), Reader(page, Side.CPU)
    Writer(page, Side.DEVICE).put(Kind.DONE, 7, 3, 2, 0x1234, (1 << 64) - 1, b"answer")

    (event,) = reader.take()

    assert (event.kind, event.id, event.where, event.size) == (Kind.DONE, 7, 3, 2)
    assert (event.a, event.b, event.data) == (0x1234, (1 << 64) - 1, b"answer".ljust(DATA, b"\0"))
    assert list(reader.take()) == list(other.take()) == []
    assert EVENT_SIZE == 64


def test_a_slow_reader_gets_the_newest_and_learns_how_many_it_lost(page: TracePage) -> None:
    reader, writer = Reader(page, Side.CPU), Writer(page, Side.CPU)
    for number in range(20):
        writer.put(Kind.KICK, number, 0, 0, 0, 0)

    assert [event.id for event in reader.take()] == list(range(13, 20))  # one less than slots: the next may be half
    assert reader.lost == 13


def test_a_second_writer_goes_on_where_the_first_was_killed(page: TracePage) -> None:
    reader = Reader(page, Side.DEVICE)
    for number in (1, 2):
        Writer(page, Side.DEVICE).put(Kind.TAKEN, number, 0, 0, 0, 0)
    assert [event.id for event in reader.take()] == [1, 2]


def test_numbers_are_left_for_the_other_side(page: TracePage) -> None:
    page.set_kick(3, 17)
    page.set_answer(4, 18)
    page.set_kick(1 << 20, 1)
    assert (page.kick(3), page.answer(4), page.kick(1 << 20)) == (17, 18, 0)


def test_only_a_sealed_page_of_sound_shape_is_accepted(page: TracePage) -> None:
    taken = accept(os.dup(page.shared.fd))
    assert taken.slots == 8
    taken.shared.close()

    page.slots = 9
    with pytest.raises(Malformed, match="rings of 9"):
        accept(os.dup(page.shared.fd))
    page.slots, page.version = 8, 99
    with pytest.raises(VersionMismatch):
        accept(os.dup(page.shared.fd))
    unsealed = os.memfd_create("x")
    os.ftruncate(unsealed, 1 << 20)
    with pytest.raises(Malformed):
        accept(unsealed)
    with pytest.raises(Malformed):
        accept(os.open("/dev/null", os.O_RDWR))
