"""Control and status registers: who may touch which, which bits stay, and the registers that are more than storage."""

from __future__ import annotations

import pytest

from cpu_proc.isa.csr import COUNTERS, CSRS, STATEEN0_MASK, Csr, numbers
from tests.unit.cpu_proc.harness import (
    EBREAK,
    M_MODE,
    MASK,
    NOP,
    RAM,
    S_MODE,
    U_MODE,
    Bench,
    addi,
    csrrc,
    csrrci,
    csrrs,
    csrrsi,
    csrrw,
    csrrwi,
    i_type,
    r_type,
)

STCE, PBMTE, ADUE = 1 << 63, 1 << 62, 1 << 61
FS, SD = 3 << 13, 1 << 63
ILLEGAL = 2
S_BITS = 0x222


def reset_for_access(bench: Bench, mode: int) -> None:
    bench.hart.reset()
    bench["PRIV"] = mode
    bench["MSTATUS"] = 1 << 13  # FS: initial
    bench["MCOUNTEREN"] = bench["SCOUNTEREN"] = COUNTERS
    bench["MENVCFG"] = STCE
    bench["MSTATEEN0"] = bench["MSTATEEN1"] = bench["MSTATEEN2"] = bench["MSTATEEN3"] = STATEEN0_MASK
    bench.open_memory()
    bench["SISELECT"] = bench["MISELECT"] = 0x70


@pytest.mark.parametrize("row", CSRS, ids=lambda row: row.name)
@pytest.mark.parametrize("mode", [U_MODE, S_MODE, M_MODE])
def test_privilege_and_read_only_bits_of_the_number_decide(bench: Bench, row: Csr, mode: int) -> None:
    allowed = mode >= row.number >> 8 & 3
    read_only = row.number >> 10 == 3
    for word, writes in (
        (csrrs(5, row.number), False),
        (csrrsi(5, row.number, 0), False),
        (csrrc(5, row.number, 0), False),
        (csrrw(5, row.number, 0), True),
        (csrrwi(0, row.number, 0), True),
        (csrrsi(5, row.number, 8), True),
        (csrrci(5, row.number, 8), True),
    ):
        reset_for_access(bench, mode)
        bench.run([word])
        legal = allowed and not (writes and read_only)
        assert bench["MCAUSE"] == (0 if legal else ILLEGAL) or row.name == "mcause", hex(word)


def test_every_other_number_is_illegal(bench: Bench) -> None:
    known = set(numbers().values())
    for number in range(4096):
        if number not in known:
            bench["MCAUSE"] = 0
            bench.run([csrrs(5, number)])
            assert bench["MCAUSE"] == ILLEGAL, hex(number)


@pytest.mark.parametrize(
    "row", [row for row in CSRS if row.slot and not row.write and row.number >> 10 != 3], ids=lambda row: row.name
)
def test_storage_keeps_the_bits_of_its_mask(bench: Bench, row: Csr) -> None:
    bench.set_x(5, MASK)
    bench.run([csrrw(0, row.number, 5), csrrs(6, row.number), csrrw(7, row.number, 0), csrrs(8, row.number)])
    assert bench.x(6) == bench.x(7) == row.mask & MASK
    assert bench.x(8) == 0


def test_set_and_clear_return_the_former_value(bench: Bench) -> None:
    bench["MSCRATCH"] = 0xF0
    bench.set_x(5, 0x3C)
    bench.run([csrrs(6, "mscratch", 5), csrrc(7, "mscratch", 5), csrrsi(8, "mscratch", 3), csrrci(9, "mscratch", 1)])
    assert [bench.x(n) for n in (6, 7, 8, 9)] == [0xF0, 0xFC, 0xC0, 0xC3]
    assert bench["MSCRATCH"] == 0xC2
    bench.run([csrrw(5, "mscratch", 5)])  # one register as source and destination
    assert (bench.x(5), bench["MSCRATCH"]) == (0xC2, 0x3C)


def test_mstatus_keeps_what_is_implemented(bench: Bench) -> None:
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "mstatus", 5), csrrs(6, "mstatus"), csrrs(7, "sstatus")])
    assert bench.x(6) == SD | 0xA << 32 | 0x7E_79AA
    assert bench.x(7) == SD | 2 << 32 | 0xC_6122
    bench.run([csrrw(0, "mstatus", 0), csrrs(6, "mstatus"), csrrs(7, "sstatus")])
    assert (bench.x(6), bench.x(7)) == (0xA << 32, 2 << 32)


