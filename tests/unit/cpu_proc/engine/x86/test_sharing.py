"""Accesses by one base that share a look into the TLB."""

from __future__ import annotations

import pytest

from cpu_proc.engine import state as st
from tests.unit.cpu_proc.engine.x86.pair import Pair
from tests.unit.cpu_proc.harness import (
    RAM,
    RWX,
    S_MODE,
    TRAP,
    A,
    D,
    R,
    V,
    W,
    addi,
    jal,
    load,
    store,
)

DATA = RAM + 0x4_0000
VA = 0x4000_0000
LOADS = [load("d", 10, 8, -8), load("d", 11, 8, 0), load("wu", 5, 8, 8), load("b", 28, 8, 15)]
STORES = [store("d", 10, 8, -8), store("w", 11, 8, 4), store("b", 5, 8, 15)]


@pytest.mark.parametrize("offset", [8, 64, 0xFE0, 0xFF0, 0xFF4, 0xFF8, 0xFFC, 0x1000, 0x1004, 0x1008, 0x1010])
def test_wherever_the_page_ends(pair: Pair, offset: int) -> None:
    for bench in pair.both:
        bench.bytes(DATA, bytes(range(256)) * 64)
    pair.run([*LOADS, *STORES, *LOADS], {8: DATA + offset, 10: -2, 11: -3, 5: -4})


def test_a_base_that_changes_between_them(pair: Pair) -> None:
    for bench in pair.both:
        bench.store(DATA, DATA + 0x2000)
        bench.store(DATA + 0x2008, 77)
    fast = pair.run([load("d", 9, 8, 8), load("d", 8, 8, 0), load("d", 10, 8, 8), addi(8, 8, -8), load("d", 11, 8, 16)],
                    {8: DATA})  # fmt: skip
    assert (fast.x(10), fast.x(11)) == (77, 77)


def test_the_second_page_is_missing(pair: Pair) -> None:
    """The trap names the access that faults, and those before it are done."""
    for bench in pair.both:
        bench.map(RAM, RAM, RWX)
        bench.map(VA, DATA, V | R | W | A | D)
        bench["PRIV"] = S_MODE
        bench["MTVEC"] = RAM + 0x2000
        bench.words(RAM + 0x2000, jal(0, 0))
        bench.set_x(8, VA + 0xFF8)
        bench.set_x(10, 5)
        bench.words(RAM, store("d", 10, 8, -8), store("d", 10, 8, 0), store("d", 10, 8, 8), addi(10, 10, 1))
        bench["PC"] = RAM
        bench.step(5)
    pair.compare()
    assert pair.fast.trapped() == (15, RAM + 8, VA + 0x1000)
    assert pair.fast.load(DATA + 0xFF8) == 5


def test_loads_do_not_make_a_page_dirty(pair: Pair) -> None:
    entries = []
    for bench in pair.both:
        bench["MENVCFG"] = 1 << 61  # ADUE
        bench.map(RAM, RAM, RWX)
        entries = [bench.map(VA, DATA, V | R | W), bench.map(VA + 0x1000, DATA + 0x1000, V | R | W)]
        bench["PRIV"] = S_MODE
    fast = pair.run([load("d", 10, 8, 0), load("d", 11, 8, 16)], {8: VA})
    assert fast.load(entries[0]) & (A | D) == A
    assert fast.load(entries[1]) & (A | D) == 0
    fast = pair.run([load("d", 10, 8, 0), store("d", 10, 8, 16)], {8: VA})
    assert fast.load(entries[0]) & (A | D) == A | D
    assert fast.load(entries[1]) & (A | D) == 0


def test_a_page_with_many_straddling_accesses_stops_sharing(pair: Pair) -> None:
    turns = 3 * st.STRADDLES_MOST
    for bench in pair.both:
        program = [*LOADS, *STORES, addi(7, 7, -1)]
        bench.words(RAM, *program, jal(0, -4 * len(program)))
        bench.set_x(8, DATA + 0x1000)
        bench["PC"] = RAM
        bench.hart.flush_translations()
        bench.step(turns * (len(program) + 1))
    pair.compare()
    before = pair.fast["INTERPRETED"]
    pair.fast.step(9000)
    assert pair.fast["INTERPRETED"] - before < 100


def test_a_page_that_may_only_be_read(pair: Pair) -> None:
    """A load fills the TLB for stores too, where they are allowed: not here."""
    for bench in pair.both:
        bench.map(RAM, RAM, RWX)
        bench.map(VA, DATA, V | R | A)
        bench["PRIV"] = S_MODE
        bench["MTVEC"] = RAM + 0x2000
        bench.words(RAM, load("d", 10, 8), store("d", 10, 8))
        bench.set_x(8, VA)
        bench["PC"] = RAM
        assert bench.step(2) != TRAP
    pair.compare()
    assert pair.fast.trapped() == (15, RAM + 4, VA)
