"""Registers of the advanced interrupt architecture, and the interrupt files behind them (AIA §2, §3)."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.traps import highest, illegal, imsic_top, pending
from cpu_proc.isa.csr import STATEEN_AIA, STATEEN_IMSIC

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def read_indirect(S, select, file):
    """Read through siselect or miselect (AIA §2.1): priorities read as zero, the IMSIC's registers as they are."""
    if 0x30 <= select <= 0x3F and select & 1 == 0:
        return 0
    if select == 0x70:
        return S[file]
    if select == 0x72:
        return S[file + 1]
    if 0x80 <= select <= 0xFF and select & 1 == 0:
        index = (select & 0x3F) >> 1
        if index >= 4:
            return 0
        return S[file + (2 if select < 0xC0 else 6) + index]
    return illegal(S)


@jit
def write_indirect(S, select, file, value):
    if 0x30 <= select <= 0x3F and select & 1 == 0:
        return 0
    if select == 0x70:
        S[file] = value & 1
    elif select == 0x72:
        S[file + 1] = value & 0xFF
    elif 0x80 <= select <= 0xFF and select & 1 == 0:
        index = (select & 0x3F) >> 1
        if index < 4:
            S[file + (2 if select < 0xC0 else 6) + index] = value & (~1 if index == 0 else -1)  # identity 0 is none
    else:
        return illegal(S)
    return 1


@jit
def file_hidden(S):
    """Tell whether mstateen0 keeps what siselect names from S mode (AIA §2.1, Smstateen §1.1)."""
    if S[st.PRIV] == st.M:
        return False
    needed = STATEEN_IMSIC if S[st.SISELECT] >= 0x70 else STATEEN_AIA
    return S[st.MSTATEEN0] & needed == 0


@jit
def read_sireg(S):
    if file_hidden(S):
        return illegal(S)
    return read_indirect(S, S[st.SISELECT], st.SI_DELIVERY)


@jit
def write_sireg(S, value):
    if file_hidden(S):
        return illegal(S)
    return write_indirect(S, S[st.SISELECT], st.SI_DELIVERY, value)


@jit
def read_mireg(S):
    return read_indirect(S, S[st.MISELECT], st.MI_DELIVERY)


@jit
def write_mireg(S, value):
    return write_indirect(S, S[st.MISELECT], st.MI_DELIVERY, value)


@jit
def read_topei(S, file):
    identity = imsic_top(S, file)
    return identity << 16 | identity


@jit
def claim_topei(S, file):
    """A write to *topei claims what it reads: the pending bit goes (AIA §3.10)."""
    identity = imsic_top(S, file)
    if identity:
        S[file + 2 + (identity >> 6)] &= ~(1 << (identity & 63))
    return 0


@jit
def read_stopei(S):
    return read_topei(S, st.SI_DELIVERY)


@jit
def write_stopei(S, value):
    return claim_topei(S, st.SI_DELIVERY)


@jit
def read_mtopei(S):
    return read_topei(S, st.MI_DELIVERY)


@jit
def write_mtopei(S, value):
    return claim_topei(S, st.MI_DELIVERY)


@jit
def read_stopi(S):
    ready = pending(S) & S[st.MIE] & S[st.MIDELEG]
    return highest(ready) << 16 | 1 if ready else 0


@jit
def read_mtopi(S):
    ready = pending(S) & S[st.MIE] & ~S[st.MIDELEG]
    return highest(ready) << 16 | 1 if ready else 0