def test_mpp_never_holds_the_reserved_mode(bench: Bench) -> None:
    bench.set_x(5, 2 << 11)
    bench.run([csrrw(0, "mstatus", 5), csrrs(6, "mstatus")])
    assert bench.x(6) >> 11 & 3 != 2


def test_sstatus_writes_its_own_bits_only(bench: Bench) -> None:
    bench["PRIV"], bench["MSTATUS"] = S_MODE, 0x0E_79AA
    bench.run([csrrw(0, "sstatus", 0)])
    assert bench["MSTATUS"] == 0x0E_79AA & ~0xC_6122
    bench.set_x(5, MASK)
    bench["MSTATUS"] = 0
    bench.run([csrrs(0, "sstatus", 5), NOP])
    assert bench["MSTATUS"] == 0xC_6122


def test_misa_tells_imafdcsu(bench: Bench) -> None:
    bench.set_x(5, 0)
    bench.run([csrrw(0, "misa", 5), csrrs(6, "misa")])
    assert bench.x(6) == 2 << 62 | sum(1 << ord(c) - ord("A") for c in "ACDFIMSU")


@pytest.mark.parametrize(
    "word",
    [
        csrrs(5, "fflags"), csrrs(5, "frm"), csrrs(5, "fcsr"), csrrw(0, "fcsr", 0), csrrwi(0, "frm", 1),
        r_type(0x53, 0, 0x01, 1, 2, 3), r_type(0x53, 0, 0x71, 1, 2, 0), i_type(0x07, 3, 1, 6, 0),
        0x0063_3027, 0x2000, 0x2002, 0xA002,  # fsd, c.fld, c.fldsp, c.fsdsp
    ],
)  # fmt: skip
def test_floating_point_is_illegal_while_off(bench: Bench, word: int) -> None:
    bench.set_x(6, RAM + 0x1000)
    bench.set_x(2, RAM + 0x1000)
    bench.set_x(8, RAM + 0x1000)
    bench.run([word])
    assert bench.trapped()[:2] == (ILLEGAL, RAM)


@pytest.mark.parametrize(
    "word",
    [
        csrrw(0, "fcsr", 0), csrrwi(0, "frm", 1), csrrsi(0, "fflags", 1), r_type(0x53, 0, 0x01, 1, 2, 3),
        r_type(0x53, 0, 0x79, 1, 6, 0), i_type(0x07, 3, 1, 6, 0), i_type(0x07, 2, 1, 6, 0),
    ],
)  # fmt: skip
def test_floating_point_state_becomes_dirty(bench: Bench, word: int) -> None:
    bench["MSTATUS"] = 1 << 13
    bench.set_x(6, RAM + 0x1000)
    bench.run([word, csrrs(7, "mstatus")])
    assert bench.x(7) & (FS | SD) == FS | SD


def test_reading_or_storing_floats_leaves_the_state_clean(bench: Bench) -> None:
    bench["MSTATUS"] = 2 << 13
    bench.set_x(6, RAM + 0x1000)
    bench.run([csrrs(5, "fcsr"), 0x0063_3027])
    assert bench["MSTATUS"] & FS == 2 << 13


def test_fcsr_is_frm_above_fflags(bench: Bench) -> None:
    bench["MSTATUS"] = 1 << 13
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "fcsr", 5), csrrs(6, "fcsr"), csrrs(7, "fflags"), csrrs(8, "frm"), csrrwi(9, "frm", 1)])
    assert [bench.x(n) for n in (6, 7, 8, 9)] == [0xFF, 0x1F, 7, 7]
    bench.run([csrrs(6, "fcsr"), csrrwi(0, "fflags", 2), csrrs(7, "fcsr")])
    assert (bench.x(6), bench.x(7)) == (0x3F, 0x22)


@pytest.mark.parametrize(("field", "frm", "legal"), [(0, 0, 1), (4, 0, 1), (5, 0, 0), (6, 0, 0), (7, 4, 1), (7, 5, 0)])
def test_rounding_mode_must_be_one(bench: Bench, field: int, frm: int, legal: int) -> None:
    bench["MSTATUS"], bench["FRM"] = 1 << 13, frm
    bench.run([r_type(0x53, field, 0x01, 1, 2, 3)])
    assert bench["MCAUSE"] == (0 if legal else ILLEGAL)


