"""Control and status registers with more than storage behind them, named by the rows of ``isa.csr``.

A read returns the value; a write returns 1 when translation or interrupts may have changed, else 0. Either raises an
illegal-instruction exception where the register is out of reach (RISC-V privileged §2, §3.1, §10.1; AIA §2; Sstc).
"""

from __future__ import annotations

from cpu_proc.engine import pmp, tlb
from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.traps import (
    FS,
    MPP_SHIFT,
    SEIP,
    SIE,
    SSIP,
    STCE,
    STIP,
    TVM,
    illegal,
    pending,
)
from cpu_proc.isa.csr import (
    ENVCFG_MASK,
    MENVCFG_MASK,
    MSTATUS_MASK,
    S_INTERRUPTS,
    SSTATUS_MASK,
    SSTATUS_VIEW,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

SATP_MASK = -(1 << 60) | 0xFFF_FFFF_FFFF  # no address-space identifiers, 44 bits of PPN


@jit
def read_zero(S):
    return 0


@jit
def write_nothing(S, value):
    return 0


@jit
def read_nothing(S, place):
    return 0


@jit
def write_none(S, place, value):
    return 0


@jit
def float_off(S):
    if S[st.MSTATUS] & FS:
        return False
    illegal(S)
    return True


@jit
def read_fflags(S):
    return 0 if float_off(S) else S[st.FFLAGS]


@jit
def write_fflags(S, value):
    if not float_off(S):
        S[st.FFLAGS] = value & 31
        S[st.MSTATUS] |= FS
    return 0


@jit
def read_frm(S):
    return 0 if float_off(S) else S[st.FRM]


@jit
def write_frm(S, value):
    if not float_off(S):
        S[st.FRM] = value & 7
        S[st.MSTATUS] |= FS
    return 0


@jit
def read_fcsr(S):
    return 0 if float_off(S) else S[st.FRM] << 5 | S[st.FFLAGS]


@jit
def write_fcsr(S, value):
    if not float_off(S):
        S[st.FFLAGS] = value & 31
        S[st.FRM] = value >> 5 & 7
        S[st.MSTATUS] |= FS
    return 0


@jit
def read_mstatus(S):
    status = S[st.MSTATUS] | 0xA << 32  # UXL and SXL: 64 bit
    return status | -(1 << 63) if status & FS == FS else status


@jit
def write_mstatus(S, value):
    kept = S[st.MSTATUS] & ~MSTATUS_MASK
    if value >> MPP_SHIFT & 3 == 2:  # WARL: there is no hypervisor
        value &= ~(3 << MPP_SHIFT)
    value = kept | (value & MSTATUS_MASK)
    if (S[st.MSTATUS] ^ value) & tlb.MSTATUS_MXR:
        tlb.flush_tlb(S)
    S[st.MSTATUS] = value
    return 1


@jit
def read_sstatus(S):
    return read_mstatus(S) & SSTATUS_VIEW


@jit
def write_sstatus(S, value):
    changed = (S[st.MSTATUS] ^ value) & SSTATUS_MASK
    S[st.MSTATUS] ^= changed
    if changed & (tlb.MSTATUS_MXR):
        tlb.flush_tlb(S)
    return 1 if changed & (tlb.MSTATUS_MXR | tlb.MSTATUS_SUM) or (changed & SIE and value & SIE) else 0


@jit
def read_misa(S):
    return -(1 << 63) | 0x14112D  # A C D F I M S U


@jit
def read_mip(S):
    return pending(S)


@jit
def write_mip(S, value):
    writable = SSIP | SEIP | (0 if S[st.MENVCFG] & STCE else STIP)
    S[st.MIP] = (S[st.MIP] & ~writable) | (value & writable)
    return 1


@jit
def read_sie(S):
    return S[st.MIE] & S[st.MIDELEG]


@jit
def write_sie(S, value):
    S[st.MIE] = (S[st.MIE] & ~S[st.MIDELEG]) | (value & S[st.MIDELEG] & S_INTERRUPTS)
    return 1


@jit
def read_sip(S):
    return pending(S) & S[st.MIDELEG]


@jit
def write_sip(S, value):
    writable = SSIP & S[st.MIDELEG]
    S[st.MIP] = (S[st.MIP] & ~writable) | (value & writable)
    return 1


@jit
def read_mvip(S):
    """With mvien zero, mvip is another view of the software bits of mip (AIA §5.3)."""
    return S[st.MIP] & (SSIP | SEIP | (0 if S[st.MENVCFG] & STCE else STIP))


@jit
def read_sstateen(S, place):
    """Nothing of U mode's is controlled here; whether S mode may look is (Smstateen §2)."""
    if S[st.PRIV] != st.M and S[st.MSTATEEN0 + place] >= 0:
        return illegal(S)
    return 0


@jit
def write_sstateen(S, place, value):
    return read_sstateen(S, place) & 0


@jit
def write_pmpcfg0(S, value):
    return pmp.write_config(S, 0, value)


@jit
def write_pmpcfg2(S, value):
    return pmp.write_config(S, 1, value)


@jit
def write_pmpaddr(S, place, value):
    return pmp.write_address(S, place, value)


@jit
def environment(old, value, mask):
    """Return what an envcfg register holds after a write: CBIE 2 is reserved, and changes nothing (CMO §4)."""
    if value >> 4 & 3 == 2:
        value = value & ~(3 << 4) | old & 3 << 4
    return value & mask


@jit
def write_menvcfg(S, value):
    S[st.MENVCFG] = environment(S[st.MENVCFG], value, MENVCFG_MASK)
    return 0


@jit
def write_senvcfg(S, value):
    S[st.SENVCFG] = environment(S[st.SENVCFG], value, ENVCFG_MASK)
    return 0


@jit
def timer_allowed(S):
    return S[st.PRIV] == st.M or (S[st.MENVCFG] & STCE != 0 and S[st.MCOUNTEREN] & 2 != 0)


@jit
def read_stimecmp(S):
    if not timer_allowed(S):
        return illegal(S)
    return S[st.STIMECMP]


@jit
def write_stimecmp(S, value):
    if not timer_allowed(S):
        return illegal(S)
    S[st.STIMECMP] = value
    S[st.TIMER_DUE] &= ~STIP
    return 0


@jit
def read_satp(S):
    if S[st.PRIV] == st.S and S[st.MSTATUS] & TVM:
        return illegal(S)
    return S[st.SATP]


@jit
def write_satp(S, value):
    if S[st.PRIV] == st.S and S[st.MSTATUS] & TVM:
        return illegal(S)
    mode = value >> 60 & 15
    if mode in (0, 8, 9, 10):  # an unsupported mode leaves satp as it is (§12.1.11)
        S[st.SATP] = value & SATP_MASK
        tlb.flush_tlb(S)
    return 1
