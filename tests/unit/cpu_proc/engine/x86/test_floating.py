"""Floating point by the host's instructions: flags, rounding modes, NaNs, singles that are not boxed."""

from __future__ import annotations

import itertools
import struct

import pytest

from tests.unit.cpu_proc.engine.x86.pair import Pair
from tests.unit.cpu_proc.harness import csrrs, csrrw, csrrwi, r_type

FS_INITIAL, FS_DIRTY = 1 << 13, 3 << 13
FADD, FMUL, FDIV, FEQ, FLT = 0x01, 0x09, 0x0D, 0x51, 0x51
DOUBLES = [0.0, -0.0, 1.0, 1 / 3, -2.5, 5e-324, 1e-308, 1.7e308, float("inf"), float("-inf"), float("nan")]
SIGNALING = 0x7FF0_0000_0000_0001


def bits(value: float) -> int:
    """Return a double's bits."""
    return int.from_bytes(struct.pack("<d", value), "little")


def on(pair: Pair, f: dict[int, int], fs: int = FS_INITIAL, frm: int = 0) -> None:
    """Set floating registers and modes of both harts."""
    for bench in pair.both:
        bench["MSTATUS"] = fs
        bench["FRM"] = frm
        bench["FFLAGS"] = 0
        for number, value in f.items():
            bench.set_f(number, value)


@pytest.mark.parametrize("operation", [FADD, FMUL, FDIV])
@pytest.mark.parametrize("frm", [0, 1, 4])
def test_results_and_flags(pair: Pair, operation: int, frm: int) -> None:
    values = [*map(bits, DOUBLES), SIGNALING]
    program = [r_type(0x53, 7, operation, 3, 1, 2), csrrs(5, "fflags"), r_type(0x53, 7, operation, 4, 3, 1)]
    for a, b in itertools.product(values, values):
        on(pair, {1: a, 2: b}, frm=frm)
        pair.run(program)
    assert pair.fast["MSTATUS"] & FS_DIRTY == FS_DIRTY


def test_flags_are_saved_and_restored_around_a_comparison(pair: Pair) -> None:
    """As compilers do for a comparison that must not signal."""
    for a, b in itertools.product([*map(bits, DOUBLES), SIGNALING], repeat=2):
        on(pair, {1: a, 2: b}, FS_DIRTY)
        program = [
            r_type(0x53, 7, FDIV, 3, 1, 2), csrrs(5, "fflags"), r_type(0x53, 1, FLT, 6, 1, 2), csrrw(0, "fflags", 5),
            r_type(0x53, 2, FEQ, 7, 1, 2), csrrw(10, "fflags", 6), csrrs(11, "fflags"), csrrw(12, "fcsr", 0),
        ]  # fmt: skip
        pair.run(program)


def test_off_is_illegal_in_the_middle_of_a_block(pair: Pair) -> None:
    on(pair, {1: bits(1.0), 2: bits(2.0)}, 0)
    for bench in pair.both:
        bench["MTVEC"] = bench["PC"] + 0x1000
        bench.words(bench["PC"], csrrwi(0, 0x340, 1), r_type(0x53, 7, FADD, 3, 1, 2))
        bench.step(2)
    pair.compare()
    assert pair.fast.trapped()[0] == 2


def test_a_single_that_is_not_boxed_is_a_nan(pair: Pair) -> None:
    for a in (bits(1.5), 0xFFFF_FFFF_3FC0_0000, 0x3FC0_0000, 0xFFFF_FFFE_3FC0_0000):
        on(pair, {1: a, 2: 0xFFFF_FFFF_3FC0_0000}, FS_DIRTY)
        pair.run(
            [r_type(0x53, 7, FADD - 1, 3, 1, 2), r_type(0x53, 7, FADD - 1, 4, 3, 1), r_type(0x53, 0, 0x10, 5, 1, 1)]
        )


@pytest.mark.parametrize("rm", [0, 1, 2, 7])
@pytest.mark.parametrize("kind", range(4), ids=["w", "wu", "l", "lu"])
def test_to_and_from_integers(pair: Pair, kind: int, rm: int) -> None:
    values = [*DOUBLES, 2.5, -0.5, 2147483647.5, -2147483648.5, 4294967295.5, 9.3e18, -9.3e18, 1.9e19]
    for value in values:
        on(pair, {1: bits(value)}, FS_DIRTY)
        pair.run([r_type(0x53, rm, 0x61, 10, 1, kind), r_type(0x53, rm, 0x69, 2, 10, kind), csrrs(5, "fflags")])
    for number in (0, 1, -1, 1 << 62, -1 << 63, (1 << 53) + 1, (1 << 64) - 1):
        on(pair, {}, FS_DIRTY)
        pair.run([r_type(0x53, rm, 0x69, 2, 28, kind), r_type(0x53, rm, 0x68, 3, 28, kind)], {28: number})
