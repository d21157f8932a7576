"""Cache-block operations: who may use them, what they check, how they fault, what cbo.zero stores (CMO §2, §4)."""

from __future__ import annotations

import pytest

from tests.unit.cpu_proc.harness import (
    M_MODE,
    MASK,
    NOP,
    RAM,
    RWX,
    S_MODE,
    U_MODE,
    A,
    Bench,
    D,
    R,
    U,
    V,
    W,
    X,
    csrrs,
    csrrw,
    i_type,
    load,
    sfence,
)

BLOCK = 64
INVAL, CLEAN, FLUSH, ZERO = (i_type(0x0F, 2, 0, 5, number) for number in (0, 1, 2, 4))
EVERY = {"inval": INVAL, "clean": CLEAN, "flush": FLUSH, "zero": ZERO}
CBIE, CBCFE, CBZE = 3 << 4, 1 << 6, 1 << 7
ALL = CBIE | CBCFE | CBZE
NEEDS = {"inval": CBIE, "clean": CBCFE, "flush": CBCFE, "zero": CBZE}
ADUE = 1 << 61
ILLEGAL, STORE_ACCESS, STORE_PAGE = 2, 7, 15
CODE, DATA, VA = RAM, RAM + 0x8000, 0x4000_0000
PMP_NAPOT, PMP_R, PMP_W = 3 << 3, 1, 2


def outcome(bench: Bench, word: int, mode: int, at: int = DATA) -> int:
    """Run one operation; return the cause of its trap, or 0."""
    bench["PRIV"], bench["MCAUSE"], bench["MTVAL"] = mode, 0, 0
    bench.set_x(5, at)
    bench.run([word])
    return bench["MCAUSE"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("mode", "menvcfg", "senvcfg", "legal"),
    [
        (M_MODE, 0, 0, 1), (S_MODE, 0, ALL, 0), (S_MODE, ALL, 0, 1), (U_MODE, 0, ALL, 0), (U_MODE, ALL, 0, 0),
        (U_MODE, ALL, ALL, 1),
    ],
)  # fmt: skip
def test_permission(bench: Bench, name: str, mode: int, menvcfg: int, senvcfg: int, legal: int) -> None:
    bench["MENVCFG"], bench["SENVCFG"] = menvcfg, senvcfg
    assert outcome(bench, EVERY[name], mode) == (0 if legal else ILLEGAL)
    assert legal or bench["MTVAL"] == EVERY[name]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mode", [S_MODE, U_MODE])
def test_each_operation_has_its_own_bit(bench: Bench, name: str, mode: int) -> None:
    for bits in (CBIE, 1 << 4, CBCFE, CBZE):
        bench["MENVCFG"] = bench["SENVCFG"] = bits
        assert outcome(bench, EVERY[name], mode) == (0 if bits & NEEDS[name] else ILLEGAL)


def test_inval_as_flush_is_enough_for_both_levels(bench: Bench) -> None:
    for machine, supervisor in ((1, 3), (3, 1), (1, 1), (3, 3)):
        bench["MENVCFG"], bench["SENVCFG"] = machine << 4, supervisor << 4
        assert outcome(bench, INVAL, U_MODE) == 0


@pytest.mark.parametrize("name", ["menvcfg", "senvcfg"])
def test_reserved_value_of_cbie_is_not_taken(bench: Bench, name: str) -> None:
    bench["MENVCFG"] = bench["SENVCFG"] = 0
    for value in (1, 3, 0):
        bench.set_x(5, value << 4)
        bench.set_x(6, 2 << 4 | CBZE)
        bench.run([csrrw(0, name, 5), csrrw(0, name, 6), csrrs(7, name)])
        assert bench.x(7) == value << 4 | CBZE


@pytest.mark.parametrize("offset", [0, 1, 63, 64, 100, 4095])
def test_zero_clears_the_block_around_its_operand(bench: Bench, offset: int) -> None:
    start = DATA + (offset & -BLOCK)
    bench.bytes(DATA - BLOCK, b"\xaa" * (4096 + 2 * BLOCK))
    assert outcome(bench, ZERO, M_MODE, DATA + offset) == 0
    assert bytes(bench.ram.u8[start - RAM : start + BLOCK - RAM]) == bytes(BLOCK)
    assert bench.load(start - 1, 1) == bench.load(start + BLOCK, 1) == 0xAA


