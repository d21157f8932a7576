"""What the translator emits for loads, stores, atomics and fences: a look into the TLB, then the access itself.

The comparison is with the page of the last byte for plain accesses, so that what does not cross a page needs no
alignment, and with alignment for atomics, which trap without it. Where it fails the block is left, and is entered
again at the instruction once the TLB has the page.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.x86.assembler import (
    DISCARDED,
    IF_NOT_EQUAL,
    RAX,
    RCX,
    RDX,
    S_PLACE,
    add_constant,
    bring,
    extend_word,
    host_or,
    jump_if,
    load_constant,
    load_slot,
    load_x,
    move,
    op,
    op_immediate,
    op_memory,
    op_state,
    op_x,
    put1,
    put2,
    put3,
    put4,
    put32,
    set_condition,
    settle,
    store_slot,
)
from cpu_proc.engine.x86.integer import rd, rs1, rs2

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

_TLB_MASK = (st.TLB_ENTRIES - 1) * st.DATA_BYTES


@jit
def base(w):
    """Return the host register of the base once ``put_base`` ran."""
    return host_or(rs1(w), RAX)


@jit
def put_base(p, w):
    return bring(p, rs1(w), RAX)


@jit
def look_up(p, at, lowest, end, stores, aligned):
    """Compare the TLB's tag with the page of all from base + lowest to base + end, as long as that is one page.

    What follows is the displacement of the jump if it is not that tag; the place of the entry is in rcx.
    """
    p = add_constant(p, RCX, at, lowest)
    if aligned:
        p = put32(op(move(p, RDX, at), 0x81, 4, RDX, 1), -4096 | (end - 1))
    else:
        p = put32(op(add_constant(p, RDX, at, end - 1), 0x81, 4, RDX, 1), -4096)
    p = put3(p, 0xC1, 0xE9, 7)  # shr ecx, 7
    p = put32(put2(p, 0x81, 0xE1), _TLB_MASK)  # and ecx, mask
    p = put4(p, 0x49, 0x3B, 0x54, 0x0C)  # cmp rdx, [r12 + rcx + place]
    return jump_if(put1(p, st.DATA_STORES if stores else st.DATA_LOADS), IF_NOT_EQUAL)


@jit
def load_addend(p):
    """Mov rdx, what to add to an address for the host's."""
    return put1(put4(p, 0x49, 0x8B, 0x54, 0x0C), st.DATA_ADDEND)


@jit
def load(p, w, opcode, wide):
    """The access of a load into an integer register; the addend is in rdx."""
    to = host_or(rd(w), RAX)
    return settle(op_memory(p, opcode, to, RDX, base(w), w >> 32, wide), rd(w), to)


@jit
def store(p, w, size):
    """The access of a store from an integer register."""
    p = bring(p, rs2(w), RCX)
    return put_store(p, w, host_or(rs2(w), RCX), size)


@jit
def put_store(p, w, data, size):
    """Mov [rdx + address], data."""
    if size == 2:
        p = put1(p, 0x66)
    return op_memory(p, 0x88 if size == 1 else 0x89, data, RDX, base(w), w >> 32, 1 if size == 8 else 0)


@jit
def host_address(p, w):
    """Rdx = the host's address of what an atomic works on."""
    return op(p, 0x03, RDX, base(w), 1)


@jit
def put_lock(p, opcode, reg, wide):
    """Lock op [rdx], reg."""
    p = put1(p, 0xF0)
    rex = 0x40 | wide << 3 | reg >> 3 << 2
    if opcode > 0xFF:
        return put4(p, rex, 0x0F, opcode & 0xFF, 0x02 | (reg & 7) << 3)
    p = put2(p, rex, opcode)
    return put1(p, 0x02 | (reg & 7) << 3)


@jit
def settle_sized(p, w, host, wide):
    """x[rd] = what was in memory; a word is extended."""
    return settle(p if wide else extend_word(p, host, host), rd(w), host)


@jit
def exchange(p, w, opcode, wide):
    """Xchg, or lock xadd: amoswap and amoadd."""
    p = load_x(host_address(p, w), RCX, rs2(w))
    return settle_sized(put_lock(p, opcode, RCX, wide), w, RCX, wide)


@jit
def modify(p, w, opcode, wide):
    """amoand, amoor, amoxor: compare and exchange until nobody came between."""
    p = host_address(p, w)
    if rd(w) == DISCARDED:
        return put_lock(bring(p, rs2(w), RCX), opcode - 2, host_or(rs2(w), RCX), wide)
    p = put2(put1(p, 0x48 if wide else 0x40), 0x8B, 0x02)  # mov rax, [rdx]
    again = p
    p = put_lock(op_x(move(p, RCX, RAX), opcode, RCX, rs2(w), 1), 0x0FB1, RCX, wide)
    p = put2(p, 0x70 | IF_NOT_EQUAL, again - (p + 2) & 0xFF)
    return settle_sized(p, w, RAX, wide)


@jit
def zero_block(p, w):
    """cbo.zero: all bytes of the block that the address is in."""
    p = op_immediate(host_address(p, w), 4, RDX, -st.CACHE_BLOCK, 1)
    p = op(p, 0x0F57, 0, 0, 0)  # xorps xmm0, xmm0
    for offset in range(0, st.CACHE_BLOCK, 16):
        p = put4(p, 0x0F, 0x11, 0x42, offset)  # movups [rdx + offset], xmm0
    return p


@jit
def put_full_fence(p):
    """Lock or dword [rsp - 64], 0: what came before is seen before what follows."""
    return put2(put4(p, 0xF0, 0x83, 0x4C, 0x24), 0xC0, 0x00)


@jit
def fence(p, w):
    """On this host only a load may overtake, and only a store before it (x86-TSO): the rest needs nothing."""
    stores_before, loads_after = w >> 32 & 0x50, w >> 32 & 0xA
    return put_full_fence(p) if stores_before and loads_after else p


@jit
def put_reservation(p, size):
    """Rcx = what S[RESERVATION] is for the host address in rdx (see ``sys_lr``)."""
    p = op_state(move(p, RCX, RDX), 0x2B, RCX, S_PLACE + st.RAM_HOST * 8, 1)
    return op_immediate(p, 1, RCX, size >> 3, 1)


@jit
def load_reserved(p, w, size):
    p = host_address(p, w)
    wide = size >> 3
    p = put2(put1(p, 0x48), 0x8B, 0x02) if wide else put2(put1(p, 0x48), 0x63, 0x02)  # mov or movsxd rax, [rdx]
    p = put_reservation(put_full_fence(p), size)
    p = store_slot(store_slot(p, RCX, st.RESERVATION), RAX, st.RESERVED_VALUE)
    return settle(p, rd(w), RAX)


@jit
def store_conditional(p, w, size):
    p = put_reservation(host_address(p, w), size)
    p = op_state(p, 0x3B, RCX, S_PLACE + st.RESERVATION * 8, 1)
    p = put2(p, 0x70 | IF_NOT_EQUAL, 0)
    other = p
    p = load_x(load_slot(p, RAX, st.RESERVED_VALUE), RCX, rs2(w))
    p = put_lock(p, 0x0FB1, RCX, size >> 3)
    put1(other - 1, p - other)
    p = set_condition(p, IF_NOT_EQUAL, RCX)
    p = store_slot(load_constant(p, RAX, -1), RAX, st.RESERVATION)
    return settle(p, rd(w), RCX)
