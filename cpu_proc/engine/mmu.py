"""Address translation and every access that misses the fast path (RISC-V privileged §10.3, Sv39).

Three outcomes of a slow access: done; a trap (``S[EXIT]`` = trap, cause and tval set); or a stop in which Python serves
the device (``S[EXIT]`` = mmio). After the latter the instruction runs again and finds its answer in
``S[MMIO_DONE]``, so that no instruction needs a second half.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import (
    call_3,
    cas_64,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    shr,
    store_8,
    store_16,
    store_32,
    store_64,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


FETCH, LOAD, STORE = 0, 1, 2
PAGE_FAULT = (12, 13, 15)
ACCESS_FAULT = (1, 5, 7)

MSTATUS_MPRV = 1 << 17
MSTATUS_SUM = 1 << 18
MSTATUS_MXR = 1 << 19
ENVCFG_ADUE = 1 << 61

PTE_V, PTE_R, PTE_W, PTE_X, PTE_U, PTE_G, PTE_A, PTE_D = (1 << i for i in range(8))
PTE_RESERVED = -(1 << 54)  # N, PBMT and the reserved bits: Svnapot and Svpbmt are not implemented

NOWHERE = -1  # no physical address: a trap was recorded


@jit
def fault(S, cause, tval):
    S[st.EXIT] = st.EXIT_TRAP
    S[st.CAUSE] = cause
    S[st.TVAL] = tval
    return NOWHERE


@jit
def effective_privilege(S, access):
    if access != FETCH and S[st.MSTATUS] & MSTATUS_MPRV:
        return (S[st.MSTATUS] >> 11) & 3
    return S[st.PRIV]


@jit
def tlb_mode(S, access):
    """Offset into the TLB (in entries) for this kind of access in the present mode."""
    privilege = effective_privilege(S, access)
    if privilege == st.U:
        return 0
    if privilege == st.M:
        return 3 * st.TLB_ENTRIES
    return 2 * st.TLB_ENTRIES if access != FETCH and S[st.MSTATUS] & MSTATUS_SUM else st.TLB_ENTRIES


@jit
def flush_tlb(S):
    """Forget all translations."""
    base = S[st.TLB_HOST]
    for i in range(0, st.TLB_WORDS, 2):
        store_64(base + i * 8, -1)
    flush_crossings(S)
    for i in range(st.GIGA_PLACES, st.SIZE):
        S[i] = 0


@jit
def flush_crossings(S):
    """Forget the instructions that lie across two pages."""
    for i in range(st.CROSSINGS):
        store_64(S[st.CROSSING_HOST] + i * 16, -1)


@jit
def flush_fetches(S):
    """Forget where decoded pages are, so that each is looked at again."""
    base = S[st.TLB_HOST]
    for i in range(st.TLB_FETCHES, st.TLB_WORDS, 2):
        store_64(base + i * 8, -1)
    flush_crossings(S)


@jit
def flush_page(S, va):
    """Forget the translations of one page in every mode."""
    entry = (va >> 12) & (st.TLB_ENTRIES - 1)
    for i in range(3 * st.TLB_MODES):
        store_64(S[st.TLB_HOST] + (i * st.TLB_ENTRIES + entry) * 16, -1)
    flush_crossings(S)


@jit
def in_ram(S, pa, size):
    offset = pa - S[st.RAM_BASE]
    return offset >= 0 and offset <= S[st.RAM_SIZE] - size


@jit
def translate(S, va, access):
    """Return the physical address of ``va``, or NOWHERE after recording a page or access fault."""
    privilege = effective_privilege(S, access)
    satp = S[st.SATP]
    if privilege == st.M or shr(satp, 60) == 0:
        return va
    S[st.WALKS] += 1
    if (va << 25) >> 25 != va:  # Sv39: bits 63 to 38 all alike
        return fault(S, PAGE_FAULT[access], va)
    table = (satp & 0xFFF_FFFF_FFFF) << 12
    level = 2
    while level >= 0:
        slot = table + ((va >> (12 + 9 * level)) & 511) * 8
        if not in_ram(S, slot, 8):
            return fault(S, ACCESS_FAULT[access], va)
        host = S[st.RAM_HOST] + slot - S[st.RAM_BASE]
        pte = load_i64(host)
        if pte & PTE_V == 0 or pte & (PTE_R | PTE_W) == PTE_W or pte & PTE_RESERVED != 0:
            return fault(S, PAGE_FAULT[access], va)
        if pte & (PTE_R | PTE_X) == 0:
            if pte & (PTE_U | PTE_A | PTE_D) != 0:  # reserved in a pointer to the next level
                return fault(S, PAGE_FAULT[access], va)
            table = ((pte >> 10) & 0xFFF_FFFF_FFFF) << 12
            level -= 1
            continue
        return leaf(S, va, access, privilege, level, pte, host)
    return fault(S, PAGE_FAULT[access], va)


@jit
def mega_place(va):
    """Return the number of the bit for the 2 MiB around ``va``."""
    return (va >> 21 ^ va >> 30) & (st.MEGA_WORDS * 64 - 1)


@jit
def in_superpage(S, va):
    """Tell whether the TLB may hold ``va`` through a superpage, and so under the other addresses of it."""
    mega = S[st.MEGA_PLACES + (mega_place(va) >> 6)] >> (mega_place(va) & 63)
    giga = S[st.GIGA_PLACES + (va >> 36 & 7)] >> (va >> 30 & 63)
    return (mega | giga) & 1


@jit
def leaf(S, va, access, privilege, level, pte, host):
    """Check a leaf's permissions, set A and D, return the physical address."""
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
    if level == 1:
        S[st.MEGA_PLACES + (mega_place(va) >> 6)] |= 1 << (mega_place(va) & 63)
    elif level == 2:
        S[st.GIGA_PLACES + (va >> 36 & 7)] |= 1 << (va >> 30 & 63)
    below = (1 << (9 * level)) - 1
    ppn = (pte >> 10) & 0xFFF_FFFF_FFFF
    if ppn & below != 0:  # a superpage must be aligned
        return fault(S, PAGE_FAULT[access], va)
    wanted = pte | PTE_A | (PTE_D if access == STORE else 0)
    # Svadu when menvcfg.ADUE is set, else the fault that Svade asks for
    if wanted != pte and (S[st.MENVCFG] & ENVCFG_ADUE == 0 or cas_64(host, pte, wanted) != pte):
        return fault(S, PAGE_FAULT[access], va)
    return ((ppn | ((va >> 12) & below)) << 12) | (va & 0xFFF)


