"""Ranges of guest memory: named, inside, apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.boot.placement import Placement
from protocol.errors import ConfigError
from tests.unit.cpu_proc.harness import RAM, anonymous

SIZE = 1 << 12


def test_what_is_claimed_is_stored_with_zeros_behind() -> None:
    placement = Placement(SIZE)
    placement.claim("one", RAM + 16, b"abc", 8)
    placement.claim("two", RAM + SIZE - 2, b"zz")
    with anonymous(SIZE) as ram:
        ram.u8[:] = b"\xff" * SIZE
        placement.store(ram)
        assert bytes(ram.u8[15:25]) == b"\xffabc\0\0\0\0\0\xff"
        assert bytes(ram.u8[SIZE - 3 :]) == b"\xffzz"


@pytest.mark.parametrize(
    ("start", "size", "hint"),
    [
        (RAM - 1, 1, "begins"), (RAM + SIZE, 1, "raise vm.memory"), (RAM + SIZE - 1, 2, "raise vm.memory"),
        (RAM, 1 << 62, "raise vm.memory"), ((1 << 64) - 1, 1, "raise vm.memory"), (0x1000, 1 << 40, "begins"),
    ],
)  # fmt: skip
def test_what_lies_outside_is_refused_by_name(start: int, size: int, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"^thing does not fit into guest memory: .*0x80000000-0x80001000") as caught:
        Placement(SIZE).claim("thing", start, b"", size)
    assert hint in str(caught.value.hint)


def test_an_overlap_names_both() -> None:
    placement = Placement(SIZE)
    placement.claim("kernel k", RAM + 0x100, b"k" * 0x100)
    placement.claim("load 1", RAM, b"1" * 0x100)
    placement.claim("load 3", RAM + 0x200, b"3")
    with pytest.raises(ConfigError) as caught:
        placement.claim("load 2 (foo.bin)", RAM + 0x1FF, b"2")
    assert caught.value.message == ("load 2 (foo.bin) 0x800001ff-0x80000200 overlaps kernel k 0x80000100-0x80000200")


@given(
    some.lists(some.tuples(some.integers(0, SIZE - 1), some.integers(1, SIZE // 4)), max_size=12),
    some.integers(1, SIZE),
    some.sampled_from([1, 16, 256]),
    some.integers(0, SIZE),
    some.integers(0, SIZE),
)
def test_the_highest_place_is_free_and_the_highest(
    wanted: list[tuple[int, int]], size: int, align: int, floor: int, ceiling: int
) -> None:
    placement = Placement(SIZE)
    taken = bytearray(SIZE)
    for number, (at, length) in enumerate(wanted):
        length = min(length, SIZE - at)
        if not any(taken[at : at + length]):
            placement.claim(f"load {number}", RAM + at, b"", length)
            taken[at : at + length] = b"\1" * length
    expected = next(
        (at for at in range(ceiling - size, floor - 1, -1) if at % align == 0 and not any(taken[at : at + size])), None
    )
    found = placement.highest(size, align, RAM + floor, RAM + ceiling)
    assert found == (None if expected is None else RAM + expected)
