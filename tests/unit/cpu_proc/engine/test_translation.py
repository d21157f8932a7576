"""Sv39: walks, permissions, accessed and dirty bits, superpages, and when a translation is forgotten."""

from __future__ import annotations

import pytest

from tests.unit.cpu_proc.harness import (
    M_MODE,
    MASK,
    NOP,
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
    amo,
    csrrc,
    csrrs,
    csrrw,
    jalr,
    load,
    lr,
    sc,
    sfence,
    store,
)

CODE, DATA, OTHER = RAM, RAM + 0x8000, RAM + 0x9000
VA = 0x12_3456_7000
HIGH = MASK - 0xFFFF_F000 + 1 & ~0xFFF  # in the kernel's half
ADUE = 1 << 61
MPRV, SUM, MXR = 1 << 17, 1 << 18, 1 << 19
FETCH, LOAD, STORE = 12, 13, 15
LD, SD = load("d", 7, 5), store("d", 6, 5)


def prepare(bench: Bench, flags: int, *, mode: int = S_MODE, va: int = VA, pa: int = DATA, level: int = 0) -> int:
    """Map code and one page of data, and go to ``mode``; return where the data's entry is."""
    bench.map(CODE, CODE, RWX | (U if mode == U_MODE else 0))
    entry = bench.map(va, pa, flags, level)
    bench["PRIV"] = mode
    bench.set_x(5, va)
    bench.set_x(6, 0x6666)
    return entry


def outcome(bench: Bench, word: int) -> int:
    """Run one word and return the cause of its trap, or 0."""
    mode = bench["PRIV"]
    bench["MCAUSE"] = 0
    bench.run([word])
    bench["PRIV"] = mode
    return bench["MCAUSE"]


@pytest.mark.parametrize(
    ("flags", "mode", "status", "loads", "stores"),
    [
        (V | R | W | A | D, S_MODE, 0, 0, 0),
        (V | R | W | A | D | G, S_MODE, 0, 0, 0),
        (V | R | A | D, S_MODE, 0, 0, STORE),
        (V | R | W | A | D | U, U_MODE, 0, 0, 0),
        (V | R | W | A | D, U_MODE, 0, LOAD, STORE),
        (V | R | W | A | D | U, S_MODE, 0, LOAD, STORE),
        (V | R | W | A | D | U, S_MODE, SUM, 0, 0),
        (V | X | A | D, S_MODE, 0, LOAD, STORE),
        (V | X | A | D, S_MODE, MXR, 0, STORE),
        (V | X | A | D | U, U_MODE, MXR, 0, STORE),
        (V | R | X | A, S_MODE, 0, 0, STORE),
        (R | W | A | D, S_MODE, 0, LOAD, STORE),
        (V | W | A | D, S_MODE, 0, LOAD, STORE),
        (V | W | X | A | D, S_MODE, MXR, LOAD, STORE),
        (V, S_MODE, 0, LOAD, STORE),  # a pointer at the last level
        (V | R | W | A | D | 1 << 63 | 9 << 10, S_MODE, 0, LOAD, STORE),  # no size of Svnapot
        (V | R | W | A | D | 1 << 61, S_MODE, 0, LOAD, STORE),  # Svpbmt
        (V | R | W | A | D | 1 << 54, S_MODE, 0, LOAD, STORE),  # reserved
        (V | R | W | A | D | 3 << 8, S_MODE, 0, 0, 0),  # RSW is software's
    ],
)
def test_permissions(bench: Bench, flags: int, mode: int, status: int, loads: int, stores: int) -> None:
    prepare(bench, flags, mode=mode)
    bench["MSTATUS"] = status
    bench.store(DATA, 0x1122_3344_5566_7788)
    for _again in range(2):
        bench["MTVAL"] = bench["MEPC"] = 0
        assert outcome(bench, LD) == loads
        assert bench["MTVAL"] == (VA if loads else 0)
        assert loads or bench.x(7) == 0x1122_3344_5566_7788
    for _again in range(2):
        assert outcome(bench, SD) == stores
        assert bench.load(DATA) == (0x1122_3344_5566_7788 if stores else 0x6666)


