"""Where instructions come from: pages of decoded words, and the words themselves.

RAM is decoded once and kept by physical page. Everything else that holds code (ROM, flash, a page of which only a part
may be executed) has one page of words that stay undecoded, so that each instruction is fetched and checked anew.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import call_3, load_i64, load_u16, store_64
from cpu_proc.engine.pmp import permitted, uniform
from cpu_proc.engine.tlb import ACCESS_FAULT, FETCH, NOWHERE, fault, fetch_entry, in_ram
from cpu_proc.engine.walk import translate
from cpu_proc.engine.windows import image_at, window_of
from cpu_proc.engine.x86.blocks import forget_page

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def parcel_host(S, va):
    """Return the host address of the 16-bit parcel at ``va``, or NOWHERE after recording a fault."""
    pa = translate(S, va, FETCH)
    if S[st.EXIT] != 0:
        return NOWHERE
    if not permitted(S, pa, 2, FETCH, S[st.PRIV]):
        return fault(S, ACCESS_FAULT[FETCH], va)
    S[st.CROSSING_KEPT] = 0
    if in_ram(S, pa, 2):
        S[st.CROSSING_KEPT] = 1 if uniform(S, pa & -4096) else 0
        return S[st.RAM_HOST] + pa - S[st.RAM_BASE]
    row = window_of(S, pa, 2)
    if row and load_i64(row + st.W_CODE * 8):
        return image_at(row, pa)
    return fault(S, ACCESS_FAULT[FETCH], va)


@jit
def fetch_page(S, va):
    """Return the host address of the decoded page for fetching at ``va``, or NOWHERE after a trap.

    A page of code is compared with the copy taken when it was first decoded, once per fence.i: devices and other
    harts write code behind this hart's back.
    """
    S[st.FETCH_MISSES] += 1
    host = parcel_host(S, va)
    if S[st.EXIT] != 0:
        return NOWHERE
    if S[st.CROSSING_KEPT] == 0:
        return S[st.UNDECODED_HOST]
    offset = (host & -4096) - S[st.RAM_HOST]
    decoded = S[st.DEC_HOST] + offset * 4
    generation = S[st.PAGE_GENERATION_HOST] + (offset >> 12) * 8
    if load_i64(generation) != S[st.GENERATION]:
        host, copy = S[st.RAM_HOST] + offset, S[st.COPY_HOST] + offset
        if load_i64(generation) == 0 or call_3(S[st.MEMCMP_FUNCTION], host, copy, 4096) & 0xFFFFFFFF != 0:
            for i in range(0, 4096, 8):
                store_64(copy + i, load_i64(host + i))
            for i in range(0, 16384, 8):
                store_64(decoded + i, 0)
            forget_page(S, decoded)
        store_64(generation, S[st.GENERATION])
    slot = fetch_entry(S, va)
    store_64(slot, va & -4096)
    store_64(slot + 8, decoded)
    if S[st.FILLED_FETCHES] < st.FILLED_MOST:
        store_64(S[st.FILLED_HOST] + (st.FILLED_MOST + S[st.FILLED_FETCHES]) * 8, slot)
        S[st.FILLED_FETCHES] += 1
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
    host = parcel_host(S, va)
    if S[st.EXIT] != 0:
        return NOWHERE
    word = load_u16(host)
    if word & 3 != 3:
        return word
    second = host + 2
    if (va & 0xFFF) == 0xFFE or S[st.PMP_OPEN] == 0:
        second = parcel_host(S, va + 2)
        if S[st.EXIT] != 0:
            return NOWHERE
    return word | (load_u16(second) << 16)