# counters


def test_counters_count_every_instruction_once(bench: Bench) -> None:
    bench.run([csrrs(5, "instret"), NOP, NOP, csrrs(6, "minstret"), csrrs(7, "cycle"), csrrs(8, "mcycle")])
    assert bench.x(5) == 0
    assert bench.x(6) == 3
    assert bench.x(8) - bench.x(7) == 1
    assert bench["INSTRET"] == 6


def test_written_counter_is_what_the_next_instruction_reads(bench: Bench) -> None:
    bench.set_x(5, 1000)
    bench.run([csrrs(9, "mcycle"), csrrw(0, "minstret", 5), csrrs(6, "minstret"), csrrs(7, "mcycle")])
    assert bench.x(6) == 1000
    assert bench.x(7) - bench.x(9) == 3  # the other counter goes on
    bench.run([csrrw(0, "mcycle", 5), csrrs(6, "mcycle"), csrrs(7, "minstret")])
    assert bench.x(6) == 1000
    assert bench.x(7) == 1004


def test_counter_wraps(bench: Bench) -> None:
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "minstret", 5), csrrs(6, "minstret"), csrrs(7, "minstret")])
    assert (bench.x(6), bench.x(7)) == (MASK, 0)


def test_what_traps_does_not_retire(bench: Bench) -> None:
    bench["MTVEC"] = RAM + 0x800
    bench.words(RAM + 0x800, csrrs(5, "minstret"))
    bench.run([NOP, EBREAK], count=3)
    assert bench.x(5) == 1


@pytest.mark.parametrize(("bit", "name"), [(0, "cycle"), (1, "time"), (2, "instret")])
def test_counter_enables(bench: Bench, bit: int, name: str) -> None:
    for mode in (U_MODE, S_MODE, M_MODE):
        for machine in (0, 7 & ~(1 << bit), 1 << bit):
            for supervisor in (0, 7 & ~(1 << bit), 1 << bit):
                bench["PRIV"], bench["MCOUNTEREN"], bench["SCOUNTEREN"], bench["MCAUSE"] = mode, machine, supervisor, 0
                bench.run([csrrs(5, name)])
                legal = mode == M_MODE or (machine >> bit & 1 and (mode == S_MODE or supervisor >> bit & 1))
                assert bench["MCAUSE"] == (0 if legal else ILLEGAL)


# interrupt registers


def test_sie_is_the_delegated_part_of_mie(bench: Bench) -> None:
    bench["MIE"], bench["MIDELEG"] = 0xAAA, 0x22
    bench.run([csrrs(6, "sie"), csrrw(0, "sie", 0), csrrs(7, "mie")])
    assert (bench.x(6), bench.x(7)) == (0x22, 0xA88)
    bench.set_x(5, MASK)
    bench["MIE"] = 0
    bench.run([csrrw(0, "sie", 5), csrrs(7, "mie")])
    assert bench.x(7) == 0x22


def test_sip_lets_s_mode_write_the_software_interrupt_alone(bench: Bench) -> None:
    bench["MIDELEG"] = S_BITS
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "sip", 5), csrrs(6, "mip"), csrrw(0, "sip", 0), csrrs(7, "mip")])
    assert (bench.x(6), bench.x(7)) == (2, 0)
    bench["MIDELEG"] = 0
    bench.run([csrrw(0, "sip", 5), csrrs(6, "mip")])
    assert bench.x(6) == 0


def test_mip_writes_supervisor_bits(bench: Bench) -> None:
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "mip", 5), csrrs(6, "mip"), csrrc(0, "mip", 5), csrrs(7, "mip")])
    assert (bench.x(6), bench.x(7)) == (S_BITS, 0)
    bench["MENVCFG"] = STCE  # then STIP is the comparator's
    bench.run([csrrw(0, "mip", 5), csrrs(6, "mip")])
    assert bench.x(6) == 0x202


def test_reading_mip_by_set_does_not_latch_what_devices_raise(bench: Bench) -> None:
    bench["SI_DELIVERY"], bench["SI_EIP0"], bench["SI_EIE0"] = 1, 2, 2
    bench.run([csrrsi(6, "mip", 2)])  # reads SEIP from the file, sets SSIP
    bench["SI_EIP0"] = 0
    bench.run([csrrs(7, "mip")])
    assert (bench.x(6), bench.x(7)) == (0x200, 2)


