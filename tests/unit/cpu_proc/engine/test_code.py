"""Code that changes, code across pages, and code of 16 bits."""

from __future__ import annotations

import pytest

from tests.unit.cpu_proc.harness import (
    FENCE_I,
    NOP,
    RAM,
    RWX,
    S_MODE,
    U_MODE,
    A,
    Bench,
    R,
    U,
    V,
    X,
    addi,
    jal,
    jalr,
    r_type,
    sfence,
    store,
)

CODE, ROUTINE, VA = RAM + 0x4000, RAM + 0x6000, 0x12_3456_7000
RETURN = jalr(0, 1)


def call(bench: Bench, offset: int = 0) -> int:
    """Call the routine and return what it left in x7."""
    bench.set_x(5, ROUTINE + offset)
    bench.words(CODE, jalr(1, 5))
    bench["PC"] = CODE
    bench.step(3)
    return bench.x(7)


def fence(bench: Bench) -> None:
    bench.words(CODE + 0x100, FENCE_I)
    bench["PC"] = CODE + 0x100
    bench.step()


def test_fence_i_shows_the_harts_own_stores(bench: Bench) -> None:
    bench.words(ROUTINE, addi(7, 0, 1), RETURN)
    assert call(bench) == 1
    bench.set_x(8, ROUTINE)
    bench.set_x(9, addi(7, 0, 2))
    bench["PC"] = CODE + 0x80
    bench.words(CODE + 0x80, store("w", 9, 8), FENCE_I)
    bench.step(2)
    assert call(bench) == 2


def test_fence_i_shows_stores_from_outside(bench: Bench) -> None:
    bench.words(ROUTINE, addi(7, 0, 1), RETURN)
    assert call(bench) == 1
    bench.words(ROUTINE, addi(7, 0, 2))  # as a device does, without the hart's knowledge
    fence(bench)
    assert call(bench) == 2


def test_fence_i_shows_code_that_came_back_to_what_it_was(bench: Bench) -> None:
    """One, two without a fence, one again: the page equals its copy, what was decoded meanwhile must too."""
    bench.words(ROUTINE, addi(7, 0, 1), RETURN, 0, 0, addi(7, 0, 5), RETURN)
    assert call(bench, 16) == 5  # the page is known, the routine at 0 not yet decoded
    bench.words(ROUTINE, addi(7, 0, 2))
    call(bench)  # either is right here
    bench.words(ROUTINE, addi(7, 0, 1))
    fence(bench)
    assert call(bench) == 1


def test_reset_forgets_all_code(bench: Bench) -> None:
    bench.words(ROUTINE, addi(7, 0, 1), RETURN)
    assert call(bench) == 1
    bench.reset()
    bench.words(ROUTINE, addi(7, 0, 2), RETURN)
    assert call(bench) == 2


@pytest.mark.parametrize("mode", [S_MODE, U_MODE])
def test_instruction_across_pages_that_are_apart(bench: Bench, mode: int) -> None:
    flags = RWX | (U if mode == U_MODE else 0)
    word = addi(7, 7, 1)
    bench.map(VA, RAM + 0x8000, flags)
    entry = bench.map(VA + 0x1000, RAM + 0xC000, flags)
    bench.store(RAM + 0x8FFE, word & 0xFFFF, 2)
    bench.store(RAM + 0xC000, word >> 16, 2)
    bench.store(RAM + 0xD000, addi(7, 7, 16) >> 16, 2)
    bench["PRIV"] = mode
    for expected in (1, 2):
        bench["PC"] = VA + 0xFFE
        bench.step()
        assert (bench.x(7), bench["PC"]) == (expected, VA + 0x1002)
    bench.store(entry, (RAM + 0xD000) >> 12 << 10 | flags)
    bench["PRIV"] = 3
    bench.set_x(5, VA + 0x1000)
    bench.run([sfence(5)], at=CODE)  # of the second page alone
    bench["PRIV"], bench["PC"] = mode, VA + 0xFFE
    bench.step()
    assert bench.x(7) == 18


