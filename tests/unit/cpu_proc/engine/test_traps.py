"""Traps and interrupts: causes, what the handler sees, delegation, vectors, and the way back."""

from __future__ import annotations

import pytest

from tests.unit.cpu_proc.harness import (
    BUDGET,
    EBREAK,
    ECALL,
    M_MODE,
    MRET,
    NOP,
    RAM,
    S_MODE,
    SBI,
    SRET,
    U_MODE,
    WFI,
    WFI_WORD,
    Bench,
    addi,
    csrrs,
    csrrw,
    csrrwi,
    jalr,
    load,
    sfence,
)

M_VECTOR, S_VECTOR, CODE = RAM + 0x1000, RAM + 0x2000, RAM + 0x3000
SIE, MIE, SPIE, MPIE, SPP, MPRV = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 1 << 17
TVM, TW, TSR = 1 << 20, 1 << 21, 1 << 22
ILLEGAL = 2
INTERRUPT = 1 << 63


def mpp(mode: int) -> int:
    return mode << 11


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """Return a hart with handlers of NOPs."""
    for vector in (M_VECTOR, S_VECTOR, CODE):
        bench.words(vector, *[NOP] * 64)
    bench["MTVEC"], bench["STVEC"] = M_VECTOR, S_VECTOR
    return bench


@pytest.mark.parametrize("mode", [U_MODE, S_MODE, M_MODE])
@pytest.mark.parametrize(
    ("word", "cause", "tval"),
    [
        (EBREAK, 3, CODE),
        (0x9002, 3, CODE),
        (0xFFFF_FFFF, ILLEGAL, 0xFFFF_FFFF),
        (0x0000_0000, ILLEGAL, 0),
        (0x1234_0000, ILLEGAL, 0),  # a reserved 16-bit word: the upper half is the next instruction
        (0x8002, ILLEGAL, 0x8002),  # c.jr x0
        (csrrs(5, 0x5C0), ILLEGAL, csrrs(5, 0x5C0)),
        (csrrw(0, "cycle", 5), ILLEGAL, csrrw(0, "cycle", 5)),
    ],
)
def test_exception_says_cause_place_and_value(bench: Bench, mode: int, word: int, cause: int, tval: int) -> None:
    bench["PRIV"] = mode
    bench["MSTATUS"] = MIE | SIE
    bench.run([word], at=CODE)
    assert bench.trapped() == (cause, CODE, tval)
    assert (bench["PC"], bench["PRIV"]) == (M_VECTOR, M_MODE)
    assert bench["MSTATUS"] & (MIE | MPIE | mpp(3)) == MPIE | mpp(mode)
    assert bench["SCAUSE"] == bench["SEPC"] == 0


@pytest.mark.parametrize(("mode", "cause"), [(U_MODE, 8), (S_MODE, 9), (M_MODE, 11)])
def test_ecall_names_its_mode(bench: Bench, mode: int, cause: int) -> None:
    bench["PRIV"] = mode
    bench["MTVAL"] = 5
    bench.run([ECALL], at=CODE)
    assert bench.trapped() == (cause, CODE, 0)


def test_ecall_from_s_mode_is_served_by_python_when_there_is_no_firmware(bench: Bench) -> None:
    bench["PRIV"], bench["BUILTIN_SBI"] = S_MODE, 1
    assert bench.run([ECALL], at=CODE) == SBI
    assert (bench["PC"], bench["MCAUSE"]) == (CODE + 4, 0)


def test_jump_outside_memory_faults_at_the_target(bench: Bench) -> None:
    bench.set_x(5, 0x1000)
    bench.run([jalr(1, 5)], at=CODE, count=2)
    assert bench.trapped() == (1, 0x1000, 0x1000)
    assert bench.x(1) == CODE + 4


def test_instruction_across_the_end_of_memory_faults_at_its_second_half(bench: Bench) -> None:
    end = RAM + bench.ram.size
    bench.store(end - 2, 0x0013, 2)
    bench["PC"] = end - 2
    bench.step()
    assert bench.trapped() == (1, end - 2, end)


@pytest.mark.parametrize("mode", [U_MODE, S_MODE])
def test_delegated_exception_goes_to_s_mode(bench: Bench, mode: int) -> None:
    bench["PRIV"], bench["MEDELEG"], bench["MSTATUS"] = mode, 1 << ILLEGAL, SIE | mpp(0)
    bench.run([0xFFFF_FFFF], at=CODE)
    assert bench.trapped("S") == (ILLEGAL, CODE, 0xFFFF_FFFF)
    assert (bench["PC"], bench["PRIV"], bench["MCAUSE"]) == (S_VECTOR, S_MODE, 0)
    assert bench["MSTATUS"] & (SIE | SPIE | SPP) == SPIE | (SPP if mode == S_MODE else 0)


