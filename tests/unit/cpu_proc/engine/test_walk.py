"""Sv48 and Sv57, contiguous ranges, memory types, and what a debugger's walk makes of any table."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.unit.cpu_proc.harness import (
    MASK,
    RAM,
    RWX,
    S_MODE,
    TABLES,
    U_MODE,
    A,
    Bench,
    D,
    G,
    R,
    U,
    V,
    W,
    X,
    jalr,
    load,
    r_type,
    sfence,
    signed,
    store,
)

CODE, DATA, OTHER = RAM, RAM + 0x20_0000, RAM + 0x21_0000
TVM = 1 << 20
MPRV, SUM, MXR = 1 << 17, 1 << 18, 1 << 19
PBMTE, ADUE = 1 << 62, 1 << 61
N = 1 << 63
PBMT = 61
ILLEGAL, FETCH, LOAD, STORE = 2, 12, 13, 15
LD, SD = load("d", 7, 5), store("d", 6, 5)
LEVELS = {"Sv39": 3, "Sv48": 4, "Sv57": 5}


def prepare(bench: Bench, va: int, flags: int, *, pa: int = DATA, level: int = 0, levels: int = 3) -> int:
    """Map code and one page of data for S mode; return where the data's entry is."""
    bench.map(CODE, CODE, RWX, levels=levels)
    entry = bench.map(va, pa, flags, level, levels)
    bench["PRIV"] = S_MODE
    bench.set_x(5, va)
    bench.set_x(6, 0x6666)
    return entry


def outcome(bench: Bench, word: int, at: int | None = None) -> int:
    """Run one word in S mode and return the cause of its trap, or 0."""
    bench["PRIV"], bench["MCAUSE"], bench["MTVAL"] = S_MODE, 0, 0
    if at is not None:
        bench.set_x(5, at)
    bench.run([word])
    return bench["MCAUSE"]


def again(bench: Bench, at: int) -> int:
    """Load from an address with whatever translations the hart has kept; return the cause of the trap, or 0."""
    bench["PRIV"], bench["MCAUSE"], bench["PC"] = S_MODE, 0, CODE
    bench.set_x(5, at)
    bench.step(1)
    return bench["MCAUSE"]


# sizes


@pytest.mark.parametrize("mode", LEVELS)
@pytest.mark.parametrize("high", [False, True])
def test_page_of_every_level(bench: Bench, mode: int, high: bool) -> None:
    levels = LEVELS[mode]
    for level in range(levels):
        bench.reset()
        span = 4096 << 9 * level
        va = 3 * span | (0 if level == levels - 1 else 0x55 << 12 + 9 * (levels - 1))
        if high:
            va |= MASK << 11 + 9 * levels & MASK
        pa = (DATA, DATA, RAM, 0, 0)[level]  # where a page of this size can lie
        place = (0x5A8, 0x1_05A8, 0x30_05A8, RAM + 0x30_05A8, RAM + 0x30_05A8)[level]
        prepare(bench, va, RWX, pa=pa, level=level, levels=levels)
        bench.store(pa + place, 0xFEED + level)
        assert outcome(bench, LD, va + place) == 0
        assert bench.x(7) == 0xFEED + level
        assert bench.hart.translate(va + place) == pa + place
        beyond = va + span & MASK
        assert outcome(bench, LD, beyond) == LOAD
        assert bench["MTVAL"] == beyond
        bench["PRIV"] = S_MODE
        assert bench.hart.translate(beyond) is None


@pytest.mark.parametrize("mode", LEVELS)
def test_superpage_must_be_aligned(bench: Bench, mode: str) -> None:
    levels = LEVELS[mode]
    for level in range(1, levels):
        for bit in range(9 * level):
            bench.reset()
            prepare(bench, 3 << 12 + 9 * level, RWX, pa=4096 << bit, level=level, levels=levels)
            assert outcome(bench, LD) == LOAD


@pytest.mark.parametrize("mode", LEVELS)
@pytest.mark.parametrize(("word", "cause"), [(LD, LOAD), (SD, STORE), (jalr(0, 5), FETCH)])
def test_upper_bits_must_be_copies(bench: Bench, mode: str, word: int, cause: int) -> None:
    levels = LEVELS[mode]
    top = 11 + 9 * levels  # the highest bit of an address
    prepare(bench, 0, RWX, levels=levels)
    for va in (1 << top, 1 << top + 1, 1 << 63, MASK - (1 << top), (MASK << top + 2) & MASK, MASK >> 1):
        bench["PRIV"], bench["MCAUSE"] = S_MODE, 0
        bench.set_x(5, va & ~7)
        bench.run([word], count=2 if cause == FETCH else 1)
        assert (bench["MCAUSE"], bench["MTVAL"]) == (cause, va & ~7)