@jit
def fill(S, va, pa, access):
    """Enter a RAM page into the TLB; a store entry only after a store walk, so that D is set."""
    page = va & -4096
    part = st.TLB_LOADS if access == LOAD else st.TLB_STORES
    slot = S[st.TLB_HOST] + (part + (((va >> 12) & (st.TLB_ENTRIES - 1)) + tlb_mode(S, access)) * 2) * 8
    store_64(slot + 8, S[st.RAM_HOST] + (pa & -4096) - S[st.RAM_BASE] - page)
    store_64(slot, page)


@jit
def peek(host, size):
    if size == 8:
        return load_i64(host)
    if size == 4:
        return load_i32(host)
    if size == 2:
        return load_i16(host)
    return load_i8(host)


@jit
def poke(host, size, value):
    if size == 8:
        store_64(host, value)
    elif size == 4:
        store_32(host, value)
    elif size == 2:
        store_16(host, value)
    else:
        store_8(host, value)


@jit
def load_slow(S, va, size):
    """Load ``size`` bytes, sign-extended; look at ``S[EXIT]`` afterwards."""
    if (va & 0xFFF) + size > 4096:
        return load_split(S, va, size)
    pa = translate(S, va, LOAD)
    if S[st.EXIT] != 0:
        return 0
    if in_ram(S, pa, size):
        fill(S, va, pa, LOAD)
        return peek(S[st.RAM_HOST] + pa - S[st.RAM_BASE], size)
    value = device_load(S, va, pa, size)
    bits = 64 - size * 8
    return (value << bits) >> bits


@jit
def load_split(S, va, size):
    """Load across a page boundary byte by byte; both pages must be RAM."""
    value = 0
    for i in range(size):
        pa = translate(S, va + i, LOAD)
        if S[st.EXIT] != 0:
            S[st.TVAL] = va + i
            return 0
        if not in_ram(S, pa, 1):
            fault(S, ACCESS_FAULT[LOAD], va)
            return 0
        value |= load_u8(S[st.RAM_HOST] + pa - S[st.RAM_BASE]) << (8 * i)
    bits = 64 - size * 8
    return (value << bits) >> bits


