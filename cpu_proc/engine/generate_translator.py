"""The dispatcher of translated code, as source text: it decodes, which is generated code.

It enters blocks until the interpreter is needed: for an instruction without a template, for an access that is not to
RAM, for code whose page has to be looked at first, or for the last instructions of a slice.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.blocks import CBZE
from cpu_proc.engine.traps import FS

_FETCH_MASK = (st.TLB_ENTRIES - 1) * st.FETCH_BYTES


def translator() -> str:
    """Return the functions; ``translated`` executes and returns how many instructions of the slice are left."""
    return f"""
@jit
def word_ahead(S, decoded, offset):
    w = load_i64(decoded + (offset << 2))
    if w != 0:
        return w
    host = S[RAM_HOST] + (decoded - S[DEC_HOST] >> 2) + offset
    i = load_u16(host)
    if i & 3 == 3:
        if offset == 0xFFE:
            return 0
        i |= load_u16(host + 2) << 16
    S[DECODES] += 1
    w = decode(i)
    compare_with_copy(S, decoded, offset, i)
    store_64(decoded + (offset << 2), w)
    return w


@jit
def words_ahead(S, decoded, offset):
    # decode what a block that begins here may hold
    for _ in range({st.BLOCK_MOST}):
        if offset >= 4096:
            return
        w = word_ahead(S, decoded, offset)
        if w == 0 or ends(form_of(w)):
            return
        offset += w >> 26 & 7


@jit
def missed(S, X, fetches, at):
    # fill the TLB for the access at S[PC]; tell whether the block can go on with it
    pc = S[PC]
    k = fetches + ((pc >> 8) & {_FETCH_MASK:#x})
    if load_i64(k) != pc & -4096:  # the cache of jumps knows more pages than the TLB
        return False
    w = load_i64(load_i64(k + 8) + ((pc & 0xFFF) << 2))
    form = FORMS[w & 0x3FF, 0]
    size = FORMS[w & 0x3FF, 3]
    va = load_i64(X + (w >> 13 & 0xF8)) + (w >> 32)
    if is_atomic(form):
        if va & (size - 1) != 0:
            return False
    elif S[MISS_AT] == at and S[MISS_VA] == va:  # the page is there, but others that share the look are on another
        decoded = load_i64(k + 8)
        straddles = S[STRADDLES_HOST] + (decoded - S[DEC_HOST] >> 14)
        if load_u8(straddles) < {st.STRADDLES_MOST}:
            store_8(straddles, load_u8(straddles) + 1)
            if load_u8(straddles) == {st.STRADDLES_MOST}:
                forget_page(S, decoded)
                forget_jumps(S)
        S[MISS_AT] = 0
        return False
    S[MISS_AT] = at
    S[MISS_VA] = va
    return filled(S, va, size, {2} if is_store(form) else {1})


@jit
def begin_floating(S):
    # let the host's flags gather from now on, if its arithmetic is the guest's
    if S[MSTATUS] & {FS} != {FS} or S[FRM] != 0:
        return False
    call_2(S[SET_MXCSR], S[MXCSR_CLEAR], 0)
    S[FLOAT_READY] = 1
    return True


@jit
def end_floating(S):
    S[FFLAGS] |= load_u8(S[SELF_HOST] + {st.FLAGS_TABLE * 8} + (call_2(S[GET_MXCSR], 0, 0) & 0x3F))
    S[FLOAT_READY] = 0


@jit
def execute(S, X, n, entries, fetches):
    kind = TO_LOOK_UP
    record = 0
    back_to = 0
    while n > 0:
        pc = S[PC]
        k = fetches + ((pc >> 8) & {_FETCH_MASK:#x})
        if load_i64(k) != pc & -4096:
            return n
        decoded = load_i64(k + 8)
        if decoded == S[UNDECODED_HOST]:
            return n
        code = load_i64(S[CODE_HOST] + decoded - S[DEC_HOST] + ((pc & 0xFFF) << 2))
        if code == 0:
            flushes = S[CODE_FLUSHES]
            words_ahead(S, decoded, pc & 0xFFF)
            code = translate(S, decoded, pc & 0xFFF)
            if S[CODE_FLUSHES] != flushes:
                kind = TO_LOOK_UP
        if kind == TO_CHAIN:
            S[CHAINS] += 1
            if code == UNTRANSLATED:
                store_8(record + 7, TO_INTERPRET)
            else:
                patch(back_to, code - S[CODE_SHIFT])
        if code == UNTRANSLATED:
            return n
        keep_jump(S, pc, code)
        S[CODE_PAGE] = pc & -4096
        resume = True
        while resume:
            S[ENTRIES] += 1
            record = S[CODE_BASE] + call_4(S[TRAMPOLINE], code, S[SELF_HOST], entries, n)
            n = S[FUEL]
            row = load_i64(record)
            kind = row >> 56
            back_to = record - (row & 0xFFFFFFFF)
            if kind == TO_LOOK_UP:
                break
            S[PC] = S[CODE_PAGE] + (row >> 32 & 0xFFFF)
            if kind == TO_CHAIN:
                break
            if kind == ON_MISS:
                resume = missed(S, X, fetches, back_to)
            elif kind == ON_FLOAT:
                resume = begin_floating(S)
            else:
                resume = False
            if resume:
                code = back_to + S[CODE_SHIFT]
            else:
                n += row >> 48 & 0xFF
                if kind == ON_FUEL:
                    S[INTERPRET] = n
                return n
    return 0


@jit
def translated(S, X, n, entries, fetches):
    S[JUMPS] = S[JUMPS_HOST] + (tlb_mode(S, 0) // {st.TLB_ENTRIES}) * {st.JUMP_BYTES}
    S[INTERPRET] = 1
    S[ZERO_READY] = 1 if enabled(S, {CBZE}) else 0
    n = execute(S, X, n, entries, fetches)
    if S[FLOAT_READY]:
        end_floating(S)
    S[INTERPRETED] += S[INTERPRET] if n > 0 else 0
    return n
"""
