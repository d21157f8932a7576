"""Counters that stand still, counters that count nothing, and what mstateen0 keeps from S and U mode."""

from __future__ import annotations

import pytest

from cpu_proc.isa.csr import (
    STATEEN0_MASK,
    STATEEN_AIA,
    STATEEN_CSRIND,
    STATEEN_ENVCFG,
    STATEEN_IMSIC,
    STATEEN_SE,
)
from tests.unit.cpu_proc.harness import (
    M_MODE,
    MASK,
    NOP,
    RAM,
    S_MODE,
    U_MODE,
    Bench,
    csrrci,
    csrrs,
    csrrsi,
    csrrw,
    csrrwi,
)

ILLEGAL = 2
COUNTER_NAMES = {"mcycle": 1, "minstret": 4}


# mcountinhibit


@pytest.mark.parametrize(("name", "bit"), COUNTER_NAMES.items())
def test_counter_stands_while_inhibited(bench: Bench, name: str, bit: int) -> None:
    bench.run([csrrs(5, name), csrrsi(0, "mcountinhibit", bit), csrrs(6, name), NOP, NOP, csrrs(7, name)])
    assert (bench.x(6) - bench.x(5), bench.x(7) - bench.x(6)) == (2, 0)


@pytest.mark.parametrize(("name", "bit"), COUNTER_NAMES.items())
@pytest.mark.parametrize("pause", [0, 1, 7])
def test_counter_goes_on_where_it_stood(bench: Bench, name: str, bit: int, pause: int) -> None:
    """What was executed in between is left out, wherever a slice ends."""
    program = [
        csrrs(5, name), csrrsi(0, "mcountinhibit", bit), *[NOP] * pause, csrrci(0, "mcountinhibit", bit),
        NOP, NOP, csrrs(6, name),
    ]  # fmt: skip
    bench.run(program)
    together = bench.x(6) - bench.x(5)
    bench.run(program, count=0)
    for _ in program:
        bench.step(1)
    assert bench.x(6) - bench.x(5) == together == 5  # the five others: what stops, what lets go, two, and the read


@pytest.mark.parametrize(("name", "bit"), COUNTER_NAMES.items())
def test_one_counter_does_not_stop_the_other(bench: Bench, name: str, bit: int) -> None:
    other = next(key for key in COUNTER_NAMES if key != name)
    bench.run([csrrwi(0, "mcountinhibit", bit), csrrs(5, other), NOP, NOP, csrrs(6, other)])
    assert bench.x(6) - bench.x(5) == 3


@pytest.mark.parametrize(("name", "bit"), COUNTER_NAMES.items())
def test_inhibited_counter_can_be_written(bench: Bench, name: str, bit: int) -> None:
    bench.set_x(5, 0x1234_5678_9ABC_DEF0)
    bench.run(
        [csrrwi(0, "mcountinhibit", bit), csrrw(0, name, 5), NOP, csrrs(6, name), csrrwi(0, "mcountinhibit", 0), NOP]
    )
    assert bench.x(6) == bench.x(5)
    bench.run([csrrs(7, name)])
    assert bench.x(7) == bench.x(5) + 2


def test_inhibit_has_the_bits_of_the_counters_that_count(bench: Bench) -> None:
    """Time cannot be stopped, and the others have nothing to stop (§3.1.12)."""
    bench.set_x(5, MASK)
    bench.run([csrrw(0, "mcountinhibit", 5), csrrs(6, "mcountinhibit")])
    assert bench.x(6) == 5
    bench.run([csrrs(6, "time"), csrrs(7, "time")])
    assert bench.x(7) >= bench.x(6) > 0


def test_shadows_stand_with_their_counters(bench: Bench) -> None:
    bench["MCOUNTEREN"] = bench["SCOUNTEREN"] = 7
    bench.run([csrrwi(0, "mcountinhibit", 5)])
    bench["PRIV"] = U_MODE
    for name in ("cycle", "instret"):
        bench.run([csrrs(5, name), NOP, csrrs(6, name)])
        assert bench.x(5) == bench.x(6)


# Zihpm


@pytest.mark.parametrize("number", [3, 4, 17, 31])
def test_event_counters_read_zero(bench: Bench, number: int) -> None:
    bench.set_x(5, MASK)
    for name in (f"mhpmcounter{number}", f"mhpmevent{number}"):
        bench.set_x(6, 1)
        bench.run([csrrw(0, name, 5), csrrs(6, name)])
        assert (bench.x(6), bench.get("MCAUSE")) == (0, 0)