# Sstc


def test_stimecmp_raises_and_clears_the_timer_interrupt(bench: Bench) -> None:
    bench["MENVCFG"], bench["MCOUNTEREN"] = STCE, 2
    bench["MIDELEG"], bench["PRIV"] = S_BITS, S_MODE
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "stimecmp", 0), csrrs(6, "sip"), csrrw(0, "stimecmp", 5), csrrs(7, "sip")])
    assert (bench.x(6), bench.x(7)) == (0x20, 0)
    bench.run([csrrs(8, "stimecmp")])
    assert bench.x(8) == MASK


def test_stimecmp_does_nothing_while_off(bench: Bench) -> None:
    bench.run([csrrw(0, "stimecmp", 0), csrrs(6, "mip")])
    assert bench.x(6) == 0


@pytest.mark.parametrize(
    ("mode", "menvcfg", "mcounteren", "legal"),
    [(S_MODE, STCE, 2, 1), (S_MODE, 0, 2, 0), (S_MODE, STCE, 5, 0), (U_MODE, STCE, 7, 0), (M_MODE, 0, 0, 1)],
)
def test_stimecmp_needs_both_enables(bench: Bench, mode: int, menvcfg: int, mcounteren: int, legal: int) -> None:
    for word in (csrrs(5, "stimecmp"), csrrw(0, "stimecmp", 5)):
        bench["PRIV"], bench["MENVCFG"], bench["MCOUNTEREN"], bench["MCAUSE"] = mode, menvcfg, mcounteren, 0
        bench.run([word])
        assert bench["MCAUSE"] == (0 if legal else ILLEGAL)


def test_timer_interrupt_is_taken(bench: Bench) -> None:
    bench["MENVCFG"], bench["MIDELEG"], bench["MIE"], bench["PRIV"] = STCE, 0x20, 0x20, U_MODE
    bench["STVEC"], bench["STIMECMP"] = RAM + 0x800, 0
    bench.words(RAM + 0x800, NOP)
    bench.run([NOP])
    assert bench["SCAUSE"] == 1 << 63 | 5


# AIA


def indirect(bench: Bench, select: int, value: int | None = None, low: str = "s") -> int:
    """Read or write through siselect and sireg; return sireg."""
    bench.set_x(5, select)
    bench.set_x(6, value or 0)
    access = csrrw(0, f"{low}ireg", 6) if value is not None else csrrs(7, f"{low}ireg")
    bench.run([csrrw(0, f"{low}iselect", 5), access])
    return bench.x(7)


@pytest.mark.parametrize("low", ["s", "m"])
def test_interrupt_file_registers_keep_what_they_should(bench: Bench, low: str) -> None:
    for select, kept in (
        (0x70, 1), (0x72, 0xFF), (0x80, MASK & ~1), (0x82, MASK), (0x86, MASK), (0x88, 0), (0xBE, 0),
        (0xC0, MASK & ~1), (0xC6, MASK), (0xFE, 0), (0x30, 0), (0x3E, 0),
    ):  # fmt: skip
        indirect(bench, select, MASK, low)
        assert indirect(bench, select, low=low) == kept, hex(select)
        indirect(bench, select, 0, low)
        assert indirect(bench, select, low=low) == 0
    assert bench["MCAUSE"] == 0


@pytest.mark.parametrize("select", [0x31, 0x3F, 0x40, 0x71, 0x73, 0x7F, 0x81, 0xC1, 0xFF, 0x100, 0x0])
@pytest.mark.parametrize("value", [None, 1])
def test_other_selections_are_illegal(bench: Bench, select: int, value: int | None) -> None:
    indirect(bench, select, value)
    assert bench["MCAUSE"] == ILLEGAL


AIA_ONLY = [row.name for row in CSRS if row.needs]


@pytest.mark.parametrize("name", AIA_ONLY)
def test_registers_of_aia_are_absent_without_it(bench: Bench, name: str) -> None:
    bench["IMSIC_PRESENT"] = 0
    bench.run([csrrs(5, name)])
    assert bench["MCAUSE"] == ILLEGAL
    bench["MCAUSE"] = 0
    bench.run([csrrw(0, name, 6)])
    assert bench["MCAUSE"] == ILLEGAL