@jit
def store_slow(S, va, size, value):
    """Store ``size`` bytes; look at ``S[EXIT]`` afterwards."""
    if (va & 0xFFF) + size > 4096:
        store_split(S, va, size, value)
        return
    pa = translate(S, va, STORE)
    if S[st.EXIT] != 0:
        return
    if in_ram(S, pa, size):
        fill(S, va, pa, STORE)
        poke(S[st.RAM_HOST] + pa - S[st.RAM_BASE], size, value)
        return
    device_store(S, va, pa, size, value)


@jit
def store_split(S, va, size, value):
    """Store across a page boundary; both pages are checked before the first byte changes."""
    first = translate(S, va, STORE)
    if S[st.EXIT] != 0:
        return
    boundary = (va | 0xFFF) + 1
    second = translate(S, boundary, STORE)
    if S[st.EXIT] != 0:
        return
    if not in_ram(S, first, 1) or not in_ram(S, second, 1):
        fault(S, ACCESS_FAULT[STORE], va)
        return
    for i in range(size):
        at = first + i if va + i < boundary else second + (va + i - boundary)
        store_8(S[st.RAM_HOST] + at - S[st.RAM_BASE], value >> (8 * i))


@jit
def window_of(S, pa, size):
    """Return the host address of the window row that holds ``[pa, pa+size)``, or 0."""
    row = S[st.WINDOWS_HOST]
    for _ in range(S[st.WINDOWS]):
        offset = pa - load_i64(row + st.W_BASE * 8)
        if offset >= 0 and offset <= load_i64(row + st.W_SIZE * 8) - size:
            return row
        row += st.WINDOW_WORDS * 8
    return 0


@jit
def device_load(S, va, pa, size):
    """Load from a device: out of its page where that is allowed, else by a stop for Python."""
    if S[st.MMIO_DONE]:
        S[st.MMIO_DONE] = 0
        return S[st.MMIO_VALUE]
    if pa & (size - 1):
        return fault(S, ACCESS_FAULT[LOAD], va)
    row = window_of(S, pa, size)
    if row:
        offset = pa - load_i64(row + st.W_BASE * 8)
        kinds = load_i64(row + st.W_KINDS * 8) + offset
        from_page = 1
        for i in range(size):
            if load_u8(kinds + i) & 15 != 1:
                from_page = 0
        # a page-served read waits for posted writes: what is behind goes the long way, which flushes (DESIGN §7)
        if from_page and load_i64(load_i64(row + st.W_POSTED * 8)) == load_i64(load_i64(row + st.W_PROCESSED * 8)):
            S[st.PAGE_SERVED] += 1
            return peek(load_i64(row + st.W_IMAGE * 8) + offset, size)
    S[st.MMIO_ADDRESS] = pa
    S[st.MMIO_SIZE] = size
    S[st.MMIO_WRITE] = 0
    S[st.TVAL] = va
    S[st.EXIT] = st.EXIT_MMIO
    return 0


