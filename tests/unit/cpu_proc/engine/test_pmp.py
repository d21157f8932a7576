"""Physical memory protection: matching, priority, locks, and what it says to walks, fetches and page crossings."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from tests.unit.cpu_proc.harness import (
    BUDGET,
    M_MODE,
    MASK,
    NOP,
    RAM,
    RWX,
    S_MODE,
    TABLES,
    U_MODE,
    Bench,
    amo,
    csrrs,
    csrrw,
    jalr,
    load,
    lr,
    sc,
    store,
)
from tests.unit.cpu_proc.harness import A as ACCESSED
from tests.unit.cpu_proc.harness import R as PTE_R
from tests.unit.cpu_proc.harness import V as PTE_V
from tests.unit.cpu_proc.harness import W as PTE_W

R, W, X, L = 1, 2, 4, 0x80
OFF, TOR, NA4, NAPOT = (mode << 3 for mode in range(4))
ALL = NAPOT | R | W | X
EVERYWHERE = (1 << 54) - 1
ILLEGAL, FETCH, LOAD, STORE = 2, 1, 5, 7
MPRV, ADUE = 1 << 17, 1 << 61
CODE, DATA = RAM, RAM + 0x8000
MIDDLE = DATA + 0x800


def napot(base: int, size: int) -> int:
    """Return the address register for a naturally aligned range."""
    return base >> 2 | (size >> 3) - 1


def protect(bench: Bench, *entries: tuple[int, int], open_last: bool = True) -> None:
    """Write entries (address register, configuration) by instructions; the last one, if wanted, is open."""
    every = [*entries, *([(0, OFF)] * (15 - len(entries))), (EVERYWHERE, ALL if open_last else OFF)]
    configurations = [sum(byte << 8 * n for n, (_, byte) in enumerate(every[at : at + 8])) for at in (0, 8)]
    bench["PRIV"] = M_MODE
    for number, (address, _) in enumerate(every):
        bench.set_x(5, address)
        bench.run([csrrw(0, 0x3B0 + number, 5)])
    for name, value in zip(("pmpcfg0", "pmpcfg2"), configurations, strict=True):
        bench.set_x(5, value)
        bench.run([csrrw(0, name, 5)])
    bench["PRIV"] = S_MODE
    bench["MCAUSE"] = bench["MTVAL"] = 0


def read(bench: Bench, name: str | int) -> int:
    """Read a register in M mode."""
    bench["PRIV"] = M_MODE
    bench.run([csrrs(7, name)])
    return bench.x(7)


def write(bench: Bench, name: str | int, value: int) -> int:
    """Write a register in M mode and return what it holds then."""
    bench["PRIV"] = M_MODE
    bench.set_x(5, value)
    bench.run([csrrw(0, name, 5)])
    return read(bench, name)


def attempt(bench: Bench, word: int, at: int, mode: int = S_MODE) -> int:
    """Run one load, store or atomic of x6 at an address; return the cause of its trap, or 0."""
    bench["PRIV"], bench["MCAUSE"], bench["MTVAL"] = mode, 0, 0
    bench.set_x(6, at)
    bench.run([word])
    return bench["MCAUSE"]


LB, LH, LW, LD = (load(width, 7, 6) for width in "bhwd")
SB, SH, SW, SD = (store(width, 7, 6) for width in "bhwd")


# matching


@pytest.mark.parametrize("size", [8, 16, 64, 4096, 1 << 20])
def test_napot_covers_its_range_and_no_more(bench: Bench, size: int) -> None:
    base = DATA & -size if size <= 0x8000 else RAM + (1 << 20)
    protect(bench, (napot(base, size), NAPOT))
    for at, cause in ((base - 1, 0), (base, LOAD), (base + size - 1, LOAD), (base + size, 0)):
        for _again in range(2):
            assert attempt(bench, LB, at) == cause
            assert bench["MTVAL"] == (at if cause else 0)


def test_na4_covers_four_bytes(bench: Bench) -> None:
    protect(bench, (DATA >> 2, NA4 | R))
    assert [attempt(bench, SB, DATA + offset) for offset in range(-1, 5)] == [0, STORE, STORE, STORE, STORE, 0]
    assert attempt(bench, LW, DATA) == 0


def test_tor_reaches_from_the_entry_before(bench: Bench) -> None:
    protect(bench, (DATA >> 2, OFF), ((DATA >> 2) + 5, TOR | R))
    assert [attempt(bench, SB, at) for at in (DATA - 1, DATA, DATA + 19, DATA + 20)] == [0, STORE, STORE, 0]


def test_first_tor_reaches_from_zero(bench: Bench) -> None:
    protect(bench, (DATA >> 2, TOR | R | X))
    assert [attempt(bench, SB, at) for at in (RAM + 0x800, DATA - 1, DATA)] == [STORE, STORE, 0]


@pytest.mark.parametrize("upper", [0, 1, 2])
def test_tor_with_nothing_between_matches_nothing(bench: Bench, upper: int) -> None:
    """Also where an access lies around the empty place (§3.7.1)."""
    protect(bench, ((DATA >> 2) + 2, OFF), ((DATA >> 2) + upper, TOR))
    for offset in range(-8, 16):
        assert attempt(bench, LB, DATA + offset) == 0
        assert attempt(bench, SD, DATA + offset) == 0


def test_off_matches_nothing_and_then_only_machine_mode_passes(bench: Bench) -> None:
    protect(bench, open_last=False)
    assert attempt(bench, LB, DATA, M_MODE) == 0
    bench["PRIV"] = S_MODE
    bench.run([NOP])
    assert bench.trapped() == (FETCH, CODE, CODE)


# priority and partial matches


def test_lowest_entry_decides(bench: Bench) -> None:
    protect(bench, (napot(DATA, 8), NAPOT | R), (napot(DATA, 64), NAPOT | R | W), (napot(DATA, 4096), NAPOT))
    assert [attempt(bench, SB, DATA + offset) for offset in (0, 7, 8, 63, 64, 4095)] == [
        STORE,
        STORE,
        0,
        0,
        STORE,
        STORE,
    ]
    assert [attempt(bench, LB, DATA + offset) for offset in (0, 8, 64)] == [0, 0, LOAD]


@pytest.mark.parametrize(("word", "cause"), [(LD, LOAD), (SD, STORE), (LH, LOAD), (SW, STORE)])
def test_access_partly_in_an_entry_fails_whatever_it_allows(bench: Bench, word: int, cause: int) -> None:
    protect(bench, (MIDDLE >> 2, NA4 | R | W | X))
    bench.store(MIDDLE - 8, 0x55, 8)
    assert attempt(bench, word, MIDDLE - 1) == cause
    assert bench["MTVAL"] == MIDDLE - 1
    assert bench.load(MIDDLE - 8) == 0x55
    assert attempt(bench, word, MIDDLE - 1, M_MODE) == cause  # the match counts for machine mode too


def test_access_partly_in_an_entry_that_comes_later_is_not_its_business(bench: Bench) -> None:
    protect(bench, (napot(MIDDLE - 8, 8), NAPOT | R | W), (napot(MIDDLE, 8), NAPOT | R | W))
    assert attempt(bench, LD, MIDDLE - 4) == LOAD  # partly in entry 0
    protect(bench, (napot(MIDDLE, 128), NAPOT | R), ((MIDDLE >> 2) + 1, NA4))
    assert attempt(bench, LD, MIDDLE) == 0


@pytest.mark.parametrize(
    ("permissions", "mode", "causes"),
    [
        (0, S_MODE, (LOAD, STORE)), (R, S_MODE, (0, STORE)), (R | W, U_MODE, (0, 0)), (X, S_MODE, (LOAD, STORE)),
        (R | X, U_MODE, (0, STORE)), (0, M_MODE, (0, 0)), (L, M_MODE, (LOAD, STORE)), (L | R, M_MODE, (0, STORE)),
        (L | R | W, M_MODE, (0, 0)), (L | R, S_MODE, (0, STORE)),
    ],
)  # fmt: skip
def test_permissions(bench: Bench, permissions: int, mode: int, causes: tuple[int, int]) -> None:
    protect(bench, (napot(DATA, 4096), NAPOT | permissions))
    for _again in range(2):
        assert (attempt(bench, LD, DATA, mode), attempt(bench, SD, DATA, mode)) == causes
    atomic = causes[1]
    assert attempt(bench, amo(0, 8, 8, 6, 7), DATA, mode) == atomic
    assert attempt(bench, sc(8, 8, 7, 6), DATA, mode) == atomic
    assert attempt(bench, lr(8, 8, 6), DATA, mode) == causes[0]


@pytest.mark.parametrize(("permissions", "mode", "legal"), [
    (R | X, S_MODE, 1), (X, U_MODE, 1), (R | W, S_MODE, 0), (R | W, M_MODE, 1), (L | R | W, M_MODE, 0),
    (L | X, M_MODE, 1),
])  # fmt: skip
def test_execution_needs_its_permission(bench: Bench, permissions: int, mode: int, legal: int) -> None:
    bench.words(DATA, NOP, NOP)
    protect(bench, (napot(DATA, 4096), NAPOT | permissions))
    bench["PRIV"], bench["PC"] = mode, DATA
    bench.step(1)
    assert (bench["PC"], bench["MCAUSE"]) == (DATA + 4, 0) if legal else bench.trapped() == (FETCH, DATA, DATA)


# pages of mixed protection


@pytest.mark.parametrize("mode", [S_MODE, U_MODE])
def test_execution_stops_exactly_at_the_boundary(bench: Bench, mode: int) -> None:
    end = DATA + 0x400
    bench.words(end - 16, NOP, NOP, NOP, NOP, NOP)
    protect(bench, (DATA >> 2, OFF), (end >> 2, TOR | R | X), (napot(DATA, 4096), NAPOT | R))
    bench["PRIV"], bench["PC"] = mode, end - 16
    bench["MTVEC"] = CODE + 0x100
    for _again in range(2):  # nothing is kept that would let the second run through
        bench["PRIV"], bench["PC"] = mode, end - 16
        bench.step(5)
        assert bench.trapped() == (FETCH, end, end)


def test_instruction_across_the_boundary_names_its_second_half(bench: Bench) -> None:
    end = DATA + 0x400
    bench.words(end - 4, 0x0001 | (NOP & 0xFFFF) << 16, NOP >> 16)
    protect(bench, (DATA >> 2, OFF), (end >> 2, TOR | R | X), (napot(DATA, 4096), NAPOT | R))
    bench["PC"] = end - 4
    bench.step(2)
    assert bench.trapped() == (FETCH, end - 2, end)


def test_code_in_a_mixed_page_is_never_stale(bench: Bench) -> None:
    """Its words stay undecoded, so even without fence.i the new instruction is executed."""
    bench.words(DATA, NOP)
    protect(bench, (napot(DATA + 2048, 8), NAPOT))
    bench["PC"] = DATA
    bench.step(1)
    bench.words(DATA, 0x0070_0393)  # addi x7, x0, 7
    bench["PC"] = DATA
    bench.step(1)
    assert bench.x(7) == 7


def test_loads_and_stores_in_a_mixed_page_are_checked_each(bench: Bench) -> None:
    protect(bench, (napot(DATA + 0x100, 0x100), NAPOT | R))
    for _again in range(3):
        assert [attempt(bench, SD, DATA + at) for at in (0xF8, 0x100, 0x1F8, 0x200)] == [0, STORE, STORE, 0]
        assert [attempt(bench, LD, DATA + at) for at in (0xF8, 0x100, 0x1F8, 0x200)] == [0, 0, 0, 0]


@pytest.mark.parametrize(("word", "cause"), [(LD, LOAD), (SD, STORE)])
def test_access_across_pages_names_the_page_that_refuses(bench: Bench, word: int, cause: int) -> None:
    protect(bench, (napot(DATA + 0x1000, 4096), NAPOT))
    assert attempt(bench, word, DATA + 0xFFC) == cause
    assert bench["MTVAL"] == DATA + 0x1000
    assert attempt(bench, word, DATA + 0x1FFC) == cause
    assert bench["MTVAL"] == DATA + 0x1FFC


def test_changing_an_entry_takes_effect_without_a_fence_on_bare_addresses(bench: Bench) -> None:
    protect(bench, (napot(DATA, 4096), NAPOT | R | W))
    assert attempt(bench, SD, DATA) == 0
    write(bench, "pmpcfg0", NAPOT | R)
    assert attempt(bench, SD, DATA) == STORE
    write(bench, "pmpaddr0", napot(DATA + 0x1000, 4096))
    assert attempt(bench, SD, DATA) == 0


# translation


def test_walk_through_a_protected_table_is_an_access_fault(bench: Bench) -> None:
    bench.map(CODE, CODE, RWX)
    bench.map(0x4000_0000, DATA, RWX)
    for table in (TABLES, TABLES + 0x3000, TABLES + 0x4000):  # what lies between belongs to the code
        at = TABLES + 8 if table == TABLES else table  # the entry that the address goes through
        protect(bench, (at >> 2, NA4 | W | X | R), (at + 4 >> 2, NA4 | R), (napot(at, 8), NAPOT | R | W))
        assert attempt(bench, LD, 0x4000_0000) == LOAD, hex(table)  # 8 bytes lie in two entries
        assert bench["MTVAL"] == 0x4000_0000
        assert attempt(bench, SD, 0x4000_0000) == STORE
        assert attempt(bench, jalr(0, 6), 0x4000_0000) == 0
        bench.step(1)
        assert bench.trapped() == (FETCH, 0x4000_0000, 0x4000_0000)
        protect(bench, (napot(at, 8), NAPOT | R))
        assert attempt(bench, LD, 0x4000_0000) == 0


@pytest.mark.parametrize(("word", "bits"), [(LD, 0), (SD, ACCESSED)])
def test_setting_accessed_and_dirty_needs_the_right_to_store(bench: Bench, word: int, bits: int) -> None:
    bench.map(CODE, CODE, RWX)
    entry = bench.map(0x4000_0000, DATA, PTE_V | PTE_R | PTE_W | bits)
    bench["MENVCFG"] = ADUE
    protect(bench, (napot(entry, 8), NAPOT | R))
    assert attempt(bench, word, 0x4000_0000) == (LOAD if word == LD else STORE)
    assert bench.load(entry) & 0xFF == PTE_V | PTE_R | PTE_W | bits
    protect(bench, (napot(entry, 8), NAPOT | R | W))
    assert attempt(bench, word, 0x4000_0000) == 0


def test_protection_looks_at_physical_addresses(bench: Bench) -> None:
    bench.map(CODE, CODE, RWX)
    bench.map(DATA, DATA + 0x1000, RWX)
    protect(bench, (napot(DATA + 0x1000, 4096), NAPOT | R))
    assert (attempt(bench, LD, DATA), attempt(bench, SD, DATA)) == (0, STORE)
    assert bench["MTVAL"] == DATA


def test_tables_are_read_as_supervisor_even_for_machine_mode(bench: Bench) -> None:
    """With MPRV the walk belongs to an access of S mode: an entry that M mode may ignore stops it."""
    bench.map(0x4000_0000, DATA, RWX)
    protect(bench, (napot(TABLES, 4096), NAPOT))
    bench["MSTATUS"] = MPRV | S_MODE << 11
    assert attempt(bench, LD, 0x4000_0000, M_MODE) == LOAD
    bench["MSTATUS"] = 0
    assert attempt(bench, LD, TABLES, M_MODE) == 0


@pytest.mark.parametrize(("mpp", "cause"), [(M_MODE, 0), (S_MODE, LOAD), (U_MODE, LOAD)])
def test_mprv_is_checked_as_the_mode_in_mpp(bench: Bench, mpp: int, cause: int) -> None:
    protect(bench, (napot(DATA, 4096), NAPOT | X))
    bench["MSTATUS"] = MPRV | mpp << 11
    assert attempt(bench, LD, DATA, M_MODE) == cause


# registers


@pytest.mark.parametrize("number", [0x3A1, 0x3A3, 0x3A4, 0x3AE, 0x3C0, 0x3EF])
def test_odd_and_absent_registers_are_illegal(bench: Bench, number: int) -> None:
    bench.run([csrrs(7, number)])
    assert bench["MCAUSE"] == ILLEGAL


def test_write_without_read_is_reserved(bench: Bench) -> None:
    for byte in range(256):
        kept = write(bench, "pmpcfg0", byte << 40) >> 40
        assert kept == byte & 0x9F & ~(W if byte & (R | W) == W else 0)
        bench["PMPCFG0"] = 0


def test_address_has_54_bits_and_reads_back_whatever_the_mode(bench: Bench) -> None:
    for number in range(16):
        assert write(bench, f"pmpaddr{number}", MASK) == (1 << 54) - 1
        assert write(bench, f"pmpaddr{number}", 0x1234_5671) == 0x1234_5671  # four bytes of grain: nothing is hidden


def test_locked_entry_keeps_configuration_and_address(bench: Bench) -> None:
    protect(bench, (napot(DATA, 8), L | NAPOT | R))
    assert write(bench, "pmpcfg0", 0x0F00) == 0x0F00 | L | NAPOT | R
    assert write(bench, "pmpaddr0", 5) == napot(DATA, 8)
    assert write(bench, "pmpaddr1", 5) == 5


@pytest.mark.parametrize("entry", [1, 8, 15])
@pytest.mark.parametrize(("mode", "kept"), [(TOR, True), (NAPOT, False), (NA4, False), (OFF, False)])
def test_locked_tor_keeps_its_lower_bound(bench: Bench, entry: int, mode: int, kept: bool) -> None:
    bench[f"PMPADDR{entry - 1}"] = 0x1111
    bench["PMPCFG2" if entry > 7 else "PMPCFG0"] |= (L | mode) << (entry & 7) * 8
    assert write(bench, f"pmpaddr{entry - 1}", 0x2222) == (0x1111 if kept else 0x2222)
    assert write(bench, f"pmpaddr{entry}", 0x3333) != 0x3333


def test_reset_unlocks(bench: Bench) -> None:
    protect(bench, (napot(DATA, 8), L | NAPOT))
    bench.hart.reset()
    bench["PC"] = CODE
    assert write(bench, "pmpcfg0", 0) == 0


# a model


@dataclass(frozen=True)
class Entry:
    """What a model knows of an entry."""

    address: int
    byte: int

    def bounds(self, below: int) -> tuple[int, int]:
        """Return the first address and the one after the last."""
        mode = self.byte & 0x18
        if mode == TOR:
            return below << 2, self.address << 2
        if mode == NA4:
            return self.address << 2, (self.address << 2) + 4
        ones = 0
        while self.address >> ones & 1:
            ones += 1
        return self.address >> ones << ones + 2, (self.address >> ones << ones + 2) + (8 << ones)


def allowed(entries: list[Entry], at: int, size: int, needed: int, mode: int) -> bool:
    """Say what §3.7 says, byte by byte."""
    below = 0
    for entry in entries:
        if entry.byte & 0x18:
            first, end = entry.bounds(below)
            inside = [first <= byte < end for byte in range(at, at + size)]
            if any(inside):
                return all(inside) and bool(entry.byte & needed or (mode == M_MODE and not entry.byte & L))
        below = entry.address
    return mode == M_MODE


entries_near_data = some.builds(
    Entry,
    some.one_of(
        some.integers((DATA >> 2) - 4, (DATA >> 2) + 12),
        some.sampled_from([napot(DATA, size) for size in (8, 16, 32, 4096, 8192)] + [napot(DATA + 16, 16), EVERYWHERE]),
    ),
    some.builds(lambda mode, bits: mode | bits, some.sampled_from([OFF, TOR, NA4, NAPOT]), some.sampled_from(
        [0, R, R | W, R | X, X, R | W | X, L, L | R, L | R | W]
    )),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([Entry(DATA >> 2, 0x10)], [(-1, "d", False, M_MODE)])  # one side matched in part
@given(
    some.lists(entries_near_data, min_size=1, max_size=5),
    some.lists(
        some.tuples(
            some.integers(-16, 48), some.sampled_from("bhwd"), some.booleans(), some.sampled_from([S_MODE, M_MODE])
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_agrees_with_a_model(bench: Bench, entries: list[Entry], accesses: list[tuple[int, str, bool, int]]) -> None:
    bench.reset()
    # code first, so that the test itself may run
    first = [Entry(napot(CODE, 4096), ALL), *entries]
    protect(bench, *((entry.address, entry.byte) for entry in first), open_last=False)
    for offset, width, stores, mode in accesses:
        word = store(width, 7, 6) if stores else load(width, 7, 6)
        size = 1 << "bhwd".index(width)
        at = DATA + offset
        expected = True
        parts = [(at, min(size, DATA - at)), (DATA, at + size - DATA)] if at < DATA < at + size else [(at, size)]
        for start, length in parts:  # the two sides of a page boundary are separate accesses
            expected &= allowed(first, start, length, W if stores else R, mode)
        cause = attempt(bench, word, at, mode)
        assert (cause == 0) == expected, (hex(at), width, stores, mode)
        assert cause in (0, STORE if stores else LOAD)
    assert bench.step(0) == BUDGET
