"""Pairs of instructions that are one of the host's."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.cpu_proc.engine.x86.pair import Pair
from tests.unit.cpu_proc.harness import RAM, addi, b_type, i_type, jal, r_type

SLLI, SRLI, SRAI = (1, 0), (5, 0), (5, 0x400)
VALUE = 0xFEDC_BA98_8765_4321
# rd and rs1: with host registers (10, 11) and without (5, 28)
PLACES = [(10, 11), (10, 10), (10, 5), (5, 10), (5, 28), (5, 5)]


def shift(kind: tuple[int, int], rd: int, rs1: int, amount: int, opcode: int = 0x13) -> int:
    """Return a shift by an immediate."""
    return i_type(opcode, kind[0], rd, rs1, kind[1] | amount)


@pytest.mark.parametrize("right", [SRLI, SRAI])
def test_shifts_there_and_back(pair: Pair, right: tuple[int, int]) -> None:
    amounts = (0, 1, 16, 31, 32, 33, 47, 48, 56, 63)
    for (rd, rs1), there, back in itertools.product(PLACES, amounts, amounts):
        pair.run([shift(SLLI, rd, rs1, there), shift(right, rd, rd, back)], {rs1: VALUE})


@pytest.mark.parametrize("right", [SRLI, SRAI])
def test_words_there_and_back(pair: Pair, right: tuple[int, int]) -> None:
    amounts = (0, 1, 8, 16, 24, 31)
    for (rd, rs1), there, back in itertools.product(PLACES, amounts, amounts):
        pair.run([shift(SLLI, rd, rs1, there, 0x1B), shift(right, rd, rd, back, 0x1B)], {rs1: VALUE})


@pytest.mark.parametrize("second", [0x13, 0x1B], ids=["addi", "addiw"])
@pytest.mark.parametrize("first", [0x37, 0x17], ids=["lui", "auipc"])
def test_constants_and_addresses(pair: Pair, first: int, second: int) -> None:
    for rd, upper, lower in itertools.product((10, 5), (0, 1, 0x7FFFF, 0x80000, 0xFFFFF), (0, 1, -1, 2047, -2048)):
        pair.run([upper << 12 | rd << 7 | first, i_type(second, 0, rd, rd, lower)], at=RAM + 0x100)


@pytest.mark.parametrize("narrow", [False, True], ids=["add", "addw"])
def test_elements(pair: Pair, narrow: bool) -> None:
    """The base may come first or second, and be the result, the index or nothing."""
    opcode = 0x3B if narrow else 0x33
    for (rd, index), amount, base in itertools.product(PLACES, range(5), (0, 5, 10, 12, 28)):
        for operands in ((rd, base), (base, rd)):
            words = [shift(SLLI, rd, index, amount), r_type(opcode, 0, 0, rd, *operands)]
            pair.run(words, {5: VALUE, 10: 3, 11: -7, 12: RAM, 28: 1 << 40})


def test_bytes(pair: Pair) -> None:
    for rd, rs1 in PLACES:
        pair.run([i_type(0x13, 7, rd, rs1, 0xFF), i_type(0x13, 7, rd, rs1, 0xFE)], {rs1: VALUE})


def test_what_does_not_fuse(pair: Pair) -> None:
    """Another register, or nothing in common: each does what it does alone."""
    pair.run([shift(SLLI, 10, 11, 32), shift(SRLI, 10, 11, 32)], {11: VALUE})
    pair.run([shift(SLLI, 0, 11, 32), shift(SRLI, 0, 0, 32)], {11: VALUE})
    pair.run([0x12345 << 12 | 10 << 7 | 0x37, addi(11, 10, 5)])


def test_a_jump_to_the_second_of_a_pair(pair: Pair) -> None:
    words = [shift(SLLI, 10, 10, 32), shift(SRLI, 10, 10, 32), addi(12, 12, 1), b_type(0, 12, 13, 8), jal(0, -12)]
    for bench in pair.both:
        bench.words(RAM, *words)
        for number, value in ((10, VALUE), (12, 0), (13, 3)):
            bench.set_x(number, value)
        bench.step(12)
    pair.compare()
