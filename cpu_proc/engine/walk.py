"""From virtual to physical addresses: Sv39, Sv48 and Sv57 with Svnapot, Svpbmt and Svadu (RISC-V privileged §12)."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import cas_64, load_i64, shr
from cpu_proc.engine.pmp import permitted
from cpu_proc.engine.tlb import (
    ACCESS_FAULT,
    FETCH,
    LOAD,
    MSTATUS_MXR,
    MSTATUS_SUM,
    PAGE_FAULT,
    STORE,
    effective_privilege,
    fault,
    in_ram,
    note_superpage,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

ENVCFG_ADUE = 1 << 61
ENVCFG_PBMTE = 1 << 62

PTE_V, PTE_R, PTE_W, PTE_X, PTE_U, PTE_G, PTE_A, PTE_D = (1 << i for i in range(8))
PTE_RESERVED = 0x7F << 54
PTE_PBMT_SHIFT = 61
PTE_N = -(1 << 63)
PPN = 0xFFF_FFFF_FFFF

AGAIN = -2  # another hart changed the entry under the walk


@jit
def translate(S, va, access):
    """Return the physical address of ``va``, or NOWHERE after recording a page or access fault."""
    privilege = effective_privilege(S, access)
    satp = S[st.SATP]
    S[st.WRITABLE] = 1
    if privilege == st.M or shr(satp, 60) == 0:
        return va
    S[st.WALKS] += 1
    levels = shr(satp, 60) - 5  # modes 8, 9, 10: three, four, five
    unused = 52 - 9 * levels
    if (va << unused) >> unused != va:  # the bits above the address must be copies of its highest
        return fault(S, PAGE_FAULT[access], va)
    while True:
        pa = walk(S, va, access, privilege, levels)
        if pa != AGAIN:
            return pa


@jit
def walk(S, va, access, privilege, levels):
    """Go through the tables once."""
    table = (S[st.SATP] & PPN) << 12
    level = levels - 1
    while level >= 0:
        slot = table + ((va >> (12 + 9 * level)) & 511) * 8
        if not in_ram(S, slot, 8) or not permitted(S, slot, 8, LOAD, st.S):
            return fault(S, ACCESS_FAULT[access], va)
        host = S[st.RAM_HOST] + slot - S[st.RAM_BASE]
        pte = load_i64(host)
        if pte & PTE_V == 0 or pte & (PTE_R | PTE_W) == PTE_W or pte & PTE_RESERVED != 0:
            return fault(S, PAGE_FAULT[access], va)
        if pte & (PTE_R | PTE_X) != 0:
            return leaf(S, va, access, privilege, level, pte, slot)
        if pte & (PTE_U | PTE_A | PTE_D) != 0 or pte >> PTE_PBMT_SHIFT != 0:  # reserved in a pointer
            return fault(S, PAGE_FAULT[access], va)
        table = ((pte >> 10) & PPN) << 12
        level -= 1
    return fault(S, PAGE_FAULT[access], va)


@jit
def leaf(S, va, access, privilege, level, pte, slot):
    """Check a leaf's form and permissions, set A and D, return the physical address."""
    if pte & PTE_U:
        if privilege == st.S and (access == FETCH or S[st.MSTATUS] & MSTATUS_SUM == 0):
            return fault(S, PAGE_FAULT[access], va)
    elif privilege == st.U:
        return fault(S, PAGE_FAULT[access], va)
    if access == FETCH:
        allowed = pte & PTE_X
    elif access == STORE:
        allowed = pte & PTE_W
    else:
        allowed = pte & PTE_R
        if S[st.MSTATUS] & MSTATUS_MXR:
            allowed |= pte & PTE_X
    if allowed == 0:
        return fault(S, PAGE_FAULT[access], va)
    memory_type = pte >> PTE_PBMT_SHIFT & 3
    if memory_type == 3 or (memory_type != 0 and S[st.MENVCFG] & ENVCFG_PBMTE == 0):
        return fault(S, PAGE_FAULT[access], va)
    ppn = (pte >> 10) & PPN
    below = (1 << (9 * level)) - 1  # the low bits of the page number that come from the address
    if pte & PTE_N:
        if level != 0 or ppn & 15 != 8:  # the one size there is: 64 KiB
            return fault(S, PAGE_FAULT[access], va)
        below = 15
        ppn &= ~15
    if ppn & below != 0:  # a superpage must be aligned
        return fault(S, PAGE_FAULT[access], va)
    wanted = pte | PTE_A | (PTE_D if access == STORE else 0)
    if wanted != pte:
        # Svadu when menvcfg.ADUE is set, else the fault that Svade asks for
        if S[st.MENVCFG] & ENVCFG_ADUE == 0:
            return fault(S, PAGE_FAULT[access], va)
        if not permitted(S, slot, 8, STORE, st.S):
            return fault(S, ACCESS_FAULT[access], va)
        if cas_64(S[st.RAM_HOST] + slot - S[st.RAM_BASE], pte, wanted) != pte:
            return AGAIN
    S[st.WRITABLE] = 1 if wanted & PTE_W and wanted & PTE_D else 0
    if below != 0:
        note_superpage(S, va, level)
    return ((ppn | ((va >> 12) & below)) << 12) | (va & 0xFFF)
