"""Traps, interrupts and what the system instructions do (RISC-V privileged §3, §10; AIA §2–3; Sstc).

Functions named ``sys_*`` serve one instruction each. They return 0 when the hart goes on with the next instruction, 1
when ``S[PC]`` and the translation mode were changed, 2 when ``S[EXIT]`` says why the loop has to stop.
"""

from __future__ import annotations

from cpu_proc.engine import mmu
from cpu_proc.engine import state as st
from cpu_proc.engine.jit import entry, jit
from cpu_proc.engine.native import (
    call_2,
    cas_32,
    cas_64,
    ctz,
    fence,
    load_i32,
    load_i64,
    store_64,
    udiv,
    ult,
)
from cpu_proc.isa.csr import MSTATUS_MASK, S_INTERRUPTS, SSTATUS_MASK, SSTATUS_VIEW

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"
# ruff: noqa: PLR1714


SIE, MIE, SPIE, MPIE, SPP, FS, MPRV = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 13, 1 << 17
TVM, TW, TSR = 1 << 20, 1 << 21, 1 << 22
SSIP, MSIP, STIP, MTIP, SEIP, MEIP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 9, 1 << 11
STCE = -(1 << 63)
SATP_MASK = -(1 << 63) | 0xFFF_FFFF_FFFF  # mode 0 or 8, no address-space identifiers, 44 bits of PPN
MPP_SHIFT = 11
TICK_NS = 100  # the time base is 10 MHz
CLOCK_MONOTONIC = 1


@jit
def now(S):
    """Return guest time in ticks."""
    call_2(S[st.CLOCK_FUNCTION], CLOCK_MONOTONIC, S[st.TIMESPEC_HOST])
    ns = load_i64(S[st.TIMESPEC_HOST]) * 1_000_000_000 + load_i64(S[st.TIMESPEC_HOST] + 8)
    return udiv(ns - load_i64(S[st.CLOCK_OFFSET_HOST]), TICK_NS)


@jit
def illegal(S):
    """Raise an illegal-instruction exception; tval is the instruction."""
    word = mmu.fetch_word(S, S[st.PC])
    mmu.fault(S, 2, word if word >= 0 else 0)
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
    mmu.flush_fetches(S)
    return reload(S, w)


@jit
def sys_ecall(S, w):
    if S[st.PRIV] == st.S and S[st.BUILTIN_SBI]:
        S[st.PC] = next_pc(S, w)
        S[st.EXIT] = st.EXIT_SBI
        return 2
    mmu.fault(S, 8 + S[st.PRIV], 0)
    return 2


@jit
def sys_ebreak(S):
    mmu.fault(S, 3, S[st.PC])
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
    if w >> 16 & 31 and S[st.SUPERPAGES] & mmu.half(va) == 0:
        mmu.flush_page(S, va)
    else:  # a superpage has entries for each of its pages
        mmu.flush_tlb(S)
    return reload(S, w)


@jit
def sys_lr(S, X, w, size):
    va = load_i64(X + (w >> 13 & 0xF8))
    host = mmu.host_for_atomic(S, va, size, mmu.LOAD)
    if host == 0:
        return 2
    value = load_i32(host) if size == 4 else load_i64(host)
    fence(0)
    S[st.RESERVATION] = va | size >> 3  # an aligned address leaves room to say which width
    S[st.RESERVED_VALUE] = value
    store_64(X + (w >> 7 & 0x1F8), value)
    return 0


@jit
def sys_sc(S, X, w, size):
    va = load_i64(X + (w >> 13 & 0xF8))
    value = load_i64(X + (w >> 18 & 0xF8))
    host = mmu.host_for_atomic(S, va, size, mmu.STORE)
    if host == 0:
        return 2
    failed = 1
    if S[st.RESERVATION] == va | size >> 3:
        expected = S[st.RESERVED_VALUE]
        old = cas_32(host, expected, value) if size == 4 else cas_64(host, expected, value)
        failed = 0 if old == expected else 1
    S[st.RESERVATION] = -1
    store_64(X + (w >> 7 & 0x1F8), failed)
    return 0


# Control and status registers with more than storage behind them; named by the rows of isa/csr.py.


@jit
def read_zero(S):
    return 0


@jit
def write_nothing(S, value):
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
    return retired(S) - 1


@jit
def write_minstret(S, value):
    """The next instruction reads what was written (privileged §3.1.11); mcycle goes on as it was."""
    S[st.CYCLE_BASE] += retired(S) - value
    S[st.INSTRET] = value + S[st.REMAINING]
    return 0


@jit
def read_mcycle(S):
    return read_minstret(S) + S[st.CYCLE_BASE]


@jit
def write_mcycle(S, value):
    S[st.CYCLE_BASE] = value - retired(S)
    return 0


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
    if (S[st.MSTATUS] ^ value) & mmu.MSTATUS_MXR:
        mmu.flush_tlb(S)
    S[st.MSTATUS] = value
    return 1


@jit
def read_sstatus(S):
    return read_mstatus(S) & SSTATUS_VIEW


@jit
def write_sstatus(S, value):
    changed = (S[st.MSTATUS] ^ value) & SSTATUS_MASK
    S[st.MSTATUS] ^= changed
    if changed & (mmu.MSTATUS_MXR):
        mmu.flush_tlb(S)
    return 1 if changed & (mmu.MSTATUS_MXR | mmu.MSTATUS_SUM) or (changed & SIE and value & SIE) else 0


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
    if mode == 0 or mode == 8:  # an unsupported mode leaves satp as it is (§10.1.11)
        S[st.SATP] = value & SATP_MASK
        mmu.flush_tlb(S)
    return 1


@jit
def read_indirect(S, select, file):
    """Read through siselect or miselect (AIA §2.1): priorities read as zero, the IMSIC's registers as they are."""
    if 0x30 <= select <= 0x3F and select & 1 == 0:
        return 0
    if S[st.IMSIC_PRESENT] == 0:
        return illegal(S)
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
    if S[st.IMSIC_PRESENT] == 0:
        return illegal(S)
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
def read_sireg(S):
    return read_indirect(S, S[st.SISELECT], st.SI_DELIVERY)


@jit
def write_sireg(S, value):
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
