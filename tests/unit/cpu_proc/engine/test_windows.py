"""Windows of plain memory outside RAM, from which instructions may come, and accesses that Python refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpu_proc.engine import state as st
from tests.unit.cpu_proc.harness import (
    BUDGET,
    MASK,
    MMIO,
    NOP,
    RAM,
    RWX,
    S_MODE,
    A,
    Bench,
    R,
    V,
    X,
    addi,
    amo,
    jal,
    jalr,
    load,
    lr,
    store,
)

ROM, SIZE = 0x2000_0000, 0x2000
IMAGE = RAM + 0x10_0000  # where the test keeps what the window shows
CODE, VA = RAM, 0x4000_0000
FETCH, LOAD, STORE = 1, 5, 7
SHORT = 0x0385  # c.addi x7, 1


def row(bench: Bench, **fields: int) -> list[int]:
    """Return a row of the table of windows."""
    values = [0] * st.WINDOW_WORDS
    values[st.W_BASE], values[st.W_SIZE], values[st.W_CODE] = ROM, SIZE, 1
    values[st.W_IMAGE] = bench.hart["RAM_HOST"] + IMAGE - RAM
    for name, value in fields.items():
        values[getattr(st, f"W_{name.upper()}")] = value
    return values


@pytest.fixture
def rom(bench: Bench) -> Iterator[Bench]:
    """Return the hart with one window of memory from which instructions may come."""
    bench.hart.set_windows([row(bench)])
    yield bench
    bench.hart.set_windows([])
    bench["MMIO_DONE"] = 0


def go(bench: Bench, at: int, count: int) -> int:
    """Step from an address."""
    bench["PC"], bench["MCAUSE"], bench["MTVAL"] = at, 0, 0
    return bench.step(count)


def test_instructions_run_from_it(rom: Bench) -> None:
    rom.words(IMAGE + 0x10, addi(7, 0, 5), SHORT | SHORT << 16, jal(0, 8), NOP, jalr(0, 5))
    rom.set_x(5, CODE + 8)
    rom.words(CODE + 8, addi(8, 7, 1))
    assert go(rom, ROM + 0x10, 6) == BUDGET
    assert (rom.x(7), rom.x(8), rom["PC"]) == (7, 8, CODE + 12)


def test_instruction_across_pages_of_it(rom: Bench) -> None:
    word = addi(7, 0, 0x123)
    rom.store(IMAGE + 0xFFE, word, 4)
    go(rom, ROM + 0xFFE, 1)
    assert (rom.x(7), rom["PC"]) == (0x123, ROM + 0x1002)


def test_its_end_is_the_end_of_code(rom: Bench) -> None:
    rom.words(IMAGE + SIZE - 4, NOP)
    go(rom, ROM + SIZE - 4, 2)
    assert rom.trapped() == (FETCH, ROM + SIZE, ROM + SIZE)
    rom.words(IMAGE + SIZE - 4, 0x0001 | (NOP & 0xFFFF) << 16)
    go(rom, ROM + SIZE - 4, 2)
    assert rom.trapped() == (FETCH, ROM + SIZE - 2, ROM + SIZE)


def test_what_changes_in_it_is_executed_at_once(rom: Bench) -> None:
    """Nothing of it is kept decoded: a flash chip changes its mode by a store."""
    for value in (1, 2, 1):
        rom.words(IMAGE, addi(7, 0, value))
        go(rom, ROM, 1)
        assert rom.x(7) == value


def test_loads_are_served_and_stores_go_to_python(rom: Bench) -> None:
    rom.store(IMAGE + 8, 0x8877_6655_4433_2211)
    rom.set_x(5, ROM + 8)
    assert rom.run([load("d", 7, 5), load("h", 8, 5, 6), load("bu", 9, 5, 1)]) == BUDGET
    assert (rom.x(7), rom.x(8), rom.x(9)) == (0x8877_6655_4433_2211, 0xFFFF_FFFF_FFFF_8877, 0x22)
    assert rom.run([store("w", 7, 5)]) == MMIO
    assert (rom["MMIO_ADDRESS"], rom["MMIO_WRITE"], rom["MMIO_VALUE"] & 0xFFFF_FFFF) == (ROM + 8, 1, 0x4433_2211)
    assert rom.load(IMAGE + 8) == 0x8877_6655_4433_2211


def test_store_by_code_in_it_goes_on_there(rom: Bench) -> None:
    rom.words(IMAGE, store("w", 6, 5), addi(7, 0, 9))
    rom.set_x(5, ROM + 0x100)
    assert go(rom, ROM, 2) == MMIO
    rom["MMIO_DONE"] = st.MMIO_SERVED
    assert rom.hart.run() == BUDGET
    assert (rom.x(7), rom["PC"]) == (9, ROM + 8)


@pytest.mark.parametrize(("word", "cause"), [(lr(8, 7, 5), LOAD), (amo(0, 8, 7, 5, 6), STORE)])
def test_atomics_need_ram(rom: Bench, word: int, cause: int) -> None:
    rom.set_x(5, ROM)
    rom.run([word])
    assert rom.trapped() == (cause, CODE, ROM)


def test_without_the_flag_it_holds_no_code(rom: Bench) -> None:
    rom.hart.set_windows([row(rom, code=0)])
    rom.words(IMAGE, NOP)
    go(rom, ROM, 1)
    assert rom.trapped() == (FETCH, ROM, ROM)
    rom.set_x(5, ROM)
    assert rom.run([load("w", 7, 5)]) == BUDGET


def test_window_that_is_gone_is_gone(rom: Bench) -> None:
    rom.words(IMAGE, NOP, NOP)
    assert go(rom, ROM, 1) == BUDGET
    rom.hart.set_windows([])
    rom.step(1)
    assert rom.trapped() == (FETCH, ROM + 4, ROM + 4)


def test_translation_and_protection_reach_it(rom: Bench) -> None:
    rom.map(CODE, CODE, RWX)
    rom.map(VA, ROM, V | X | A)
    rom.map(VA + 0x1000, ROM + 0x1000, V | R | A)
    rom.words(IMAGE, addi(7, 0, 3))
    rom.store(IMAGE + 0xFFE, NOP, 4)
    rom["PRIV"] = S_MODE
    go(rom, VA, 1)
    assert (rom.x(7), rom["PC"]) == (3, VA + 4)
    go(rom, VA + 0xFFE, 1)
    assert rom.trapped() == (12, VA + 0xFFE, VA + 0x1000)
    rom["PMPADDR0"], rom["PMPADDR1"], rom["PMP_OPEN"] = ROM >> 2 | 511, (1 << 54) - 1, 0
    rom["PMPCFG0"] = 0x1F1B  # entry 0: read and write
    rom["PRIV"] = S_MODE
    go(rom, VA, 1)
    assert rom.trapped() == (FETCH, VA, VA)


# what Python refuses


@pytest.mark.parametrize(
    ("word", "cause"), [(load("w", 7, 5, 4), LOAD), (store("d", 7, 5, 8), STORE), (load("bu", 7, 5), LOAD)]
)
@pytest.mark.parametrize("translated", [False, True])
def test_refused_access_is_an_access_fault(bench: Bench, word: int, cause: int, translated: bool) -> None:
    at = 0x1000_0000
    offset = {LOAD: 4 if word >> 20 & 0xFFF == 4 else 0, STORE: 8}[cause]
    if translated:
        bench.map(VA, at, RWX)
        bench.map(CODE, CODE, RWX)
        bench["PRIV"] = S_MODE
    bench.set_x(5, VA if translated else at)
    bench.set_x(7, 77)
    bench["MTVEC"] = CODE + 0x100
    bench.words(CODE + 0x100, addi(8, 8, 1), NOP)
    bench.set_x(8, 0)
    assert bench.run([word, NOP], count=2) == MMIO
    assert (bench["MMIO_ADDRESS"], bench["PC"]) == (at + offset, CODE)
    bench["MMIO_DONE"], bench["MMIO_VALUE"] = st.MMIO_REFUSED, MASK
    retired = bench["INSTRET"]
    assert bench.hart.run() == BUDGET
    assert bench.trapped() == (cause, CODE, (VA if translated else at) + offset)
    assert (bench.x(7), bench["MMIO_DONE"]) == (77, 0)
    assert bench["INSTRET"] - retired == bench.x(8)


def test_next_access_after_a_refused_one_asks_again(bench: Bench) -> None:
    bench.set_x(5, 0x1000_0000)
    assert bench.run([load("w", 7, 5)]) == MMIO
    bench["MMIO_DONE"] = st.MMIO_REFUSED
    bench.hart.run()
    assert bench.run([load("w", 7, 5)]) == MMIO
    bench["MMIO_DONE"], bench["MMIO_VALUE"] = st.MMIO_SERVED, 5
    bench.hart.run()
    assert (bench.x(7), bench["MMIO_DONE"]) == (5, 0)