@jit
def device_store(S, va, pa, size, value):
    """Store to a device: plain storage and doorbells here, everything else by a stop for Python."""
    if S[st.MMIO_DONE]:
        S[st.MMIO_DONE] = 0
        return
    if pa & (size - 1):
        fault(S, ACCESS_FAULT[STORE], va)
        return
    row = window_of(S, pa, size)
    if row and load_i64(row + st.W_STORES * 8):
        offset = pa - load_i64(row + st.W_BASE * 8)
        kinds = load_i64(row + st.W_KINDS * 8) + offset
        write = load_u8(kinds) >> 4
        if load_u8(kinds + size - 1) >> 4 == write:
            if write == 1:
                poke(load_i64(row + st.W_IMAGE * 8) + offset, size, value)
                return
            if write == 2:
                bell = offset - load_i64(row + st.W_DOORBELL_OFFSET * 8)
                stride = load_i64(row + st.W_DOORBELL_STRIDE * 8)
                if stride > 0 and bell >= 0 and bell < stride * load_i64(row + st.W_DOORBELLS * 8):
                    fd = load_i32(load_i64(row + st.W_DOORBELL_FDS * 8) + (bell // stride) * 4)
                    call_3(S[st.WRITE_FUNCTION], fd, S[st.ONE_HOST], 8)
                    S[st.DOORBELLS] += 1
                    return
    S[st.MMIO_ADDRESS] = pa
    S[st.MMIO_SIZE] = size
    S[st.MMIO_VALUE] = value
    S[st.MMIO_WRITE] = 1
    S[st.TVAL] = va
    S[st.EXIT] = st.EXIT_MMIO


@jit
def host_for_atomic(S, va, size, access):
    """Return the host address for an AMO or SC (``STORE``) or an LR (``LOAD``), or 0 after recording a trap."""
    if va & (size - 1):
        fault(S, 6 if access == STORE else 4, va)  # address misaligned
        return 0
    page = va & -4096
    part = st.TLB_LOADS if access == LOAD else st.TLB_STORES
    slot = S[st.TLB_HOST] + (part + (((va >> 12) & (st.TLB_ENTRIES - 1)) + tlb_mode(S, access)) * 2) * 8
    if load_i64(slot) == page:
        return va + load_i64(slot + 8)
    pa = translate(S, va, access)
    if S[st.EXIT] != 0:
        return 0
    if not in_ram(S, pa, size):
        fault(S, ACCESS_FAULT[access], va)
        return 0
    fill(S, va, pa, access)
    return S[st.RAM_HOST] + pa - S[st.RAM_BASE]


@jit
def fetch_page(S, va):
    """Return the index of the decoded page for fetching at ``va``, or NOWHERE after a trap.

    A page of code is compared with the copy taken when it was first decoded, once per fence.i: devices and other
    harts write code behind this hart's back.
    """
    S[st.FETCH_MISSES] += 1
    pa = translate(S, va, FETCH)
    if S[st.EXIT] != 0:
        return NOWHERE
    if not in_ram(S, pa, 2):
        return fault(S, ACCESS_FAULT[FETCH], va)
    offset = (pa & -4096) - S[st.RAM_BASE]
    decoded = S[st.DEC_HOST] + offset * 4
    generation = S[st.PAGE_GENERATION_HOST] + (offset >> 12) * 8
    if load_i64(generation) != S[st.GENERATION]:
        host, copy = S[st.RAM_HOST] + offset, S[st.COPY_HOST] + offset
        if load_i64(generation) == 0 or call_3(S[st.MEMCMP_FUNCTION], host, copy, 4096) & 0xFFFFFFFF != 0:
            for i in range(0, 4096, 8):
                store_64(copy + i, load_i64(host + i))
            for i in range(0, 16384, 8):
                store_64(decoded + i, 0)
        store_64(generation, S[st.GENERATION])
    slot = S[st.TLB_HOST] + (st.TLB_FETCHES + (((va >> 12) & (st.TLB_ENTRIES - 1)) + tlb_mode(S, FETCH)) * 2) * 8
    store_64(slot, va & -4096)
    store_64(slot + 8, decoded)
    return decoded


@jit
def compare_with_copy(S, decoded, offset, word):
    """Have the next fence.i clear the page if ``word``, decoded just now, is not what the copy holds.

    Code may be executed after it was written and before the fence, and change back: then memory equals the copy,
    and only this tells that what was decoded does not.
    """
    page = decoded - S[st.DEC_HOST] >> 2
    copy = S[st.COPY_HOST] + page + offset
    if load_u16(copy) != word & 0xFFFF or (word & 3 == 3 and load_u16(copy + 2) != word >> 16):
        store_64(S[st.PAGE_GENERATION_HOST] + (page >> 12) * 8, 0)


@jit
def fetch_word(S, va):
    """Return the instruction word at ``va`` (one parcel or two), or NOWHERE after a trap."""
    pa = translate(S, va, FETCH)
    if S[st.EXIT] != 0:
        return NOWHERE
    if not in_ram(S, pa, 2):
        return fault(S, ACCESS_FAULT[FETCH], va)
    word = load_u16(S[st.RAM_HOST] + pa - S[st.RAM_BASE])
    if word & 3 != 3:
        return word
    second = pa + 2
    if (va & 0xFFF) == 0xFFE:
        second = translate(S, va + 2, FETCH)
        if S[st.EXIT] != 0:
            return NOWHERE
    if not in_ram(S, second, 2):
        return fault(S, ACCESS_FAULT[FETCH], va + 2)
    return word | (load_u16(S[st.RAM_HOST] + second - S[st.RAM_BASE]) << 16)