@pytest.mark.parametrize(
    ("flags", "mode", "legal"),
    [
        (V | X | A, S_MODE, 1), (V | X | A | U, U_MODE, 1), (V | X | A | U, S_MODE, 0), (V | X | A, U_MODE, 0),
        (V | R | W | A | D, S_MODE, 0), (V | R | X, S_MODE, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [0, SUM | MXR])
def test_fetch_permissions_ignore_sum_and_mxr(bench: Bench, flags: int, mode: int, legal: int, status: int) -> None:
    prepare(bench, flags, mode=mode)
    bench["MSTATUS"] = status
    bench.words(DATA, NOP)
    bench.run([jalr(0, 5)], count=2)
    if legal:
        assert bench["PC"] == VA + 4
    else:
        assert bench.trapped() == (FETCH, VA, VA)


@pytest.mark.parametrize("va", [1 << 38, MASK >> 1, MASK - (1 << 39), 1 << 63, 0xFFFF_FFBF_FFFF_F000])
@pytest.mark.parametrize(("word", "cause"), [(LD, LOAD), (SD, STORE), (jalr(0, 5), FETCH)])
def test_addresses_that_are_not_sign_extended_fault(bench: Bench, va: int, word: int, cause: int) -> None:
    prepare(bench, RWX)
    bench.set_x(5, va & ~7)
    bench.run([word], count=2 if cause == FETCH else 1)
    assert (bench["MCAUSE"], bench["MTVAL"]) == (cause, va & ~7)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("va", [0x10_4000_0000, 0xFFFF_FFC0_8000_0000])
def test_page_of_every_size(bench: Bench, level: int, va: int) -> None:
    prepare(bench, RWX, va=va, pa=RAM, level=level)
    offset = (0xABC, 0x1F_EABC & ~7, 0x3F_0ABC & ~7)[level] & ~7
    bench.store(RAM + offset, 0xFEED)
    bench.set_x(5, va + offset)
    assert outcome(bench, LD) == 0
    assert bench.x(7) == 0xFEED
    bench.set_x(5, va + (4096 << 9 * level))
    assert outcome(bench, LD) == LOAD


@pytest.mark.parametrize(("level", "pa"), [(1, RAM + 0x1000), (1, RAM + 0x10_0000), (2, RAM + 0x20_0000)])
def test_misaligned_superpage_faults(bench: Bench, level: int, pa: int) -> None:
    prepare(bench, RWX, va=0x10_4000_0000, pa=pa, level=level)
    assert outcome(bench, LD) == LOAD


@pytest.mark.parametrize("flag", [A, D, U])
def test_pointer_with_leaf_bits_faults(bench: Bench, flag: int) -> None:
    prepare(bench, RWX)
    at = TABLES + (VA >> 30 & 511) * 8
    bench.store(at, bench.load(at) | flag)
    assert outcome(bench, LD) == LOAD


def test_global_bit_in_a_pointer_is_allowed(bench: Bench) -> None:
    prepare(bench, RWX)
    at = TABLES + (VA >> 30 & 511) * 8
    bench.store(at, bench.load(at) | G)
    assert outcome(bench, LD) == 0


@pytest.mark.parametrize(("word", "cause"), [(LD, 5), (SD, 7), (amo(0, 8, 7, 5, 6), 7), (lr(8, 7, 5), 5)])
def test_table_outside_memory_is_an_access_fault(bench: Bench, word: int, cause: int) -> None:
    prepare(bench, RWX)
    bench.store(TABLES + (VA >> 30 & 511) * 8, 0x1000_0000 >> 12 << 10 | V)
    bench.hart.flush_translations()
    assert outcome(bench, word) == cause
    assert bench["MTVAL"] == VA


def test_fetch_from_a_device_is_an_access_fault(bench: Bench) -> None:
    prepare(bench, RWX, pa=0x1000_0000)
    bench.run([jalr(0, 5)], count=2)
    assert bench.trapped() == (1, VA, VA)


# accessed and dirty


@pytest.mark.parametrize(
    ("flags", "word", "cause"),
    [
        (V | R | W | X, LD, LOAD), (V | R | W | X, SD, STORE), (V | R | W | X | A, SD, STORE),
        (V | R | W | X | D, LD, LOAD), (V | R | W | X | A, LD, 0), (V | R | W | X, amo(0, 8, 7, 5, 6), STORE),
        (V | R | W | X | A, lr(8, 7, 5), 0), (V | R | W | X | A, sc(8, 7, 6, 5), STORE),
    ],
)  # fmt: skip
def test_missing_bits_fault_without_adue(bench: Bench, flags: int, word: int, cause: int) -> None:
    entry = prepare(bench, flags)
    assert outcome(bench, word) == cause
    assert bench.load(entry) & 0xFF == flags


@pytest.mark.parametrize(("word", "bits"), [(LD, A), (SD, A | D), (amo(0, 8, 7, 5, 6), A | D), (lr(8, 7, 5), A)])
@pytest.mark.parametrize("level", [0, 1])
def test_missing_bits_are_set_with_adue(bench: Bench, word: int, bits: int, level: int) -> None:
    entry = prepare(bench, V | R | W, va=0x10_4000_0000, pa=RAM + 0x20_0000, level=level)
    bench["MENVCFG"] = ADUE
    assert outcome(bench, word) == 0
    assert bench.load(entry) & 0xFF == V | R | W | bits


def test_fetch_sets_accessed_with_adue(bench: Bench) -> None:
    entry = prepare(bench, V | X)
    bench["MENVCFG"] = ADUE
    bench.words(DATA, NOP)
    bench.run([jalr(0, 5)], count=2)
    assert bench["PC"] == VA + 4
    assert bench.load(entry) & 0xFF == V | X | A


def test_store_after_a_load_still_sets_dirty(bench: Bench) -> None:
    entry = prepare(bench, V | R | W)
    bench["MENVCFG"] = ADUE
    bench.run([LD, SD])
    assert bench.load(entry) & 0xFF == V | R | W | A | D


def test_refused_access_sets_nothing(bench: Bench) -> None:
    entry = prepare(bench, V | R)
    bench["MENVCFG"] = ADUE
    assert outcome(bench, SD) == STORE
    assert bench.load(entry) & 0xFF == V | R


# page crossing


@pytest.mark.parametrize("offset", [0xFF9, 0xFFC, 0xFFF])
def test_access_across_two_pages_uses_both_translations(bench: Bench, offset: int) -> None:
    prepare(bench, RWX)
    bench.map(VA + 0x1000, OTHER + 0x2000, RWX)
    content = bytes(range(1, 9))
    cut = 0x1000 - offset
    bench.bytes(DATA + offset, content[:cut])
    bench.bytes(OTHER + 0x2000, content[cut:])
    bench.set_x(5, VA + offset)
    bench.set_x(6, MASK)
    bench.run([LD, SD])
    assert bench.x(7) == int.from_bytes(content, "little")
    assert bytes(bench.ram.u8[OTHER + 0x2000 - RAM : OTHER + 0x2008 - cut - RAM]) == b"\xff" * (8 - cut)
    assert bench.load(OTHER + 0x2008 - cut, 1) == 0


@pytest.mark.parametrize(("word", "cause"), [(LD, LOAD), (SD, STORE)])
@pytest.mark.parametrize("second", [None, V | X | A])
def test_access_whose_second_page_refuses_changes_nothing(
    bench: Bench, word: int, cause: int, second: int | None
) -> None:
    prepare(bench, RWX)
    if second is not None:
        bench.map(VA + 0x1000, OTHER, second)
    bench.set_x(5, VA + 0xFFC)
    bench.set_x(7, 5)
    assert outcome(bench, word) == cause
    assert bench["MTVAL"] == VA + 0x1000
    assert (bench.x(7), bench.load(DATA + 0xFFC, 4)) == (5, 0)


def test_access_whose_first_page_refuses_names_its_address(bench: Bench) -> None:
    prepare(bench, RWX)
    bench.set_x(5, VA - 4)
    assert outcome(bench, LD) == LOAD
    assert bench["MTVAL"] == VA - 4


# MPRV


def test_mprv_gives_loads_the_eyes_of_mpp(bench: Bench) -> None:
    prepare(bench, V | R | W | A | D | U, mode=M_MODE)
    bench.store(DATA, 0x77)
    for mpp, status, cause in ((U_MODE, 0, 0), (S_MODE, 0, LOAD), (S_MODE, SUM, 0)):
        bench["MSTATUS"] = MPRV | mpp << 11 | status
        assert outcome(bench, LD) == cause
    bench["MSTATUS"] = MPRV | M_MODE << 11
    bench.set_x(5, DATA)
    assert outcome(bench, LD) == 0
    assert bench.x(7) == 0x77


def test_mprv_does_not_touch_fetches(bench: Bench) -> None:
    bench.map(VA, DATA, RWX | U)
    bench["MSTATUS"] = MPRV
    bench.run([NOP, NOP], at=RAM + 0x4000)
    assert bench["PC"] == RAM + 0x4008


def test_writing_mprv_takes_effect_on_the_next_load(bench: Bench) -> None:
    prepare(bench, RWX | U, mode=M_MODE)
    bench.store(DATA, 0x77)
    bench.set_x(8, MPRV)
    bench.set_x(9, DATA)
    bench.run([load("d", 4, 9), csrrs(0, "mstatus", 8), LD, csrrc(0, "mstatus", 8), load("d", 10, 9)])
    assert (bench.x(4), bench.x(7), bench.x(10)) == (0x77, 0x77, 0x77)


# what is remembered, and forgotten


@pytest.mark.parametrize("csr", ["sstatus", "mstatus"])
def test_clearing_mxr_forgets_what_it_allowed(bench: Bench, csr: str) -> None:
    prepare(bench, V | X | A | D, mode=M_MODE if csr == "mstatus" else S_MODE)
    bench["MSTATUS"] = MXR | (MPRV | S_MODE << 11 if csr == "mstatus" else 0)
    bench.set_x(8, MXR)
    bench.run([LD, csrrc(0, csr, 8), LD])
    assert bench.trapped()[:2] == (LOAD, CODE + 8)


def test_clearing_sum_hides_user_pages_again(bench: Bench) -> None:
    prepare(bench, RWX | U)
    bench["MSTATUS"] = SUM
    bench.set_x(8, SUM)
    bench.run([LD, SD, csrrc(0, "sstatus", 8), LD])
    assert bench.trapped()[:2] == (LOAD, CODE + 12)


@pytest.mark.parametrize("fence", [sfence(), sfence(5), sfence(5, 6), sfence(0, 6)])
@pytest.mark.parametrize("va", [VA, HIGH])
def test_sfence_shows_a_changed_translation(bench: Bench, fence: int, va: int) -> None:
    entry = prepare(bench, RWX, va=va)
    bench.store(DATA, 1)
    bench.store(OTHER, 2)
    bench.run([LD, fence, LD], count=1)
    assert bench.x(7) == 1
    bench.store(entry, OTHER >> 12 << 10 | RWX)
    bench.step(2)
    assert bench.x(7) == 2


@pytest.mark.parametrize("fence", [sfence(), sfence(5)])
def test_sfence_shows_a_changed_translation_to_fetches(bench: Bench, fence: int) -> None:
    entry = prepare(bench, RWX)
    bench.words(DATA, jalr(0, 9), NOP)
    bench.words(OTHER, jalr(0, 10), NOP)
    bench.set_x(9, CODE + 8)
    bench.set_x(10, CODE + 0x100)
    bench.words(CODE + 8, fence, jalr(0, 5))
    bench.run([jalr(0, 5)], count=2)
    assert bench["PC"] == CODE + 8
    bench.store(entry, OTHER >> 12 << 10 | RWX)
    bench.step(3)
    assert bench["PC"] == CODE + 0x100


@pytest.mark.parametrize("va", [0x10_4000_0000, 0xFFFF_FFC0_8000_0000])
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("mode", [S_MODE, U_MODE])
def test_sfence_of_one_address_forgets_its_whole_superpage(bench: Bench, va: int, level: int, mode: int) -> None:
    flags = RWX | (U if mode == U_MODE else 0)
    entry = prepare(bench, flags, mode=mode, va=va, pa=RAM, level=level)
    bench.set_x(5, va + 0x8000)
    bench.set_x(8, va + (4096 << 9 * level) - 0x1000)  # its last page
    bench.run([LD, sfence(8), LD], count=1)
    bench.store(entry, 0)
    bench["PRIV"] = S_MODE
    bench["PC"] = CODE + 4
    if mode == U_MODE:  # its code page is the users'
        bench["PRIV"] = M_MODE
        bench.step()
        bench["PRIV"] = U_MODE
        bench.step()
    else:
        bench.step(2)
    assert bench.trapped()[:2] == (LOAD, CODE + 8)


def test_writing_satp_changes_the_address_space(bench: Bench) -> None:
    prepare(bench, RWX)
    bench.set_x(8, 0)
    bench.store(DATA, 3)
    bench.set_x(9, DATA)
    bench.run([LD, csrrw(0, "satp", 8), load("d", 10, 9), LD])
    assert (bench.x(7), bench.x(10)) == (3, 3)
    assert bench["MMIO_ADDRESS"] == VA  # without translation, nothing is there


def test_machine_mode_is_never_translated(bench: Bench) -> None:
    prepare(bench, 0, mode=M_MODE, va=DATA)
    bench.set_x(5, DATA)
    assert outcome(bench, LD) == 0


def test_modes_do_not_share_translations(bench: Bench) -> None:
    prepare(bench, V | R | W | A | D)
    assert outcome(bench, LD) == 0
    bench.map(CODE, CODE, RWX | U)
    bench["PRIV"] = U_MODE
    assert outcome(bench, LD) == LOAD


@pytest.mark.parametrize("size", [4, 8])
def test_atomics_fault_like_stores(bench: Bench, size: int) -> None:
    prepare(bench, V | R | A)
    assert outcome(bench, amo(0, size, 7, 5, 6)) == STORE
    assert outcome(bench, sc(size, 7, 6, 5)) == STORE
    assert outcome(bench, lr(size, 7, 5)) == 0


def test_observer_sees_what_the_hart_sees(bench: Bench) -> None:
    """``translate`` and ``fetch`` serve debuggers and change nothing."""
    prepare(bench, V | X, pa=DATA)
    bench.map(VA + 0x1000, OTHER + 0x1000, RWX)
    bench.store(DATA + 0xFFE, 0x0005_8593 & 0xFFFF, 2)
    bench.store(OTHER + 0x1000, 0x0005_8593 >> 16, 2)
    assert bench.hart.translate(VA + 0x123) == DATA + 0x123
    assert bench.hart.fetch(VA + 0xFFE) == 0x0005_8593
    assert bench.hart.translate(VA + 0x2000) is None
    assert bench.hart.fetch(VA + 0x2000) is None
    assert bench["MCAUSE"] == 0