@pytest.mark.parametrize("mode", LEVELS)
@pytest.mark.parametrize("bits", [A, D, U, N, 1 << PBMT, 2 << PBMT, 3 << PBMT, 1 << 54, 1 << 60, W])
def test_pointer_with_reserved_bits_faults(bench: Bench, mode: str, bits: int) -> None:
    levels = LEVELS[mode]
    bench["MENVCFG"] = PBMTE | ADUE
    for depth in range(1, levels):
        bench.reset()
        bench["MENVCFG"] = PBMTE | ADUE
        va = 1 << 11 + 9 * levels - 1
        prepare(bench, va, RWX, levels=levels)
        table = TABLES
        for level in range(levels - 1, depth, -1):
            table = bench.load(table + (va >> 12 + 9 * level & 511) * 8) >> 10 << 12
        at = table + (va >> 12 + 9 * depth & 511) * 8
        pointer = bench.load(at)
        bench.store(at, pointer | bits)
        assert outcome(bench, LD) == LOAD
        bench.store(at, pointer | G | 3 << 8)  # global, and what software may use
        bench.hart.flush_translations()
        assert outcome(bench, LD) == 0


@pytest.mark.parametrize("mode", LEVELS)
@pytest.mark.parametrize("adue", [0, ADUE])
def test_accessed_and_dirty_at_every_level(bench: Bench, mode: str, adue: int) -> None:
    levels = LEVELS[mode]
    for level in range(levels):
        for word, cause, bits in ((LD, LOAD, A), (SD, STORE, A | D)):
            bench.reset()
            pa = (DATA, DATA, RAM, 0, 0)[level]
            va = 3 << 12 + 9 * level
            entry = prepare(bench, va, V | R | W, pa=pa, level=level, levels=levels)
            bench["MENVCFG"] = adue
            place = 0x5A8 if pa else RAM + 0x30_05A8
            assert outcome(bench, word, va + place) == (0 if adue else cause)
            assert bench.load(entry) & 0xFF == V | R | W | (bits if adue else 0)


# what is forgotten


@pytest.mark.parametrize("mode", LEVELS)
@pytest.mark.parametrize("fence", [9, 11])
def test_fence_of_one_address_forgets_its_superpage(bench: Bench, mode: str, fence: int) -> None:
    """Whatever the level, and by sfence.vma (9) as by sinval.vma (11)."""
    levels = LEVELS[mode]
    for level in range(1, levels):
        bench.reset()
        va, pa = 3 << 12 + 9 * level, (DATA, DATA, RAM, 0, 0)[level]
        entry = prepare(bench, va, RWX, pa=pa, level=level, levels=levels)
        place = 0x8000 if pa else RAM + 0x30_8000
        bench.set_x(8, va + (4096 << 9 * level) - 4096)  # its last page
        bench.words(CODE + 4, r_type(0x73, 0, fence, 0, 8, 0))
        bench.words(CODE, LD)
        assert again(bench, va + place) == 0
        bench.store(entry, 0)
        assert again(bench, va + place) == 0  # still there
        assert bench["PC"] == CODE + 4
        bench.step(1)
        assert again(bench, va + place) == LOAD


def test_changing_the_mode_changes_the_tables(bench: Bench) -> None:
    """The same root is read with three, four and five levels."""
    for levels in (3, 4, 5):
        bench.reset()
        prepare(bench, 0x1234_5000, RWX, levels=levels)
        bench.store(DATA, levels)
        assert outcome(bench, LD) == 0
        assert bench.x(7) == levels


# Svnapot


def contiguous(bench: Bench, va: int, flags: int = RWX, pa: int = DATA, levels: int = 3) -> list[int]:
    """Map 64 KiB by sixteen entries that say so; return where they are."""
    bench.map(CODE, CODE, RWX, levels=levels)
    entries = [bench.map(va + 4096 * n, pa | 0x8000, flags | N, levels=levels) for n in range(16)]
    bench["PRIV"] = S_MODE
    return entries


