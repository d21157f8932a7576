"""Division as RISC-V defines it for every operand: never a trap (unprivileged §13.2, table 11)."""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import sdiv, srem, udiv, urem

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"


@jit
def divide(a, b):
    if b == 0:
        return -1
    if b == -1:  # the one overflow wraps to the dividend
        return 0 - a
    return sdiv(a, b)


@jit
def divide_unsigned(a, b):
    return -1 if b == 0 else udiv(a, b)


@jit
def remainder(a, b):
    if b == 0:
        return a
    if b == -1:
        return 0
    return srem(a, b)


@jit
def remainder_unsigned(a, b):
    return a if b == 0 else urem(a, b)
