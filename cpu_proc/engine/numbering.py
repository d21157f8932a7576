"""Every instruction gets a number: what a decoded word says it is.

Decoded word: operation 0–9 · rd 10–15 (32 for a discarded x0) · rs1 16–20 · rs2 21–25 · length 26–28 · immediate 32–63.
"""

from __future__ import annotations

from cpu_proc.isa import (  # noqa: F401  # importing a module declares its rows
    hints,
    privileged,
    rv64a,
    rv64b,
    rv64c,
    rv64fd,
    rv64i,
    rv64m,
    zfa,
    zicbo,
    zicond,
)
from cpu_proc.isa.table import TABLE, Instruction, Kind

ILLEGAL = 1  # operation number of whatever no row matches; 0 is a slot not decoded yet
_FIRST = 2
_ORDER = (Kind.VALUE, Kind.BRANCH, Kind.JUMP, Kind.LOAD, Kind.STORE, Kind.RARE, Kind.SYSTEM, Kind.AMO, Kind.FLOAT)
GROUPS = {Kind.RARE: "rare", Kind.SYSTEM: "system", Kind.AMO: "amo", Kind.FLOAT: "floating"}


def numbered() -> list[tuple[int, Instruction]]:
    """Return the instructions with their operation numbers: hot kinds first, each group in one run."""
    rows = sorted(TABLE.instructions, key=lambda row: (_ORDER.index(row.kind), "hsd".index(row.precision)))
    return list(enumerate(rows, _FIRST))


def numbers() -> dict[str, int]:
    """Return operation numbers by name."""
    return {row.name: number for number, row in numbered()}
