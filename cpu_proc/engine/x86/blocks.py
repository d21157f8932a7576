"""The pieces of a translated block that are more than one instruction's arithmetic."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import call_3, load_i64, store_64
from cpu_proc.engine.x86.assembler import (
    RAX,
    RDX,
    leave,
    load_register,
    load_slot,
    page_address,
    put1,
    put2,
    put3,
    put4,
    put32,
    put64,
    store_slot,
    with_immediate,
    with_register,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

_PC, _JUMPS = st.SLOTS["PC"], st.SLOTS["JUMPS"]


@jit
def address_of(p, w):
    """Rax = x[rs1] + immediate."""
    p = load_register(p, RAX, w >> 16 & 31)
    return with_immediate(p, 0x05, w >> 32, 1) if w >> 32 != 0 else p


@jit
def look_up_page(p, size, stores):
    """Compare the TLB's tag with the address in rax; what follows is the displacement of the jump if it differs."""
    p = put3(p, 0x48, 0x89, 0xC1)  # mov rcx, rax
    p = put4(p, 0x48, 0xC1, 0xE9, 8)  # shr rcx, 8
    p = put32(put2(p, 0x81, 0xE1), (st.TLB_ENTRIES - 1) * 16)  # and ecx, mask
    p = put3(p, 0x48, 0x89, 0xC2)  # mov rdx, rax
    p = put32(put3(p, 0x48, 0x81, 0xE2), -4096 | (size - 1))  # and rdx, page and alignment
    # cmp rdx, [r13 + rcx], or [r12 + rcx]
    p = put1(put4(p, 0x49, 0x3B, 0x54, 0x0D), 0) if stores else put4(p, 0x49, 0x3B, 0x14, 0x0C)
    return put2(p, 0x0F, 0x85)  # jne


@jit
def host_of_page(p, stores):
    """Mov rdx, the addend of the entry."""
    return put1(put4(p, 0x49, 0x8B, 0x54, 0x0D if stores else 0x0C), 8)


@jit
def note_slow(S, count, site, offset, executed):
    """Remember a jump to where the interpreter takes over; return how many there are."""
    row = S[st.FIXUPS_HOST] + count * 24
    store_64(row, site)
    store_64(row + 8, offset)
    store_64(row + 16, executed)
    return count + 1


@jit
def compare_registers(p, w):
    """Cmp x[rs1], x[rs2]."""
    p = load_register(p, RAX, w >> 16 & 31)
    if w >> 21 & 31 == 0:
        return put4(p, 0x48, 0x83, 0xF8, 0)
    return with_register(p, 0x3B, w >> 21 & 31, 1)


@jit
def look_up_target(p):
    """Jump to the block at the virtual address in rax, if the cache of jumps has it."""
    p = store_slot(p, _PC)
    p = put3(p, 0x48, 0x89, 0xC1)  # mov rcx, rax
    p = put32(put2(p, 0x81, 0xE1), st.JUMP_MASK)  # and ecx, mask
    p = put4(p, 0x48, 0xC1, 0xE1, 3)  # shl rcx, 3
    p = load_slot(p, RDX, _JUMPS)
    p = put4(p, 0x48, 0x3B, 0x04, 0x0A)  # cmp rax, [rdx + rcx]
    p = put2(p, 0x75, 13)  # jne
    p = put32(put2(p, 0x48, 0x25), -4096)  # and rax, page
    p = put3(p, 0x49, 0x89, 0xC7)  # mov r15, rax
    p = put4(p, 0xFF, 0x64, 0x0A, 8)  # jmp [rdx + rcx + 8]
    return leave(p, 1)


@jit
def chain_to(S, p, codes, offset):
    """Jump to the block at an offset in this page, now or once it is translated; beyond the page, look it up."""
    if offset < 0 or offset >= 4096:
        return look_up_target(page_address(p, offset))
    target = load_i64(codes + (offset << 2))
    here = p + S[st.CODE_SHIFT]
    p = put1(p, 0xE9)
    if target:
        return put32(p, target - (here + 5))
    p = put32(p, 0)
    p = store_slot(page_address(p, offset), _PC)
    return put1(put64(put2(p, 0x48, 0xB8), here + 1), 0xC3)  # mov rax, the place to patch; ret


@jit
def forget_jumps(S):
    """Forget which block is at which virtual address."""
    call_3(S[st.MEMSET_FUNCTION], S[st.JUMPS_HOST], -1, st.JUMP_BYTES * st.TLB_MODES)


@jit
def forget_code(S):
    """Forget all blocks: the buffer is full."""
    S[st.EMIT] = S[st.CODE_START]
    S[st.CODE_FLUSHES] += 1
    S[st.PATCH_SITE] = 0
    forget_jumps(S)
    call_3(S[st.MADVISE_FUNCTION], S[st.CODE_HOST], S[st.RAM_SIZE] * 4, 4)  # MADV_DONTNEED: zeros


@jit
def forget_page(S, decoded):
    """Forget the blocks of one page, whose code has changed."""
    if S[st.TRANSLATING]:
        call_3(S[st.MEMSET_FUNCTION], S[st.CODE_HOST] + decoded - S[st.DEC_HOST], 0, 16384)
