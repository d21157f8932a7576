"""Traps and interrupts: what is pending and taken, how a handler is entered (RISC-V privileged §3.1, §10.1; AIA §3).

Guest time is read here too, because half of what is pending depends on it.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.code import fetch_word
from cpu_proc.engine.jit import entry, jit
from cpu_proc.engine.native import call_2, ctz, load_i32, load_i64, udiv, ult
from cpu_proc.engine.posts import collect
from cpu_proc.engine.tlb import fault

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

SIE, MIE, SPIE, MPIE, SPP, FS, MPRV = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 13, 1 << 17
TVM, TW, TSR = 1 << 20, 1 << 21, 1 << 22
SSIP, MSIP, STIP, MTIP, SEIP, MEIP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 9, 1 << 11
STCE = -(1 << 63)
MPP_SHIFT = 11
CLOCK_MONOTONIC = 1


@jit
def now(S):
    """Return guest time in ticks."""
    if S[st.ICOUNT]:
        return udiv(S[st.INSTRET] - S[st.REMAINING] + S[st.ICOUNT_BASE], st.ICOUNT_PER_TICK)
    if load_i32(S[st.CLOCK_RUNNING_HOST]) == 0:
        return udiv(load_i64(S[st.CLOCK_STOPPED_HOST]), st.TICK_NS)
    call_2(S[st.CLOCK_FUNCTION], CLOCK_MONOTONIC, S[st.TIMESPEC_HOST])
    ns = load_i64(S[st.TIMESPEC_HOST]) * 1_000_000_000 + load_i64(S[st.TIMESPEC_HOST] + 8)
    return udiv(ns - load_i64(S[st.CLOCK_OFFSET_HOST]), st.TICK_NS)


@jit
def illegal(S):
    """Raise an illegal-instruction exception; tval is the instruction."""
    word = fetch_word(S, S[st.PC])
    fault(S, 2, word if word >= 0 else 0)
    return 2


@jit
def imsic_top(S, file):
    """Return the lowest pending and enabled identity of the interrupt file that starts at slot ``file``, or 0."""
    threshold = S[file + 1]
    for word in range(4):
        ready = S[file + 2 + word] & S[file + 6 + word]
        if ready != 0:
            identity = word * 64 + ctz(ready)
            return identity if threshold == 0 or identity < threshold else 0
    return 0


@jit
def known_pending(S):
    """Return mip as far as it is known without reading the clock."""
    mip = S[st.MIP] | S[st.LINES] | S[st.TIMER_DUE]
    if S[st.SI_DELIVERY] & 1 and imsic_top(S, st.SI_DELIVERY):
        mip |= SEIP
    if S[st.MI_DELIVERY] & 1 and imsic_top(S, st.MI_DELIVERY):
        mip |= MEIP
    return mip


@entry
def pending(S):
    """Return mip now."""
    collect(S)
    time = now(S)
    due = 0
    if S[st.MENVCFG] & STCE and not ult(time, S[st.STIMECMP]):
        due |= STIP
    if not ult(time, S[st.MTIMECMP]):
        due |= MTIP
    S[st.TIMER_DUE] = due
    return known_pending(S)


@jit
def deliverable(S, mip):
    """Return the interrupts that the hart must take now; those for M mode hide the others."""
    ready = mip & S[st.MIE]
    if ready == 0:
        return 0
    privilege = S[st.PRIV]
    machine = ready & ~S[st.MIDELEG]
    if machine and (privilege < st.M or S[st.MSTATUS] & MIE):
        return machine
    supervisor = ready & S[st.MIDELEG]
    if supervisor and (privilege < st.S or (privilege == st.S and S[st.MSTATUS] & SIE)):
        return supervisor
    return 0


@jit
def highest(mask):
    """Return the number of the interrupt that goes first: external, software, timer; M before S (§3.1.9)."""
    for number in (11, 3, 7, 9, 1, 5):
        if mask >> number & 1:
            return number
    return 0


@jit
def trap(S, cause, tval, interrupt):
    """Enter the handler for ``cause``; ``S[PC]`` is the instruction that trapped."""
    if interrupt:
        S[st.INTERRUPTS] += 1
        delegated = S[st.MIDELEG] >> cause & 1
    else:
        S[st.TRAPS] += 1
        delegated = S[st.MEDELEG] >> cause & 1
    code = cause | (-(1 << 63) if interrupt else 0)
    status = S[st.MSTATUS]
    if delegated and S[st.PRIV] != st.M:
        S[st.SEPC] = S[st.PC]
        S[st.SCAUSE] = code
        S[st.STVAL] = tval
        enabled = SPIE if status & SIE else 0
        S[st.MSTATUS] = (status & ~(SIE | SPIE | SPP)) | enabled | (SPP if S[st.PRIV] == st.S else 0)
        S[st.PRIV] = st.S
        vector = S[st.STVEC]
    else:
        S[st.MEPC] = S[st.PC]
        S[st.MCAUSE] = code
        S[st.MTVAL] = tval
        enabled = MPIE if status & MIE else 0
        S[st.MSTATUS] = (status & ~(MIE | MPIE | 3 << MPP_SHIFT)) | enabled | S[st.PRIV] << MPP_SHIFT
        S[st.PRIV] = st.M
        vector = S[st.MTVEC]
    S[st.PC] = (vector & -4) + (cause * 4 if vector & 1 and interrupt else 0)


@jit
def take_interrupt(S):
    ready = deliverable(S, pending(S))
    if ready:
        trap(S, highest(ready), 0, True)
