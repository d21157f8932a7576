"""Cache-block operations: permission by menvcfg and senvcfg, then the checks of an access (CMO §1.4, §2)."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.access import checked, keep, tag_of
from cpu_proc.engine.debug import watched
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import load_i64, store_64
from cpu_proc.engine.tlb import ACCESS_FAULT, LOAD, STORE, data_entry, fault
from cpu_proc.engine.traps import illegal
from cpu_proc.engine.windows import memory_host

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

BLOCK = st.CACHE_BLOCK
CBIE, CBCFE, CBZE = 3 << 4, 1 << 6, 1 << 7


@jit
def enabled(S, bits):
    """Return the bits of menvcfg, and in U mode of senvcfg too, that stand in the way of nothing."""
    if S[st.PRIV] == st.M:
        return bits
    allowed = S[st.MENVCFG] & bits
    return allowed & S[st.SENVCFG] if S[st.PRIV] == st.U else allowed


@jit
def manage(S, va):
    """Check a block that is neither read nor changed: permission to load or to store is enough (CMO §2.5.2)."""
    pa = checked(S, va & -BLOCK, BLOCK, LOAD)
    if S[st.EXIT] == st.EXIT_TRAP:
        S[st.EXIT] = 0
        pa = checked(S, va & -BLOCK, BLOCK, STORE)
    if S[st.EXIT] == 0 and memory_host(S, pa, BLOCK, LOAD) == 0:
        fault(S, ACCESS_FAULT[STORE], va)
    if S[st.EXIT] == 0:
        return 0
    S[st.TVAL] = va  # the address of the operand, not of the block
    return 2


@jit
def sys_cbo_inval(S, X, w):
    if enabled(S, CBIE) == 0:
        return illegal(S)
    return manage(S, load_i64(X + (w >> 13 & 0xF8)))


@jit
def sys_cbo_clean(S, X, w):
    if enabled(S, CBCFE) == 0:
        return illegal(S)
    return manage(S, load_i64(X + (w >> 13 & 0xF8)))


@jit
def zero(host):
    for offset in range(0, BLOCK, 8):
        store_64(host + offset, 0)


@jit
def sys_cbo_zero(S, X, w):
    if enabled(S, CBZE) == 0:
        return illegal(S)
    va = load_i64(X + (w >> 13 & 0xF8))
    if tag_of(S, va, STORE) == va & -4096:
        zero(load_i64(data_entry(S, va, STORE) + st.DATA_ADDEND) + (va & -BLOCK))
        return 0
    pa = checked(S, va & -BLOCK, BLOCK, STORE)
    host = memory_host(S, pa, BLOCK, STORE)
    if S[st.EXIT] == 0 and host == 0:
        fault(S, ACCESS_FAULT[STORE], va)
    if S[st.EXIT] != 0:
        S[st.TVAL] = va  # the address of the operand, not of the block
        return 2
    if S[st.WATCHES] and watched(S, va & -BLOCK, BLOCK, st.WATCH_STORES):
        return 2
    keep(S, va & -BLOCK, pa, host, STORE)
    zero(host)
    return 0
