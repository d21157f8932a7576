"""Bytes of x86-64 instructions, written at ``p``; each function returns where the next one goes.

Host registers hold, while translated code runs: rbx the integer registers (plus 128, so that all displacements are one
byte), rbp the state vector, r12 and r13 the TLB's loads and stores of the present mode, r14 the instructions left in
the slice, r15 the virtual address of the page. rax, rcx and rdx are free.
"""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import store_8, store_32, store_64

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

RAX, RCX, RDX = range(3)
DISCARDED = 32  # the register number of a destination that is x0


@jit
def put1(p, a):
    store_8(p, a)
    return p + 1


@jit
def put2(p, a, b):
    store_8(p, a)
    store_8(p + 1, b)
    return p + 2


@jit
def put3(p, a, b, c):
    store_8(p, a)
    store_8(p + 1, b)
    store_8(p + 2, c)
    return p + 3


@jit
def put4(p, a, b, c, d):
    store_8(p, a)
    store_8(p + 1, b)
    store_8(p + 2, c)
    store_8(p + 3, d)
    return p + 4


@jit
def put32(p, value):
    store_32(p, value)
    return p + 4


@jit
def put64(p, value):
    store_64(p, value)
    return p + 8


@jit
def load_register(p, host, register):
    """mov host, x[register]."""
    if register == 0:
        return put2(p, 0x31, 0xC0 | host * 9)
    return put4(p, 0x48, 0x8B, 0x43 | host << 3, (8 * register - 128) & 0xFF)


@jit
def store_register(p, register):
    """mov x[register], rax."""
    if register == DISCARDED:
        return p
    return put4(p, 0x48, 0x89, 0x43, (8 * register - 128) & 0xFF)


@jit
def with_register(p, opcode, register, wide):
    """Rax op= x[register]."""
    if wide:
        p = put1(p, 0x48)
    return put3(p, opcode, 0x43, (8 * register - 128) & 0xFF)


@jit
def with_immediate(p, opcode, value, wide):
    """Rax op= value; the opcode is that of the short form for the accumulator."""
    if wide:
        p = put1(p, 0x48)
    return put32(put1(p, opcode), value)


@jit
def extend_word(p):
    """movsxd rax, eax."""
    return put3(p, 0x48, 0x63, 0xC0)


@jit
def load_constant(p, value):
    """mov rax, value."""
    if value == 0:
        return put2(p, 0x31, 0xC0)
    if value >> 31 == 0 or value >> 31 == -1:
        return put32(put3(p, 0x48, 0xC7, 0xC0), value)
    return put64(put2(p, 0x48, 0xB8), value)


@jit
def page_address(p, offset):
    """lea rax, [r15 + offset]."""
    return put32(put3(p, 0x49, 0x8D, 0x87), offset)


@jit
def store_slot(p, slot):
    """mov S[slot], rax."""
    return put32(put3(p, 0x48, 0x89, 0x85), slot * 8)


@jit
def load_slot(p, host, slot):
    """mov host, S[slot]."""
    return put32(put3(p, 0x48, 0x8B, 0x85 | host << 3), slot * 8)


@jit
def leave(p, answer):
    """Return to the dispatcher with a small number."""
    if answer == 0:
        return put1(put2(p, 0x31, 0xC0), 0xC3)
    return put1(put32(put1(p, 0xB8), answer), 0xC3)


@jit
def set_condition(p, condition):
    """setcc al; movzx eax, al."""
    return put3(put3(p, 0x0F, 0x90 | condition, 0xC0), 0x0F, 0xB6, 0xC0)


@jit
def patch(site, target):
    """Make the 32-bit displacement at ``site`` lead to ``target``; both in the same mapping."""
    store_32(site, target - (site + 4))
