"""The translator against the interpreter, instruction by instruction, and what ends a block's life."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.fuzz import image, programs
from tests.fuzz.runners import MEMORY
from tests.unit.cpu_proc.harness import (
    BUDGET,
    FENCE_I,
    RAM,
    RWX,
    S_MODE,
    Bench,
    addi,
    b_type,
    jal,
    jalr,
    li,
    load,
    sfence,
    store,
)

LOOP = RAM + 0x100


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Bench, Bench]]:
    """Return a hart of each engine."""
    both = Bench(MEMORY, INTERPRETER), Bench(MEMORY, TRANSLATOR)
    yield both
    for bench in both:
        bench.close()


@pytest.fixture
def fast(engines: tuple[Bench, Bench]) -> Bench:
    """Return the hart that translates, reset."""
    engines[1].reset()
    return engines[1]


def state(bench: Bench) -> tuple[object, ...]:
    """Return what two engines have to agree on."""
    names = ("PC", "PRIV", "INSTRET", "MSTATUS", "MEPC", "MCAUSE", "MTVAL", "FFLAGS", "FRM", "BUDGET")
    return bytes(bench.hart.x[:32]), bytes(bench.hart.f), tuple(bench[name] for name in names)


@pytest.mark.parametrize("seed", range(4))
def test_lock_step_over_random_programs(engines: tuple[Bench, Bench], seed: int) -> None:
    chosen = random.Random(seed)
    built = image.build([programs.generate(seed * 10 + number, "") for number in range(10)], 6)
    for bench in engines:
        bench.reset()
        bench.bytes(RAM, built)
    ended = 0
    while not ended:
        count = chosen.choice((1, 2, 3, 7, 50, 333, 5000))
        results = [bench.step(count) for bench in engines]
        assert results[0] == results[1]
        assert state(engines[0]) == state(engines[1])
        ended = results[0] != BUDGET
    assert bytes(engines[0].ram.u8) == bytes(engines[1].ram.u8)
    assert engines[1]["BLOCKS"] > 100


def count_down(bench: Bench, turns: int) -> None:
    """Run a loop at ``LOOP`` that adds what its first instruction says."""
    bench.set_x(7, turns)
    bench["PC"] = LOOP
    bench.step(turns * 3)


def test_changed_code_is_executed_after_fence_i_and_not_before(fast: Bench) -> None:
    fast.words(LOOP, addi(5, 5, 1), addi(7, 7, -1), b_type(1, 7, 0, -8), jal(0, 0))
    count_down(fast, 100)
    assert fast.x(5) == 100
    fast.words(LOOP, addi(5, 5, 2))  # as a device would
    count_down(fast, 100)
    assert fast.x(5) == 200
    fast.words(RAM + 0x3000, FENCE_I)
    fast["PC"] = RAM + 0x3000
    fast.step()
    count_down(fast, 100)
    assert fast.x(5) == 400


def test_a_guest_that_writes_its_own_loop(fast: Bench) -> None:
    """Each turn raises the immediate of the addition, then fences."""
    fast.set_x(8, LOOP)
    fast.set_x(9, 1 << 20)
    fast.set_x(7, 50)
    loop = [addi(5, 5, 1), load("wu", 6, 8), 0x0094_0433 & 0, store("w", 6, 8), FENCE_I, addi(7, 7, -1)]
    loop[2] = 9 << 20 | 6 << 15 | 6 << 7 | 0x33  # add x6, x6, x9
    fast.words(LOOP, *loop, b_type(1, 7, 0, -24), jal(0, 0))
    fast["PC"] = LOOP
    fast.step(50 * 7)
    assert fast.x(5) == sum(range(1, 51))


def test_a_jump_goes_where_its_page_now_is(fast: Bench) -> None:
    """The cache of jumps forgets at sfence.vma: the same virtual address, another page."""
    one, other, va = RAM + 0x10000, RAM + 0x11000, 0x4000_5000
    for page, value in ((one, 1), (other, 2)):
        fast.words(page, addi(5, 5, value), jalr(0, 1))
    fast.map(RAM, RAM, RWX)
    entry = fast.map(va, one, RWX)
    fast["PRIV"] = S_MODE
    fast.words(RAM, *li(6, va), jalr(1, 6), jalr(1, 6), sfence(), jalr(1, 6), jal(0, 0))
    fast["PC"] = RAM
    for _ in range(3):
        fast["PC"] = RAM
        fast.step(11 + 6)
    assert fast.x(5) == 6
    fast.store(entry, other >> 12 << 10 | RWX)
    fast["PC"] = RAM
    fast.step(11 + 10)
    assert fast.x(5) == 6 + 1 + 1 + 2


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 47, 48, 49, 2047, 2048, 2049, 10_000])
def test_a_budget_is_kept_to_the_instruction(fast: Bench, budget: int) -> None:
    fast.words(LOOP, *[addi(5, 5, 1)] * 60, jal(0, -240))
    fast["PC"] = LOOP
    before = fast["INSTRET"]
    assert fast.step(budget) == BUDGET
    assert fast["INSTRET"] - before == budget
    assert fast.x(5) == budget - budget // 61
    assert fast["PC"] == LOOP + 4 * (budget % 61)


def test_a_trap_in_a_block_is_precise(fast: Bench) -> None:
    fast["MTVEC"] = RAM + 0x2000
    fast.words(RAM + 0x2000, jal(0, 0))
    fast.set_x(8, 0x1000)  # nothing is there
    fast.set_x(9, RAM + 0x8000)
    fast.words(LOOP, addi(5, 5, 1), store("d", 5, 9), load("d", 6, 8), addi(5, 5, 1))
    fast["PC"] = LOOP
    fast.step(2)
    fast.step(1)
    assert (fast.x(5), fast.load(RAM + 0x8000), fast["PC"]) == (1, 1, LOOP + 8)


def test_a_full_buffer_is_begun_anew(engines: tuple[Bench, Bench], fast: Bench) -> None:
    limit = fast["CODE_LIMIT"]
    fast["CODE_LIMIT"] = fast["CODE_START"] + 6000
    fast["EMIT"] = limit
    try:
        chosen = random.Random(3)
        built = image.build([programs.generate(900 + number, "") for number in range(8)], 4)
        for bench in engines:
            bench.reset()
            bench.bytes(RAM, built)
        flushes = fast["CODE_FLUSHES"]
        while True:
            results = [bench.step(chosen.choice((900, 900))) for bench in engines]
            assert state(engines[0]) == state(engines[1])
            if results[0] != BUDGET:
                break
        assert fast["CODE_FLUSHES"] - flushes > 3
    finally:
        fast["CODE_LIMIT"] = limit