@pytest.mark.parametrize("name", ["inval", "clean", "flush"])
def test_management_changes_nothing(bench: Bench, name: str) -> None:
    bench.store(DATA, 0x1234)
    assert outcome(bench, EVERY[name], M_MODE, DATA + 5) == 0
    assert bench.load(DATA) == 0x1234


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("flags", "manage", "zero"),
    [
        (V | R | W | A | D, 0, 0), (V | R | A, 0, STORE_PAGE), (V | X | A, STORE_PAGE, STORE_PAGE),
        (0, STORE_PAGE, STORE_PAGE), (V | R | W | A | D | U, STORE_PAGE, STORE_PAGE),
        (V | R | W, STORE_PAGE, STORE_PAGE),
        (V | R | W | A, 0, STORE_PAGE), (V | R | W | A | D | 1 << 54, STORE_PAGE, STORE_PAGE),
    ],
)  # fmt: skip
def test_faults_are_those_of_stores(bench: Bench, name: str, flags: int, manage: int, zero: int) -> None:
    """Permission to load is enough for those that manage; the fault is the store's, at the operand (CMO §2.5.2)."""
    bench.map(CODE, CODE, RWX)
    bench.map(VA, DATA, flags)
    bench["MENVCFG"] = ALL
    cause = zero if name == "zero" else manage
    assert outcome(bench, EVERY[name], S_MODE, VA + 0x123) == cause
    assert bench["MTVAL"] == (VA + 0x123 if cause else 0)


@pytest.mark.parametrize("name", EVERY)
def test_accessed_and_dirty(bench: Bench, name: str) -> None:
    bench.map(CODE, CODE, RWX)
    entry = bench.map(VA, DATA, V | R | W)
    bench["MENVCFG"] = ALL | ADUE
    assert outcome(bench, EVERY[name], S_MODE, VA) == 0
    assert bench.load(entry) & (A | D) == (A | D if name == "zero" else A)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("protection", "manage", "zero"), [(PMP_R | PMP_W, 0, 0), (PMP_R, 0, STORE_ACCESS), (0, STORE_ACCESS, STORE_ACCESS)]
)
def test_protection(bench: Bench, name: str, protection: int, manage: int, zero: int) -> None:
    bench["MENVCFG"] = ALL
    bench["PMPADDR0"], bench["PMPADDR1"], bench["PMP_OPEN"] = DATA >> 2 | 511, (1 << 54) - 1, 0
    bench["PMPCFG0"] = 0x1F << 8 | PMP_NAPOT | protection
    cause = zero if name == "zero" else manage
    assert outcome(bench, EVERY[name], S_MODE, DATA + 77) == cause
    assert bench["MTVAL"] == (DATA + 77 if cause else 0)


@pytest.mark.parametrize("name", EVERY)
def test_block_partly_protected_is_refused_whole(bench: Bench, name: str) -> None:
    bench["MENVCFG"] = ALL
    bench["PMPADDR0"], bench["PMPADDR1"], bench["PMP_OPEN"] = (DATA + 32 >> 2) | 3, (1 << 54) - 1, 0
    bench["PMPCFG0"] = 0x1F << 8 | PMP_NAPOT
    bench.bytes(DATA, b"\xaa" * BLOCK)
    assert outcome(bench, EVERY[name], S_MODE, DATA) == STORE_ACCESS
    assert bytes(bench.ram.u8[DATA - RAM : DATA - RAM + BLOCK]) == b"\xaa" * BLOCK


@pytest.mark.parametrize("name", EVERY)
def test_where_no_memory_is(bench: Bench, name: str) -> None:
    assert outcome(bench, EVERY[name], M_MODE, 0x1000_0010) == STORE_ACCESS
    assert bench["MTVAL"] == 0x1000_0010


def test_zero_goes_where_the_translation_says_now(bench: Bench) -> None:
    """Not where a load went before the fence, and with the store's translation, not the load's."""
    bench.map(CODE, CODE, RWX)
    entry = bench.map(VA, DATA, RWX)
    bench["MENVCFG"] = ALL
    other = DATA + 0x1000
    for at in (DATA, other):
        bench.bytes(at, b"\xaa" * 4096)
    bench["PRIV"] = S_MODE
    bench.set_x(5, VA)
    bench.run([load("d", 7, 5), sfence(5), ZERO, load("d", 8, 5), NOP], count=1)
    bench.store(entry, other >> 12 << 10 | RWX)
    bench.step(3)
    assert (bench.x(7), bench.x(8)) == (0xAAAA_AAAA_AAAA_AAAA & MASK, 0)
    assert (bench.load(DATA), bench.load(other)) == (0xAAAA_AAAA_AAAA_AAAA, 0)


def test_mprv_gives_them_the_eyes_of_mpp(bench: Bench) -> None:
    bench.map(VA, DATA, V | R | A)
    bench["MSTATUS"] = 1 << 17 | S_MODE << 11
    assert outcome(bench, CLEAN, M_MODE, VA) == 0
    assert outcome(bench, ZERO, M_MODE, VA) == STORE_PAGE