def test_exception_in_m_mode_is_never_delegated(bench: Bench) -> None:
    bench["MEDELEG"] = 0xFFFF
    bench.run([EBREAK], at=CODE)
    assert (bench["PC"], bench["MCAUSE"]) == (M_VECTOR, 3)


def test_exception_ignores_the_vectored_mode(bench: Bench) -> None:
    bench["MTVEC"] = M_VECTOR | 1
    bench.run([EBREAK], at=CODE)
    assert bench["PC"] == M_VECTOR


@pytest.mark.parametrize("number", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("vectored", [0, 1])
def test_machine_interrupt_enters_through_its_vector(bench: Bench, number: int, vectored: int) -> None:
    bench["MTVEC"] = M_VECTOR | vectored
    bench["MIE"], bench["MSTATUS"] = 1 << number, MIE
    bench["LINES"] = 1 << number
    try:
        bench.run([NOP], at=CODE)
    finally:
        bench["LINES"] = 0
    assert bench.trapped() == (INTERRUPT | number, CODE, 0)
    assert bench["PC"] == M_VECTOR + (4 * number if vectored else 0) + 4  # and one NOP of the handler
    assert bench["MSTATUS"] & (MIE | MPIE | mpp(3)) == MPIE | mpp(3)


@pytest.mark.parametrize("number", [1, 5, 9])
@pytest.mark.parametrize("vectored", [0, 1])
def test_delegated_interrupt_enters_s_mode(bench: Bench, number: int, vectored: int) -> None:
    bench["STVEC"] = S_VECTOR | vectored
    bench["MIE"] = bench["MIDELEG"] = bench["MIP"] = 1 << number
    bench["PRIV"], bench["MSTATUS"] = S_MODE, SIE
    bench.run([NOP], at=CODE)
    assert bench.trapped("S") == (INTERRUPT | number, CODE, 0)
    assert bench["PC"] == S_VECTOR + (4 * number if vectored else 0) + 4


@pytest.mark.parametrize(
    ("mode", "status", "delegated", "taken"),
    [
        (U_MODE, 0, True, True),  # less privileged: always enabled
        (U_MODE, 0, False, True),
        (S_MODE, 0, True, False),
        (S_MODE, SIE, True, True),
        (S_MODE, 0, False, True),
        (M_MODE, SIE, True, False),  # delegated: never in M mode
        (M_MODE, SIE | MIE, True, False),
        (M_MODE, SIE, False, False),
        (M_MODE, MIE, False, True),
    ],
)
def test_interrupt_is_taken_where_it_is_enabled(
    bench: Bench, mode: int, status: int, delegated: bool, taken: bool
) -> None:
    bench["MIE"] = bench["MIP"] = 2
    bench["MIDELEG"] = 2 if delegated else 0
    bench["PRIV"], bench["MSTATUS"] = mode, status
    bench.run([NOP], at=CODE)
    assert bench["PC"] == (CODE if not taken else S_VECTOR if delegated else M_VECTOR) + 4


def test_interrupts_go_in_the_order_of_the_specification(bench: Bench) -> None:
    order = [11, 3, 7, 9, 1, 5]
    waiting = sum(1 << number for number in order)
    for number in order:
        bench["MIE"] = bench["LINES"] = waiting
        bench["MSTATUS"], bench["PRIV"] = MIE, M_MODE
        bench.run([NOP], at=CODE)
        assert bench["MCAUSE"] == INTERRUPT | number
        waiting &= ~(1 << number)
    bench["LINES"] = 0


def test_interrupt_for_m_mode_goes_before_a_delegated_one(bench: Bench) -> None:
    bench["MIE"] = bench["MIP"] = 1 << 9 | 1 << 5
    bench["MIDELEG"], bench["PRIV"] = 1 << 9, U_MODE
    bench.run([NOP], at=CODE)
    assert bench["MCAUSE"] == INTERRUPT | 5


def test_enabling_an_interrupt_lets_it_in_before_the_next_instruction(bench: Bench) -> None:
    bench["MIE"] = bench["MIP"] = 2
    bench.run([csrrwi(0, "mstatus", MIE), addi(9, 0, 1)], at=CODE)
    assert (bench["MEPC"], bench.x(9)) == (CODE + 4, 0)


def test_mret_restores_mode_and_enable(bench: Bench) -> None:
    for mode in (U_MODE, S_MODE, M_MODE):
        for enabled in (0, MPIE):
            bench["PRIV"] = M_MODE
            bench["MSTATUS"] = enabled | mpp(mode) | MPRV
            bench["MEPC"] = RAM + 0x4002
            bench.run([MRET], at=CODE)
            assert (bench["PC"], bench["PRIV"]) == (RAM + 0x4002, mode)
            status = bench["MSTATUS"]
            assert status & (MIE | MPIE | mpp(3)) == (MIE if enabled else 0) | MPIE
            assert bool(status & MPRV) == (mode == M_MODE)


def test_sret_restores_mode_and_enable(bench: Bench) -> None:
    for mode, bits in ((U_MODE, 0), (S_MODE, SPP)):
        for enabled in (0, SPIE):
            bench["PRIV"] = S_MODE
            bench["MSTATUS"] = enabled | bits | MPRV
            bench["SEPC"] = RAM + 0x4000
            bench.run([SRET], at=CODE)
            assert (bench["PC"], bench["PRIV"]) == (RAM + 0x4000, mode)
            assert bench["MSTATUS"] & (SIE | SPIE | SPP | MPRV) == (SIE if enabled else 0) | SPIE


def test_nested_traps_come_back_in_order(bench: Bench) -> None:
    """U traps to S, S traps to M; two returns restore both."""
    bench["MEDELEG"] = 1 << 8
    bench["PRIV"], bench["MSTATUS"] = U_MODE, SIE | MIE
    bench.words(S_VECTOR, EBREAK, SRET)
    bench.words(M_VECTOR, csrrs(5, "mepc"), addi(5, 5, 4), csrrw(0, "mepc", 5), MRET)
    bench.run([ECALL], at=CODE, count=6)
    assert (bench["PRIV"], bench["PC"]) == (S_MODE, S_VECTOR + 4)
    assert bench["MSTATUS"] & (SIE | SPIE | SPP | MIE) == SPIE | MIE
    bench.step()
    assert (bench["PRIV"], bench["PC"]) == (U_MODE, CODE)
    assert bench["MSTATUS"] & SIE


@pytest.mark.parametrize(
    ("mode", "status", "word"),
    [
        (U_MODE, 0, SRET), (U_MODE, 0, MRET), (U_MODE, 0, WFI_WORD), (U_MODE, 0, sfence()),
        (S_MODE, 0, MRET), (S_MODE, TSR, SRET), (S_MODE, TW, WFI_WORD), (S_MODE, TVM, sfence()),
        (S_MODE, TVM, csrrs(5, "satp")), (S_MODE, TVM, csrrw(0, "satp", 0)),
        (U_MODE, 0, csrrs(5, "sstatus")), (U_MODE, 0, csrrs(5, "mstatus")), (S_MODE, 0, csrrs(5, "mstatus")),
        (S_MODE, 0, csrrs(5, "mhartid")),
    ],
)  # fmt: skip
def test_what_a_mode_may_not_do_is_illegal(bench: Bench, mode: int, status: int, word: int) -> None:
    bench["PRIV"], bench["MSTATUS"] = mode, status
    bench.run([word], at=CODE)
    assert bench.trapped() == (ILLEGAL, CODE, word)


@pytest.mark.parametrize(
    ("mode", "status", "word"),
    [
        (S_MODE, TW | TVM, SRET), (M_MODE, TSR, SRET), (S_MODE, TSR | TVM, WFI_WORD), (M_MODE, TW, WFI_WORD),
        (S_MODE, TSR | TW, sfence()), (M_MODE, TVM, sfence()), (M_MODE, TVM, csrrs(5, "satp")), (M_MODE, 0, MRET),
    ],
)  # fmt: skip
def test_what_a_mode_may_do_is_not_trapped(bench: Bench, mode: int, status: int, word: int) -> None:
    bench["PRIV"], bench["MSTATUS"] = mode, status
    bench.run([word], at=CODE)
    assert bench["MCAUSE"] == 0


def test_wfi_stops_when_nothing_is_pending(bench: Bench) -> None:
    assert bench.run([WFI_WORD], at=CODE, count=2) == WFI
    assert (bench["PC"], bench["INSTRET"]) == (CODE + 4, 1)


def test_wfi_goes_on_for_a_pending_interrupt_that_is_not_taken(bench: Bench) -> None:
    bench["MIE"] = bench["MIP"] = 2
    assert bench.run([WFI_WORD, addi(9, 0, 1)], at=CODE) == BUDGET
    assert bench.x(9) == 1


def test_wfi_ignores_what_is_pending_but_not_enabled(bench: Bench) -> None:
    bench["MIP"], bench["MIE"] = 2, 0x20
    assert bench.run([WFI_WORD], at=CODE) == WFI


def test_trap_handler_that_traps_does_not_hang(bench: Bench) -> None:
    bench["MTVEC"] = 0
    assert bench.run([EBREAK], at=CODE, count=1000) == BUDGET
    assert bench.trapped() == (1, 0, 0)


def test_load_that_traps_leaves_its_destination(bench: Bench) -> None:
    bench.set_x(5, 0x1001)
    bench.set_x(6, 99)
    bench.run([load("d", 6, 5)], at=CODE)
    assert (bench["MCAUSE"], bench.x(6)) == (5, 99)