@pytest.mark.parametrize("mode", LEVELS)
def test_contiguous_range_is_one_translation(bench: Bench, mode: str) -> None:
    contiguous(bench, 0x4000_0000, levels=LEVELS[mode])
    for page in range(16):
        bench.store(DATA + 4096 * page + 8, page + 100)
        assert outcome(bench, LD, 0x4000_0008 + 4096 * page) == 0
        assert bench.x(7) == page + 100
        assert bench.hart.translate(0x4000_0008 + 4096 * page) == DATA + 4096 * page + 8


@pytest.mark.parametrize("page", [0, 1, 7, 15])
@pytest.mark.parametrize("fence", [9, 11])
def test_fence_of_any_page_of_a_range_forgets_all_of_it(bench: Bench, page: int, fence: int) -> None:
    entries = contiguous(bench, 0x4000_0000)
    bench.words(CODE, LD, r_type(0x73, 0, fence, 0, 8, 0))
    bench.set_x(8, 0x4000_0000 + 4096 * page)
    for used in range(16):
        assert again(bench, 0x4000_0000 + 4096 * used) == 0
    for entry in entries:
        bench.store(entry, 0)
    assert again(bench, 0x4000_3000) == 0
    bench.step(1)
    for used in range(16):
        assert again(bench, 0x4000_0000 + 4096 * used) == LOAD


@pytest.mark.parametrize("low", [bits for bits in range(16) if bits != 8])
def test_other_sizes_of_ranges_are_reserved(bench: Bench, low: int) -> None:
    prepare(bench, 0x4000_0000, RWX | N, pa=DATA | low << 12)
    assert outcome(bench, LD) == LOAD


@pytest.mark.parametrize("level", [1, 2])
def test_ranges_exist_at_the_last_level_alone(bench: Bench, level: int) -> None:
    prepare(bench, 0x4000_0000, RWX | N, pa=0x8000_0000 | 8 << 12, level=level)
    assert outcome(bench, LD) == LOAD


def test_range_keeps_accessed_and_dirty_in_the_entry_that_was_used(bench: Bench) -> None:
    entries = contiguous(bench, 0x4000_0000, V | R | W)
    bench["MENVCFG"] = ADUE
    assert outcome(bench, SD, 0x4000_5000) == 0
    assert [bench.load(entry) & 0xC0 for entry in entries] == [A | D if n == 5 else 0 for n in range(16)]


# Svpbmt


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(("kind", "enabled", "legal"), [
    (0, 0, 1), (1, 0, 0), (2, 0, 0), (3, 0, 0), (0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 0)
])  # fmt: skip
def test_memory_types(bench: Bench, level: int, kind: int, enabled: int, legal: int) -> None:
    prepare(bench, 0x4000_0000, RWX | kind << PBMT, pa=DATA if level < 2 else RAM, level=level)
    bench["MENVCFG"] = enabled * PBMTE
    for word, cause in ((LD, LOAD), (SD, STORE)):
        assert outcome(bench, word) == (0 if legal else cause)


# Svinval


SINVAL, W_INVAL, INVAL_IR = r_type(0x73, 0, 11, 0, 5, 6), 0x1800_0073, 0x1810_0073


@pytest.mark.parametrize(
    ("word", "mode", "status", "legal"),
    [
        (SINVAL, S_MODE, 0, 1), (SINVAL, S_MODE, TVM, 0), (SINVAL, U_MODE, 0, 0), (SINVAL, 3, TVM, 1),
        (W_INVAL, S_MODE, TVM, 1), (W_INVAL, U_MODE, 0, 0), (INVAL_IR, S_MODE, TVM, 1), (INVAL_IR, U_MODE, 0, 0),
        (sfence(5, 6), S_MODE, TVM, 0), (INVAL_IR, 3, 0, 1), (W_INVAL, 3, 0, 1),
    ],
)  # fmt: skip
def test_who_may_invalidate(bench: Bench, word: int, mode: int, status: int, legal: int) -> None:
    """TVM stops what invalidates, not the fences around it (privileged §13)."""
    bench["PRIV"], bench["MSTATUS"] = mode, status
    bench.run([word])
    assert bench["MCAUSE"] == (0 if legal else ILLEGAL)
    assert legal or bench["MTVAL"] == word


# the debugger's walk