@pytest.mark.parametrize("number", range(3, 32))
def test_event_counters_are_gated_each_by_its_bit(bench: Bench, number: int) -> None:
    bit = 1 << number
    for mode, machine, supervisor, legal in (
        (M_MODE, 0, 0, True), (S_MODE, bit, 0, True), (S_MODE, ~bit, bit, False), (U_MODE, bit, bit, True),
        (U_MODE, bit, ~bit, False), (U_MODE, ~bit, bit, False),
    ):  # fmt: skip
        bench["PRIV"], bench["MCOUNTEREN"], bench["SCOUNTEREN"], bench["MCAUSE"] = mode, machine, supervisor, 0
        bench.set_x(7, 1)
        bench.run([csrrs(7, f"hpmcounter{number}")])
        assert (bench["MCAUSE"], bench.x(7)) == ((0, 0) if legal else (ILLEGAL, 1))


# Smstateen


GATED = (
    ("senvcfg", None, STATEEN_ENVCFG), ("sstateen0", None, STATEEN_SE), ("siselect", None, STATEEN_CSRIND),
    ("sireg", 0x70, STATEEN_CSRIND), ("sireg", 0x70, STATEEN_IMSIC), ("sireg", 0xC0, STATEEN_IMSIC),
    ("sireg", 0x30, STATEEN_AIA), ("stopei", None, STATEEN_IMSIC), ("stopi", None, STATEEN_AIA),
)  # fmt: skip


@pytest.mark.parametrize(("name", "select", "bit"), GATED)
@pytest.mark.parametrize("write", [False, True])
def test_state_is_out_of_reach_without_its_bit(
    bench: Bench, name: str, select: int | None, bit: int, write: bool
) -> None:
    if write and name == "stopi":
        return
    word = csrrw(0, name, 0) if write else csrrs(7, name)
    for mode, enabled, legal in ((S_MODE, True, True), (S_MODE, False, False), (M_MODE, False, True)):
        bench["PRIV"], bench["MCAUSE"] = mode, 0
        bench["SISELECT"] = select or 0x70
        bench["MSTATEEN0"] = STATEEN0_MASK & MASK if enabled else STATEEN0_MASK & MASK & ~bit
        bench.run([word])
        assert (bench["MCAUSE"], bench["MTVAL"]) == ((0, 0) if legal else (ILLEGAL, word))
        bench["MTVAL"] = 0


@pytest.mark.parametrize(("name", "select", "bit"), GATED)
def test_other_bits_do_not_matter(bench: Bench, name: str, select: int | None, bit: int) -> None:
    together = {"sireg": STATEEN_CSRIND | (STATEEN_IMSIC if (select or 0) >= 0x70 else STATEEN_AIA)}.get(name, bit)
    bench["PRIV"], bench["MSTATEEN0"], bench["SISELECT"] = S_MODE, together, select or 0x70
    bench.run([csrrs(7, name)])
    assert bench["MCAUSE"] == 0


@pytest.mark.parametrize("place", range(4))
def test_supervisor_state_enables_hold_nothing(bench: Bench, place: int) -> None:
    bench[f"MSTATEEN{place}"] = STATEEN_SE
    bench["PRIV"] = S_MODE
    bench.set_x(5, MASK)
    bench.run([csrrw(0, f"sstateen{place}", 5), csrrs(6, f"sstateen{place}")])
    assert (bench.x(6), bench["MCAUSE"]) == (0, 0)
    bench[f"MSTATEEN{place}"] = MASK & ~STATEEN_SE
    bench["PRIV"] = S_MODE
    bench.run([csrrs(6, f"sstateen{place}")])
    assert bench.trapped()[:2] == (ILLEGAL, RAM)


def test_machine_state_enables_keep_what_there_is(bench: Bench) -> None:
    bench.set_x(5, MASK)
    kept = (STATEEN0_MASK & MASK, STATEEN_SE, STATEEN_SE, STATEEN_SE)
    for place, value in enumerate(kept):
        bench.run([csrrw(0, f"mstateen{place}", 5), csrrs(6, f"mstateen{place}")])
        assert bench.x(6) == value
        bench["PRIV"], bench["MCAUSE"] = S_MODE, 0
        bench.run([csrrs(6, f"mstateen{place}")])
        assert bench["MCAUSE"] == ILLEGAL
        bench["PRIV"] = M_MODE


# triggers


@pytest.mark.parametrize("name", ["tselect", "tdata1", "tdata2", "tdata3"])
def test_there_are_no_triggers(bench: Bench, name: str) -> None:
    bench.set_x(5, MASK)
    bench.set_x(6, 1)
    bench.run([csrrw(0, name, 5), csrrs(6, name)])
    assert (bench.x(6), bench["MCAUSE"]) == (0, 0)
    bench["PRIV"] = S_MODE
    bench.run([csrrs(6, name)])
    assert bench["MCAUSE"] == ILLEGAL