def test_what_aia_adds_is_all_that_needs_it() -> None:
    """AIA §2.1 and §2.2, and no other register."""
    of_m = {"miselect", "mireg", "mtopei", "mtopi", "mvien", "mvip"}
    assert set(AIA_ONLY) == of_m | {"siselect", "sireg", "stopei", "stopi"}


def test_claim_takes_the_lowest_identity_and_clears_it(bench: Bench) -> None:
    for identity in (200, 64, 63, 5):
        bench.hart.set_external("SI", identity)
    for word in range(4):
        bench[f"SI_EIE{word}"] = MASK
    bench["SI_DELIVERY"], bench["MIDELEG"] = 1, S_BITS
    seen = []
    for _claim in range(5):
        bench.run([csrrs(6, "stopi"), csrrw(5, "stopei", 0)])
        seen.append((bench.x(6), bench.x(5)))
    assert seen[:4] == [(0, n << 16 | n) for n in (5, 63, 64, 200)]
    assert seen[4] == (0, 0)


def test_stopi_tells_the_enabled_interrupt(bench: Bench) -> None:
    bench["MIDELEG"], bench["MIE"], bench["MIP"] = S_BITS, 0x22, 0x22
    bench.run([csrrs(5, "stopi"), csrrs(6, "mtopi")])
    assert (bench.x(5), bench.x(6)) == (1 << 16 | 1, 0)
    bench["MIE"], bench["MIDELEG"] = 0x220, 0x200
    bench["MIP"] = 0x220
    bench.run([csrrs(5, "stopi"), csrrs(6, "mtopi")])
    assert (bench.x(5), bench.x(6)) == (9 << 16 | 1, 5 << 16 | 1)


@pytest.mark.parametrize(("threshold", "eligible"), [(0, 1), (7, 0), (8, 1), (255, 1), (1, 0)])
def test_threshold_hides_its_identity_and_above(bench: Bench, threshold: int, eligible: int) -> None:
    bench["SI_DELIVERY"], bench["SI_EIE0"], bench["SI_EIP0"] = 1, 1 << 7, 1 << 7
    indirect(bench, 0x72, threshold)
    bench.run([csrrs(5, "stopei"), csrrs(6, "mip")])
    assert (bench.x(5), bench.x(6)) == ((7 << 16 | 7, 0x200) if eligible else (0, 0))


def test_delivery_off_hides_the_interrupt_but_not_the_identity(bench: Bench) -> None:
    """AIA §3.9: eidelivery governs the signal to the hart; *topei goes by pending, enabled and threshold alone."""
    bench["SI_EIE0"], bench["SI_EIP0"] = 1 << 7, 1 << 7
    bench.run([csrrs(6, "mip"), csrrw(5, "stopei", 0), csrrs(7, "stopei")])
    assert (bench.x(6), bench.x(5), bench.x(7)) == (0, 7 << 16 | 7, 0)


def test_enabling_an_identity_delivers_at_once(bench: Bench) -> None:
    bench["SI_DELIVERY"], bench["SI_EIP0"], bench["SISELECT"] = 1, 4, 0xC0
    bench["MIDELEG"], bench["MIE"], bench["PRIV"], bench["MSTATUS"] = S_BITS, 0x200, S_MODE, 2
    bench["STVEC"] = RAM + 0x800
    bench.words(RAM + 0x800, NOP)
    bench.set_x(6, 4)
    bench.run([csrrw(0, "sireg", 6), addi(9, 0, 1)])
    assert (bench["SCAUSE"], bench["SEPC"], bench.x(9)) == (1 << 63 | 9, RAM + 4, 0)


def test_satp_takes_the_modes_there_are(bench: Bench) -> None:
    for mode, kept in ((8, 8), (0, 0), (9, 9), (10, 10), (11, 0), (15, 0), (1, 0)):
        bench["SATP"] = 0
        bench.set_x(5, mode << 60 | 0xFFFF << 44 | 0x80100)
        bench.run([csrrw(0, "satp", 5), csrrs(6, "satp")])
        assert bench.x(6) == (mode << 60 | 0x80100 if kept == mode else 0), mode


def test_envcfg_bits(bench: Bench) -> None:
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "menvcfg", 5), csrrs(6, "menvcfg"), csrrw(0, "senvcfg", 5), csrrs(7, "senvcfg")])
    assert (bench.x(6), bench.x(7)) == (STCE | PBMTE | ADUE | 0xF1, 0xF1)
