"""What the system instructions do (RISC-V privileged §3.3, §10.2; unprivileged §14).

Functions named ``sys_*`` serve one instruction each. They return 0 when the hart goes on with the next instruction, 1
when ``S[PC]`` and the translation mode were changed, 2 when ``S[EXIT]`` says why the loop has to stop.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine import tlb
from cpu_proc.engine.access import host_for_atomic
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import cas_32, cas_64, fence, load_i32, load_i64, store_64
from cpu_proc.engine.traps import (
    MIE,
    MPIE,
    MPP_SHIFT,
    MPRV,
    SIE,
    SPIE,
    SPP,
    TSR,
    TVM,
    TW,
    deliverable,
    illegal,
    known_pending,
    pending,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def next_pc(S, w):
    """Return the address of the following instruction."""
    return S[st.PC] + (w >> 26 & 7)


@jit
def reload(S, w):
    """Go on with the next instruction under a changed mode; end the slice if an interrupt is due."""
    S[st.PC] = next_pc(S, w)
    if deliverable(S, known_pending(S)):
        S[st.REMAINING] = 0
    return 1


@jit
def sys_fence(S):
    fence(0)
    return 0


@jit
def sys_fence_i(S, w):
    S[st.GENERATION] += 1
    tlb.flush_fetches(S)
    return reload(S, w)


@jit
def sys_ecall(S, w):
    if S[st.PRIV] == st.S and S[st.BUILTIN_SBI]:
        S[st.PC] = next_pc(S, w)
        S[st.EXIT] = st.EXIT_SBI
        return 2
    tlb.fault(S, 8 + S[st.PRIV], 0)
    return 2


@jit
def sys_ebreak(S):
    tlb.fault(S, 3, S[st.PC])
    return 2


@jit
def sys_sret(S):
    if S[st.PRIV] == st.U or (S[st.PRIV] == st.S and S[st.MSTATUS] & TSR):
        return illegal(S)
    status = S[st.MSTATUS]
    S[st.PRIV] = st.S if status & SPP else st.U
    enabled = SIE if status & SPIE else 0
    S[st.MSTATUS] = (status & ~(SIE | SPP | MPRV)) | SPIE | enabled
    S[st.PC] = S[st.SEPC]
    if deliverable(S, known_pending(S)):
        S[st.REMAINING] = 0
    return 1


@jit
def sys_mret(S):
    if S[st.PRIV] != st.M:
        return illegal(S)
    status = S[st.MSTATUS]
    S[st.PRIV] = status >> MPP_SHIFT & 3
    enabled = MIE if status & MPIE else 0
    S[st.MSTATUS] = (status & ~(MIE | 3 << MPP_SHIFT)) | MPIE | enabled
    if S[st.PRIV] != st.M:
        S[st.MSTATUS] &= ~MPRV
    S[st.PC] = S[st.MEPC]
    if deliverable(S, known_pending(S)):
        S[st.REMAINING] = 0
    return 1


@jit
def sys_wfi(S, w):
    if S[st.PRIV] == st.U or (S[st.PRIV] == st.S and S[st.MSTATUS] & TW):
        return illegal(S)
    if pending(S) & S[st.MIE]:
        return reload(S, w)
    S[st.PC] = next_pc(S, w)
    S[st.EXIT] = st.EXIT_WFI
    return 2


@jit
def sys_sfence_vma(S, X, w):
    if S[st.PRIV] == st.U or (S[st.PRIV] == st.S and S[st.MSTATUS] & TVM):
        return illegal(S)
    va = load_i64(X + (w >> 13 & 0xF8))
    if w >> 16 & 31 and tlb.in_superpage(S, va) == 0:
        tlb.flush_page(S, va)
    else:  # a superpage has entries for each of its pages
        tlb.flush_tlb(S)
    return reload(S, w)


@jit
def sys_sfence_inval(S):
    return illegal(S) if S[st.PRIV] == st.U else 0


@jit
def sys_lr(S, X, w, size):
    va = load_i64(X + (w >> 13 & 0xF8))
    host = host_for_atomic(S, va, size, tlb.LOAD)
    if host == 0:
        return 2
    value = load_i32(host) if size == 4 else load_i64(host)
    fence(0)
    S[st.RESERVATION] = host - S[st.RAM_HOST] | size >> 3  # an aligned place leaves room to say which width
    S[st.RESERVED_VALUE] = value
    store_64(X + (w >> 7 & 0x1F8), value)
    return 0


@jit
def sys_sc(S, X, w, size):
    va = load_i64(X + (w >> 13 & 0xF8))
    value = load_i64(X + (w >> 18 & 0xF8))
    host = host_for_atomic(S, va, size, tlb.STORE)
    if host == 0:
        return 2
    failed = 1
    if S[st.RESERVATION] == host - S[st.RAM_HOST] | size >> 3:
        expected = S[st.RESERVED_VALUE]
        old = cas_32(host, expected, value) if size == 4 else cas_64(host, expected, value)
        failed = 0 if old == expected else 1
    S[st.RESERVATION] = -1
    store_64(X + (w >> 7 & 0x1F8), failed)
    return 0
