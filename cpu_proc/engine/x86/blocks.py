"""Between blocks: how one is left, how it leads to the next, and how all are forgotten.

A block is left with the place of a record in rax, whose 8 bytes say why and where: how far back lies what to patch, or
where to go on; the offset in the page; the instructions that were charged and not executed; the kind.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import call_3, load_i64, shr, store_64
from cpu_proc.engine.x86.assembler import (
    IF_NOT_EQUAL,
    RAX,
    RCX,
    S_PLACE,
    jump,
    jump_if,
    op_vex,
    page_address,
    put1,
    put2,
    put3,
    put32,
    store_slot,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

(
    TO_INTERPRET,  # the instruction at the offset is the interpreter's
    TO_CHAIN,  # a jump to the offset, to be patched
    ON_MISS,  # an access whose page the TLB does not have
    ON_FUEL,  # the slice has fewer instructions left than the block
    ON_FLOAT,  # floating point that is not ready
    TO_LOOK_UP,  # an indirect jump, to S[PC], which the cache of jumps does not have
    BEYOND,  # not a reason to leave: a jump beyond the page
) = range(7)
UNTRANSLATED = 1  # in the place of a block's address: its first instruction is the interpreter's


@jit
def put_exit(S, p, kind, offset, refund, back_to):
    """Leave the block; the record follows."""
    record = p + 10
    p = put32(put1(p, 0xB8), record - S[st.CODE_BASE])  # mov eax, place of the record
    p = jump(p, S[st.CODE_BASE] + st.LEAVE_AT)
    store_64(p, (record - back_to) & 0xFFFFFFFF | offset << 32 | refund << 48 | kind << 56)
    return p + 8


@jit
def escape(S, p, condition):
    """Leave for the interpreter under a condition."""
    p = jump_if(p, condition)
    store_64(S[st.ESCAPES_HOST] + S[st.ESCAPES] * 8, p)
    S[st.ESCAPES] += 1
    return p + 4


@jit
def look_up_target(S, p):
    """Jump to the block at the virtual address in rax, if the cache of jumps has it; S[LEFT_AT] is how it is left."""
    p = put1(op_vex(p, 3, 3, 0xF0, RCX, 0, RAX, 0), st.JUMP_MIX)  # rorx ecx, eax
    p = put2(p, 0x31, 0xC1)  # xor ecx, eax
    p = put32(put2(p, 0x81, 0xE1), st.JUMP_MASK)  # and ecx, mask
    p = put3(p, 0xC1, 0xE1, 3)  # shl ecx, 3
    p = put32(put3(p, 0x48, 0x03, 0x8D), S_PLACE + st.JUMPS * 8)  # add rcx, S[JUMPS]
    p = jump_if(put3(p, 0x48, 0x3B, 0x01), IF_NOT_EQUAL)  # cmp rax, [rcx]
    leave_by(S, p, TO_LOOK_UP, 0)
    p = put32(put2(p + 4, 0x48, 0x25), -4096)  # and rax, page
    return put3(store_slot(p, RAX, st.CODE_PAGE), 0xFF, 0x61, 8)  # jmp [rcx + 8]


@jit
def leave_by(S, site, kind, offset):
    """Remember the way out behind the last instruction: where its jump has its displacement, why, to what offset."""
    S[st.LEFT_AT] = site
    S[st.LEFT_KIND] = kind
    S[st.LEFT_FOR] = offset


@jit
def chain_to(S, p, codes, offset):
    """Jump to the block at an offset in this page, now or once it is translated; beyond the page, look it up."""
    if offset < 0 or offset >= 4096:
        return look_up_target(S, page_address(p, RAX, offset))
    target = load_i64(codes + (offset << 2))
    if target > UNTRANSLATED:
        return jump(p, target - S[st.CODE_SHIFT])
    p = jump(p, p + 5)
    leave_by(S, p - 4, TO_INTERPRET if target == UNTRANSLATED else TO_CHAIN, offset)
    return p


@jit
def forget_jumps(S):
    """Forget which block is at which virtual address."""
    if S[st.KEPT] >= st.KEPT_MOST:
        call_3(S[st.MEMSET_FUNCTION], S[st.JUMPS_HOST], -1, st.JUMP_BYTES * st.TLB_MODES)
    else:
        for i in range(S[st.KEPT]):
            store_64(load_i64(S[st.KEPT_HOST] + i * 8), -1)
    S[st.KEPT] = 0
    for word in range(st.JUMP_PAGES, st.JUMP_PAGES + st.JUMP_PAGE_WORDS):
        S[word] = 0


@jit
def keep_jump(S, pc, code):
    """Enter a block into the cache of jumps, and its page into what ``forget_jumps_of`` asks."""
    mixed = (pc ^ shr(pc & 0xFFFFFFFF, st.JUMP_MIX)) & st.JUMP_MASK
    place = S[st.JUMPS] + (mixed << 3)
    if load_i64(place) != pc:
        store_64(place, pc)
        S[st.JUMP_PAGES + (pc >> 18 & (st.JUMP_PAGE_WORDS - 1))] |= 1 << (pc >> 12 & 63)
        if S[st.KEPT] < st.KEPT_MOST:
            store_64(S[st.KEPT_HOST] + S[st.KEPT] * 8, place)
            S[st.KEPT] += 1
    store_64(place + 8, code)


@jit
def forget_jumps_of(S, va):
    """Forget where code is, if any of the page at ``va`` may be in the cache of jumps."""
    if S[st.JUMP_PAGES + (va >> 18 & (st.JUMP_PAGE_WORDS - 1))] >> (va >> 12 & 63) & 1:
        forget_jumps(S)


@jit
def forget_code(S):
    """Forget all blocks: the buffer is full."""
    S[st.EMIT] = S[st.CODE_START]
    S[st.EMIT_WAYS] = S[st.WAYS_START]
    S[st.CODE_FLUSHES] += 1
    forget_jumps(S)
    call_3(S[st.MADVISE_FUNCTION], S[st.CODE_HOST], S[st.RAM_SIZE] * 4, 4)  # MADV_DONTNEED: zeros


@jit
def forget_page(S, decoded):
    """Forget the blocks of one page, whose code has changed."""
    if S[st.CODE_HOST]:
        call_3(S[st.MEMSET_FUNCTION], S[st.CODE_HOST] + decoded - S[st.DEC_HOST], 0, 16384)