@pytest.mark.parametrize("change", ["second half", "first half"])
def test_fence_i_shows_changes_to_an_instruction_across_pages(bench: Bench, change: str) -> None:
    old, new = addi(7, 0, 1), addi(7, 0, 2) if change == "second half" else addi(8, 0, 1)
    at = ROUTINE + 0xFFE
    bench.bytes(at, old.to_bytes(4, "little"))
    bench["PC"] = at
    bench.step()
    bench.bytes(at, new.to_bytes(4, "little"))
    fence(bench)
    bench.hart.x[7:9] = 0
    bench["PC"] = at
    bench.step()
    assert (bench.x(7), bench.x(8)) == ((2, 0) if change == "second half" else (0, 1))


def test_fault_on_the_second_page_names_that_page(bench: Bench) -> None:
    bench.map(VA, RAM + 0x8000, RWX)
    bench.store(RAM + 0x8FFE, addi(7, 7, 1) & 0xFFFF, 2)
    bench["PRIV"], bench["PC"] = S_MODE, VA + 0xFFE
    bench.step()
    assert bench.trapped() == (12, VA + 0xFFE, VA + 0x1000)


def test_short_instruction_at_the_end_needs_no_second_page(bench: Bench) -> None:
    bench.map(VA, RAM + 0x8000, V | R | X | A)
    bench.store(RAM + 0x8FFE, 0x0385, 2)  # c.addi x7, 1
    bench["PRIV"], bench["PC"] = S_MODE, VA + 0xFFE
    bench.step(2)
    assert bench.x(7) == 1
    assert bench.trapped() == (12, VA + 0x1000, VA + 0x1000)


def test_modes_do_not_share_an_instruction_across_pages(bench: Bench) -> None:
    """What S mode may fetch, U mode may not, and the other way round."""
    bench.map(VA, RAM + 0x8000, RWX)
    bench.map(VA + 0x1000, RAM + 0x9000, RWX)
    bench.bytes(RAM + 0x8FFE, addi(7, 7, 1).to_bytes(4, "little"))
    bench["PRIV"], bench["PC"] = S_MODE, VA + 0xFFE
    bench.step()
    assert bench.x(7) == 1
    bench["PRIV"], bench["PC"] = U_MODE, VA + 0xFFE
    bench.step()
    assert bench.trapped() == (12, VA + 0xFFE, VA + 0xFFE)


def test_jump_into_the_middle_of_an_instruction(bench: Bench) -> None:
    """The same bytes are other instructions two bytes on."""
    outer = 0x0385_0013 | 0x0385 << 16 & 0  # addi x0, x10, 0x38: its upper half is c.addi x7, 1
    bench.words(ROUTINE, outer, NOP)
    bench["PC"] = ROUTINE
    bench.step()
    assert (bench["PC"], bench.x(7)) == (ROUTINE + 4, 0)
    bench["PC"] = ROUTINE + 2
    bench.step()
    assert (bench["PC"], bench.x(7)) == (ROUTINE + 4, 1)


def test_short_and_long_instructions_mix(bench: Bench) -> None:
    code = b"".join(
        part.to_bytes(size, "little")
        for part, size in [
            (0x4395, 2), (addi(8, 7, 1), 4), (0x83A2, 2), (r_type(0x33, 0, 0, 9, 7, 8), 4), (0x9302, 2),
        ]  # c.li x7,5 · addi x8,x7,1 · c.mv x7,x8 · add x9,x7,x8 · c.jalr x6
    )  # fmt: skip
    bench.bytes(ROUTINE, code)
    bench.set_x(6, ROUTINE + 0x101)
    bench["PC"] = ROUTINE
    bench.step(5)
    assert (bench.x(7), bench.x(8), bench.x(9)) == (6, 6, 12)
    assert (bench["PC"], bench.x(1)) == (ROUTINE + 0x100, ROUTINE + len(code))


def test_loop_runs_through_many_slices(bench: Bench) -> None:
    bench.set_x(7, 100_000)
    bench.words(ROUTINE, addi(7, 7, -1), 0xFE03_9EE3, addi(8, 0, 1), jal(0, 0))
    bench["PC"] = ROUTINE
    bench.step(200_001)
    assert (bench.x(7), bench.x(8), bench["INSTRET"]) == (0, 1, 200_001)
