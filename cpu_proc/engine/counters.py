"""Counters: cycles and instructions retired, time, and those that count nothing (RISC-V privileged §3.1.10–3.1.12)."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.traps import illegal, now

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

CYCLE, INSTRET = 1, 4  # bits of mcountinhibit


@jit
def counter_allowed(S, bit):
    if S[st.PRIV] != st.M and S[st.MCOUNTEREN] >> bit & 1 == 0:
        return False
    return S[st.PRIV] != st.U or S[st.SCOUNTEREN] >> bit & 1 != 0


@jit
def retired(S):
    """Return the instructions retired when the present one is through."""
    return S[st.INSTRET] - S[st.REMAINING]


@jit
def read_minstret(S):
    if S[st.MCOUNTINHIBIT] & INSTRET:
        return S[st.MINSTRET_BASE]
    return retired(S) - 1 + S[st.MINSTRET_BASE]


@jit
def write_minstret(S, value):
    """The next instruction reads what was written (privileged §3.1.11)."""
    S[st.MINSTRET_BASE] = value if S[st.MCOUNTINHIBIT] & INSTRET else value - retired(S)
    return 0


@jit
def read_mcycle(S):
    if S[st.MCOUNTINHIBIT] & CYCLE:
        return S[st.MCYCLE_BASE]
    return retired(S) - 1 + S[st.MCYCLE_BASE]


@jit
def write_mcycle(S, value):
    S[st.MCYCLE_BASE] = value if S[st.MCOUNTINHIBIT] & CYCLE else value - retired(S)
    return 0


@jit
def write_mcountinhibit(S, value):
    """Stop or go on with mcycle and minstret: while one stands, its base slot holds the value itself (§3.1.12)."""
    changed = (S[st.MCOUNTINHIBIT] ^ value) & (CYCLE | INSTRET)
    cycles, instructions = read_mcycle(S) + 1, read_minstret(S) + 1
    S[st.MCOUNTINHIBIT] ^= changed
    if changed & CYCLE:
        write_mcycle(S, cycles)
    if changed & INSTRET:
        write_minstret(S, instructions)
    return 0


@jit
def read_hpmcounter(S, place):
    return 0 if counter_allowed(S, 3 + place) else illegal(S)


@jit
def read_cycle(S):
    if not counter_allowed(S, 0):
        return illegal(S)
    return read_mcycle(S)


@jit
def read_time(S):
    if not counter_allowed(S, 1):
        return illegal(S)
    return now(S)


@jit
def read_instret(S):
    if not counter_allowed(S, 2):
        return illegal(S)
    return read_minstret(S)
