"""Several accesses by one base register share a look into the TLB.

The first of them asks whether all bytes from the lowest displacement to the end of the highest are on one page, and
leaves in the state what to add to the base for the host's address; for the others that is enough, as long as the block
has not changed the base. Where they are on two pages the interpreter executes the first, and the next block begins
behind it; code of a page in which that happens often is translated anew, without sharing.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import load_i64
from cpu_proc.engine.x86 import templates as t
from cpu_proc.engine.x86.assembler import RDX, load_slot, store_slot
from cpu_proc.engine.x86.forms import FORMS, form_of, is_atomic, is_store, writes_x
from cpu_proc.engine.x86.integer import rd, rs1
from cpu_proc.engine.x86.memory import base, load_addend, look_up, put_base

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

FAR_APART = 1024  # bytes: accesses that are further apart do not share


@jit
def share(S, decoded, offset, left, place):
    """Widen what the access at ``offset`` asks for by what follows it; tell whether anything does."""
    lowest, end, several = S[st.LOWEST + place], S[st.ENDS + place], 0
    w = load_i64(decoded + (offset << 2))
    form = form_of(w)
    for _ in range(left - 1):
        if writes_x(form) and rd(w) == place & 31:
            break
        offset += w >> 26 & 7
        if offset >= 4096:
            break
        w = load_i64(decoded + (offset << 2))
        form = form_of(w)
        if form == t.NOTHING or form > t.BRANCH:
            break
        if not t.FENCE < form < t.LAST_MEMORY or is_atomic(form):
            continue
        if rs1(w) == place & 31 and is_store(form) == (place > 31):
            first = min(lowest, w >> 32)
            last = max(end, (w >> 32) + FORMS[w & 0x3FF, 3])
            if last - first <= FAR_APART:
                lowest, end, several = first, last, 1
    S[st.LOWEST + place] = lowest
    S[st.ENDS + place] = end
    return several


@jit
def put_look(S, p, w, decoded, offset, left, sharing):
    """Put what leaves in rdx what to add to the address, and the base where ``memory.base`` says.

    S[LOOK] becomes the place of the displacement of the jump for pages that the TLB does not have; 0 if there is none.
    """
    form, size = form_of(w), FORMS[w & 0x3FF, 3]
    stores = is_store(form)
    place = rs1(w) + (32 if stores else 0)
    lowest = w >> 32
    end = lowest + size
    S[st.LOOK] = 0
    p = put_base(p, w)
    if is_atomic(form):
        p = look_up(p, base(w), 0, size, stores, 1)
        S[st.LOOK] = p
        return load_addend(p + 4)
    if S[st.SHARED] >> place & 1 and S[st.LOWEST + place] <= lowest and end <= S[st.ENDS + place]:
        return load_slot(p, RDX, st.ADDENDS + place)
    S[st.LOWEST + place] = lowest
    S[st.ENDS + place] = end
    several = sharing and rs1(w) != 0 and share(S, decoded, offset, left, place)
    p = look_up(p, base(w), S[st.LOWEST + place], S[st.ENDS + place], stores, 0)
    S[st.LOOK] = p
    p = load_addend(p + 4)
    S[st.SHARED] &= ~(1 << place)
    if several:
        S[st.SHARED] |= 1 << place
        p = store_slot(p, RDX, st.ADDENDS + place)
    return p


@jit
def stop_sharing(S, register):
    """Note that a register that may have been a base has another value."""
    S[st.SHARED] &= ~(1 << register | 1 << register + 32)
