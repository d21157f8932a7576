"""Translations kept per page and mode, and forgetting them (RISC-V privileged §12.2.1: sfence.vma).

Only memory is entered: an entry holds what to add to a virtual address to have the host's. What is said here holds for
code too, whose entries name the page of decoded words.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import atomic_swap, call_3, fence, load_i64, store_64
from cpu_proc.engine.x86.blocks import forget_jumps, forget_jumps_of

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

FETCH, LOAD, STORE = 0, 1, 2
PAGE_FAULT = (12, 13, 15)
ACCESS_FAULT = (1, 5, 7)

MSTATUS_MPRV = 1 << 17
MSTATUS_SUM = 1 << 18
MSTATUS_MXR = 1 << 19

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
def data_entry(S, va, access):
    """Return where the TLB has a page for loads and stores in the present mode."""
    return S[st.TLB_HOST] + (((va >> 12) & (st.TLB_ENTRIES - 1)) + tlb_mode(S, access)) * st.DATA_BYTES


@jit
def fetch_entry(S, va):
    """Return where the TLB has a page of code in the present mode."""
    place = ((va >> 12) & (st.TLB_ENTRIES - 1)) + tlb_mode(S, FETCH)
    return S[st.TLB_HOST] + st.TLB_FETCHES * 8 + place * st.FETCH_BYTES


@jit
def forget_entries(S, first, count, start, size):
    """Forget a part of the TLB, by the list of what was filled as long as that is whole."""
    if count >= st.FILLED_MOST:
        call_3(S[st.MEMSET_FUNCTION], start, -1, size)
        return
    for i in range(first, first + count * 8, 8):
        entry = load_i64(i)
        store_64(entry, -1)
        store_64(entry + 8, -1)


@jit
def flush_tlb(S):
    """Forget all translations."""
    S[st.TLB_FLUSHES] += 1
    forget_entries(S, S[st.FILLED_HOST], S[st.FILLED], S[st.TLB_HOST], st.TLB_FETCHES * 8)
    S[st.FILLED] = 0
    flush_fetches(S)
    for i in range(st.GIGA_PLACES, st.MEGA_PLACES + st.MEGA_WORDS):
        S[i] = 0


@jit
def flush_crossings(S):
    """Forget the instructions that lie across two pages."""
    for i in range(st.CROSSINGS):
        store_64(S[st.CROSSING_HOST] + i * 16, -1)


@jit
def flush_fetches(S):
    """Forget where decoded pages are, so that each is looked at again."""
    size = (st.TLB_WORDS - st.TLB_FETCHES) * 8
    filled = S[st.FILLED_HOST] + st.FILLED_MOST * 8
    forget_entries(S, filled, S[st.FILLED_FETCHES], S[st.TLB_HOST] + st.TLB_FETCHES * 8, size)
    S[st.FILLED_FETCHES] = 0
    flush_crossings(S)
    if S[st.TRANSLATING]:
        forget_jumps(S)


@jit
def flush_page(S, va):
    """Forget the translations of one page in every mode."""
    S[st.PAGE_FLUSHES] += 1
    place = (va >> 12) & (st.TLB_ENTRIES - 1)
    for mode in range(0, st.TLB_MODES * st.TLB_ENTRIES, st.TLB_ENTRIES):
        entry = S[st.TLB_HOST] + (place + mode) * st.DATA_BYTES
        store_64(entry + st.DATA_LOADS, -1)
        store_64(entry + st.DATA_STORES, -1)
        store_64(S[st.TLB_HOST] + st.TLB_FETCHES * 8 + (place + mode) * st.FETCH_BYTES, -1)
    flush_crossings(S)
    if S[st.TRANSLATING]:
        forget_jumps_of(S, va)


@jit
def obey(S):
    """Forget what others asked this hart to forget; only between two slices."""
    wanted = S[st.WANTED]
    if wanted == S[st.SEEN]:
        return
    fence(0)
    flush = atomic_swap(S[st.SELF_HOST] + st.POSTED_FLUSH * 8, 0)
    if flush & st.FLUSH_CODE:
        S[st.GENERATION] += 1
        flush_fetches(S)
    if flush & st.FLUSH_TRANSLATIONS:
        flush_tlb(S)
    fence(0)
    S[st.SEEN] = wanted


@jit
def mega_place(va):
    """Return the number of the bit for the 2 MiB around ``va``."""
    return (va >> 21 ^ va >> 30) & (st.MEGA_WORDS * 64 - 1)


@jit
def note_superpage(S, va, level):
    """Remember that the TLB may hold ``va`` through a superpage (or a contiguous range, level 0)."""
    if level < 2:
        S[st.MEGA_PLACES + (mega_place(va) >> 6)] |= 1 << (mega_place(va) & 63)
    elif level == 2:
        S[st.GIGA_PLACES + (va >> 36 & 7)] |= 1 << (va >> 30 & 63)
    else:
        for word in range(st.GIGA_PLACES, st.MEGA_PLACES):
            S[word] = -1


@jit
def in_superpage(S, va):
    """Tell whether the TLB may hold ``va`` through a superpage, and so under the other addresses of it."""
    mega = S[st.MEGA_PLACES + (mega_place(va) >> 6)] >> (mega_place(va) & 63)
    giga = S[st.GIGA_PLACES + (va >> 36 & 7)] >> (va >> 30 & 63)
    return (mega | giga) & 1


@jit
def in_ram(S, pa, size):
    offset = pa - S[st.RAM_BASE]
    return offset >= 0 and offset <= S[st.RAM_SIZE] - size


@jit
def fill(S, va, host, access, loads, stores):
    """Enter a page of memory, ``va`` of which is at ``host``; for stores if the walk found it dirty or made it so."""
    page = va & -4096
    entry = data_entry(S, va, access)
    store_64(entry + st.DATA_ADDEND, host - va)
    store_64(entry + st.DATA_LOADS, page if loads else -1)
    store_64(entry + st.DATA_STORES, page if stores else -1)
    if S[st.FILLED] < st.FILLED_MOST:
        store_64(S[st.FILLED_HOST] + S[st.FILLED] * 8, entry)
        S[st.FILLED] += 1
