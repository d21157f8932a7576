"""The accessors of control and status registers, as source text from their rows."""

from __future__ import annotations

from cpu_proc.engine.source_text import chain, signed
from cpu_proc.isa.csr import CSRS, Csr


def csr_read() -> str:
    """Return the body of ``csr_read(S, number)``, less what follows when no row matches."""
    rows = []
    for row in CSRS:
        place = _place(row)
        body = f"return {row.read}(S{place and ', ' + place})" if row.read else f"return S[{_slot(row)}]"
        rows.append((_numbers(row), [*_reach(row), body]))
    return chain(rows, 1)


def _numbers(row: Csr) -> str:
    """Return the test for the register number to be of ``row``."""
    if row.count == 1:
        return f"number == {row.number:#x}"
    return f"number >= {row.number:#x} and number < {row.number + row.count:#x}"


def _place(row: Csr) -> str:
    """Return the expression for the place among the registers of a row, or nothing if it is one register."""
    return "" if row.count == 1 else f"number - {row.number:#x}"


def _slot(row: Csr) -> str:
    return row.slot if row.count == 1 else f"{row.slot} + {_place(row)}"


def _reach(row: Csr) -> list[str]:
    """Return the tests without which the register is out of reach: whether it is there, and Smstateen's."""
    lines = []
    if row.needs:
        lines += [f"if S[{row.needs}] == 0:", "    return illegal(S)"]
    if row.stateen:
        lines += [f"if S[PRIV] != 3 and S[MSTATEEN0] & {signed(row.stateen)} == 0:", "    return illegal(S)"]
    return lines


def csr_write() -> str:
    """Return the body of ``csr_write(S, number, value)``."""
    rows = []
    for row in CSRS:
        if row.number >> 10 == 3:
            continue
        place = _place(row)
        if row.write:
            body = [f"return {row.write}(S, {place and place + ', '}value)"]
        else:
            mask, slot = signed(row.mask), _slot(row)
            body = [f"S[{slot}] = (S[{slot}] & {~mask}) | (value & {mask})", "return 0"]
        rows.append((_numbers(row), _reach(row) + body))
    return chain(rows, 1)
