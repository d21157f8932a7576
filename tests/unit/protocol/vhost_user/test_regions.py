"""Regions as one span: places, holes, refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from protocol.errors import Malformed
from protocol.vhost_user.payloads import Region
from protocol.vhost_user.regions import SPAN_MAX, Regions
from tests.unit.protocol.vhost_user.conftest import memory

PAGE = 4096
LOW = Region(0x8000_0000, 2 * PAGE, 0x7F00_0000_0000, PAGE)
NEXT = Region(0x8000_2000, PAGE, 0x7F00_1000_0000, 0)
HIGH = Region(0x1_0000_0000, PAGE, 0x7F00_2000_0000, 0)


@pytest.fixture
def regions() -> Iterator[Regions]:
    regions = Regions()
    yield regions
    regions.close()


def test_regions_are_neighbours_as_they_are_for_the_guest(regions: Regions) -> None:
    low, following = memory(3 * PAGE), memory(PAGE)
    regions.set([(NEXT, os.dup(following)), (LOW, os.dup(low)), (HIGH, memory(PAGE))])
    guest = regions.memory

    assert guest.write(0x8000_1FFE, b"abcd")
    assert os.pread(low, 2, 3 * PAGE - 2) == b"ab"
    assert os.pread(following, 2, 0) == b"cd"
    assert guest.store(HIGH.gpa, 8, 7)
    assert guest.load(HIGH.gpa, 8) == 7
    os.close(low)
    os.close(following)


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(0x7FFF_FFFF, 1), (0x8000_2FFF, 2), (0x8000_3000, 1), (0xFFFF_FFFF, 1), (0xFFFF_FFFF, 2), (0x1_0000_0FFF, 2),
     (0x8000_0000, 0x8000_0000), (0, 1 << 60)],
)  # fmt: skip
def test_what_is_between_regions_is_no_memory(regions: Regions, gpa: int, length: int) -> None:
    regions.set([(LOW, memory(3 * PAGE)), (NEXT, memory(PAGE)), (HIGH, memory(PAGE))])

    assert regions.memory.offset(gpa, length) is None
    assert regions.memory.read(gpa, length) is None


def test_addresses_of_the_front_end(regions: Regions) -> None:
    regions.set([(LOW, memory(3 * PAGE)), (NEXT, memory(PAGE))])

    assert regions.translate(LOW.uaddr + 8, 16) == LOW.gpa + 8
    assert regions.translate(LOW.uaddr + LOW.size - 8, 16) is None
    assert regions.translate(NEXT.uaddr, PAGE) == NEXT.gpa
    assert regions.translate(LOW.uaddr - 1, 1) is None


@pytest.mark.parametrize(
    "region",
    [
        Region(0, 0, 0, 0), Region(1, PAGE, 0, 0), Region(0, PAGE + 1, 0, 0), Region(0, PAGE, 0, 1),
        Region((1 << 64) - PAGE, 2 * PAGE, 0, 0), Region(0, PAGE, (1 << 64) - 1, 0), Region(0, 2 * PAGE, 0, 0),
        Region(0, PAGE, 0, PAGE), LOW, Region(LOW.gpa + PAGE, PAGE, 0, 0), Region(SPAN_MAX * 2, PAGE, 0, 0),
    ],
)  # fmt: skip
def test_regions_that_cannot_be_are_refused_and_the_others_stay(regions: Regions, region: Region) -> None:
    regions.set([(LOW, memory(3 * PAGE))])
    regions.memory.write(LOW.gpa, b"here")

    with pytest.raises(Malformed):
        regions.add(region, memory(PAGE))
    with pytest.raises(Malformed):
        regions.set([(LOW, memory(3 * PAGE)), (region, memory(PAGE))])

    assert regions.all == [LOW]
    assert regions.memory.read(LOW.gpa, 4) == b"here"


def test_regions_come_and_go(regions: Regions) -> None:
    regions.add(HIGH, memory(PAGE))
    regions.memory.write(HIGH.gpa, b"high")
    regions.add(LOW, memory(3 * PAGE))
    assert regions.memory.read(HIGH.gpa, 4) == b"high"

    regions.remove(Region(HIGH.gpa, HIGH.size, HIGH.uaddr, 0))

    assert regions.all == [LOW]
    with pytest.raises(Malformed):
        regions.remove(HIGH)
    regions.remove(LOW)
    assert regions.memory.size == 0
    assert regions.memory.offset(0, 1) is None


def test_no_memory_is_no_file(regions: Regions) -> None:
    reader, writer = os.pipe()
    with pytest.raises(Malformed):
        regions.add(NEXT, reader)
    os.close(writer)