entry_bits = some.builds(
    lambda *parts: sum(parts),
    some.sampled_from([V, V, V, V, 0]),
    some.sampled_from([0, R, R | W, X, R | W | X, R | X, W, 0]),
    some.sampled_from([0, 0, U]), some.sampled_from([0, G]), some.sampled_from([0, A, A | D, A | D]),
    some.sampled_from([0, 0, 0, N, 1 << PBMT, 1 << 58]),
)  # fmt: skip
targets = some.sampled_from([TABLES + 0x1000 * n for n in range(6)] + [DATA, OTHER, RAM, DATA | 0x8000, 0x1000_0000, 0])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.sampled_from([3, 4, 5]),
    some.lists(some.tuples(entry_bits, targets, some.booleans()), min_size=6, max_size=6),
    some.integers(0, 0xFFF),
    some.sampled_from(["user", "supervisor", "bare", "machine"]),
)
def test_observer_agrees_with_the_engine(
    bench: Bench, levels: int, tables: list[tuple[int, int, bool]], offset: int, eyes: str
) -> None:
    """Wherever a load or a fetch goes somewhere, the walk in Python goes there; where it sees nothing, they fault."""
    bench.reset()
    for n, (bits, target, pointer) in enumerate(tables):
        entry = V if pointer and n < 5 else bits
        target = TABLES + 0x1000 * (n + 1) if pointer and n < 5 else target
        bench.store(TABLES + 0x1000 * n, entry | target >> 12 << 10)
    bench["SATP"] = levels + 5 << 60 | TABLES >> 12 if eyes != "bare" else 0
    bench["PRIV"] = {"user": U_MODE, "machine": 3}.get(eyes, S_MODE)
    va = offset & ~7 if eyes in ("user", "supervisor") else RAM + (offset & ~7)
    bench.store(DATA + (offset & ~7), 0x1D)
    seen = bench.hart.translate(va)
    privilege = bench["PRIV"]
    bench["MENVCFG"] = ADUE | PBMTE
    # M mode loads with the eyes of the other one, and sees all that may be read or executed
    status = MPRV | MXR | SUM | privilege << 11
    bench["PRIV"], bench["MSTATUS"] = 3, status
    bench.set_x(5, va)
    reason = bench.run([LD], at=RAM + 0x4000)
    if bench["MCAUSE"] in (LOAD, 5):
        return  # the observer may see more: it asks for no permission
    assert seen is not None
    if reason == 2:
        assert bench["MMIO_ADDRESS"] == seen
        bench["MMIO_DONE"] = 0
    else:
        assert bench.x(7) == bench.load(seen)
        assert RAM <= seen < RAM + bench.ram.size


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.sampled_from([3, 4, 5]), some.integers(0, 4), some.integers(0, MASK), some.booleans(), some.booleans(),
)  # fmt: skip
def test_observer_sees_a_proper_translation(
    bench: Bench, levels: int, level: int, address: int, napot: bool, canonical: bool
) -> None:
    """A page of any size, an address in it or, not sign-extended, beside it: both walks say the same."""
    bench.reset()
    level = min(level, levels - 1)
    napot = napot and level == 0
    unused = 52 - 9 * levels
    va = signed(address << unused) >> unused if canonical else signed(address)
    pa = (DATA, DATA, RAM, 0, 0)[level]
    bench.map(va & MASK & -4096, pa | (0x8000 if napot else 0), RWX | (N if napot else 0), level, levels)
    bench["PRIV"] = S_MODE
    seen = bench.hart.translate(va & ~7)
    bench["MSTATUS"], bench["PRIV"] = MPRV | S_MODE << 11, 3
    bench.set_x(5, va & ~7)
    reason = bench.run([LD], at=RAM + 0x4000)
    if bench["MCAUSE"] == LOAD:
        assert seen is None
    elif reason == 2:
        assert bench["MMIO_ADDRESS"] == seen
        bench["MMIO_DONE"] = 0
    else:
        assert seen is not None
        assert bench.x(7) == bench.load(seen)


def test_observer_changes_nothing(bench: Bench) -> None:
    entry = prepare(bench, 0x4000_0000, V | R)
    bench["MENVCFG"] = ADUE
    walks = bench["WALKS"]
    assert bench.hart.translate(0x4000_0123) == DATA + 0x123
    assert (bench.load(entry) & 0xFF, bench["WALKS"], bench["EXIT"]) == (V | R, walks, bench["EXIT"])
