"""x86-64 instructions as bytes, written at ``p``; each function returns where the next one goes.

Host registers, while translated code runs: rbp holds the hart's state (``engine.state``: the integer registers are in
reach of a byte from it), r12 the TLB's entries of the present mode, r14 the instructions left in the slice. ``HOST_OF``
says which guest registers live in host registers; rax, rcx and rdx are free. All functions take numbers alone: a
register of the host is 0-15, ``wide`` is 1 for 64 bits; an opcode above 0xFF lies behind the byte 0F.
"""

from __future__ import annotations

import numpy as np

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import inlined, jit
from cpu_proc.engine.native import store_8, store_32, store_64

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
STATE, TLB, FUEL = RBP, R12, R14
IF_BELOW, IF_EQUAL, IF_NOT_EQUAL, IF_SIGN, IF_PARITY, IF_LESS = 0x2, 0x4, 0x5, 0x8, 0xA, 0xC  # condition codes
ADD, OR, AND, SUBTRACT, XOR = 0x03, 0x0B, 0x23, 0x2B, 0x33  # opcodes
DISCARDED = 32  # the register number of a destination that is x0

# sp, and those that compressed instructions reach (RISC-V unprivileged §26.2): compilers use them most
PINNED = {2: RBX, 8: RSI, 9: RDI, 10: R8, 11: R9, 12: R10, 13: R11, 14: R13, 15: R15}
IN_RAX = 64  # added to the number of a register whose value rax happens to hold
HOST_OF = np.array([PINNED.get(x, -1) for x in range(IN_RAX)] + [RAX] * IN_RAX, np.int64)

X_PLACE = -128  # displacements from rbp: of x0,
S_PLACE = X_PLACE - st.X_AT * 8  # of the state vector,
F_PLACE = S_PLACE + st.F_AT * 8  # of f0


@inlined
def host_or(register, free):
    """Return the host register of ``x[register]``, or else the free one."""
    host = HOST_OF[register]
    return free if host < 0 else host


@inlined
def put1(p, a):
    store_8(p, a)
    return p + 1


@inlined
def put2(p, a, b):
    store_32(p, a | b << 8)  # more than is needed: the next instruction overwrites it
    return p + 2


@inlined
def put3(p, a, b, c):
    store_32(p, a | b << 8 | c << 16)
    return p + 3


@inlined
def put4(p, a, b, c, d):
    store_32(p, a | b << 8 | c << 16 | d << 24)
    return p + 4


@inlined
def put32(p, value):
    store_32(p, value)
    return p + 4


@inlined
def put64(p, value):
    store_64(p, value)
    return p + 8


@inlined
def put_opcode(p, opcode, wide, reg, index, base):
    """Put a REX prefix and an opcode of one byte or two."""
    rex = 0x40 | wide << 3 | reg >> 3 << 2 | index >> 3 << 1 | base >> 3
    if opcode > 0xFF:
        return put3(p, rex, 0x0F, opcode & 0xFF)
    return put2(p, rex, opcode)


@inlined
def put_place(p, reg, displacement):
    """Put the operand [rbp + displacement]."""
    if -128 <= displacement < 128:
        return put2(p, 0x45 | (reg & 7) << 3, displacement & 0xFF)
    return put32(put1(p, 0x85 | (reg & 7) << 3), displacement)


@jit
def op(p, opcode, reg, rm, wide):
    """Op reg, rm: two registers."""
    return put1(put_opcode(p, opcode, wide, reg, 0, rm), 0xC0 | (reg & 7) << 3 | rm & 7)


@jit
def op_state(p, opcode, reg, displacement, wide):
    """Op reg, [rbp + displacement]."""
    return put_place(put_opcode(p, opcode, wide, reg, 0, STATE), reg, displacement)


@jit
def op_x(p, opcode, reg, register, wide):
    """Op reg, x[register]; x0 is read from memory, where it is zero."""
    host = HOST_OF[register]
    if host >= 0:
        return op(p, opcode, reg, host, wide)
    return op_state(p, opcode, reg, X_PLACE + register * 8, wide)


@jit
def op_memory(p, opcode, reg, base, index, displacement, wide):
    """Op reg, [base + index + displacement]; the base is none of rbp and r13."""
    p = put_opcode(p, opcode, wide, reg, index, base)
    place = (index & 7) << 3 | base & 7
    if displacement == 0:
        return put2(p, 0x04 | (reg & 7) << 3, place)
    if -128 <= displacement < 128:
        return put3(p, 0x44 | (reg & 7) << 3, place, displacement & 0xFF)
    return put32(put2(p, 0x84 | (reg & 7) << 3, place), displacement)


@jit
def op_immediate(p, extension, host, value, wide):
    """Add, or, and, sub, xor, cmp (0, 1, 4, 5, 6, 7): host op= value."""
    if -128 <= value < 128:
        return put1(op(p, 0x83, extension, host, wide), value & 0xFF)
    return put32(op(p, 0x81, extension, host, wide), value)


@jit
def op_vex(p, prefix, table, opcode, reg, first, rm, wide):
    """Op reg, first, rm of the VEX encoding; prefix 0, 1, 2, 3 for none, 66, F3, F2."""
    store_32(p, 0xC4 | ((reg >> 3 ^ 1) << 7 | 0x40 | (rm >> 3 ^ 1) << 5 | table) << 8
             | (wide << 7 | (first ^ 15) << 3 | prefix) << 16 | opcode << 24)  # fmt: skip
    return put1(p + 4, 0xC0 | (reg & 7) << 3 | rm & 7)


@jit
def op_vex_state(p, prefix, table, opcode, reg, first, displacement, wide):
    """Op reg, first, [rbp + displacement] of the VEX encoding."""
    store_32(p, 0xC4 | ((reg >> 3 ^ 1) << 7 | 0x60 | table) << 8
             | (wide << 7 | (first ^ 15) << 3 | prefix) << 16 | opcode << 24)  # fmt: skip
    return put_place(p + 4, reg, displacement)


@jit
def move(p, to, host):
    """Mov to, host, unless they are the same."""
    return p if to == host else op(p, 0x8B, to, host, 1)


@jit
def load_x(p, to, register):
    """Mov to, x[register]."""
    if register == 0:
        return op(p, 0x33, to, to, 0)
    return p if HOST_OF[register] == to else op_x(p, 0x8B, to, register, 1)


@jit
def bring(p, register, free):
    """Load ``x[register]`` into the free register, unless it has a host register; ``host_or`` says where it is."""
    return p if HOST_OF[register] >= 0 else load_x(p, free, register)


@jit
def settle(p, register, host):
    """mov x[register], host."""
    if register == DISCARDED:
        return p
    to = HOST_OF[register]
    return move(p, to, host) if to >= 0 else op_state(p, 0x89, host, X_PLACE + register * 8, 1)


@jit
def load_constant(p, host, value):
    """Mov host, value."""
    if value == 0:
        return op(p, 0x33, host, host, 0)
    if value >> 31 == 0:
        return put32(put2(p, 0x40 | host >> 3, 0xB8 | host & 7), value)
    if value >> 31 == -1:
        return put32(op(p, 0xC7, 0, host, 1), value)
    return put64(put2(p, 0x48 | host >> 3, 0xB8 | host & 7), value)


@jit
def add_constant(p, to, host, value):
    """Lea to, [host + value]."""
    if value == 0:
        return move(p, to, host)
    if to == host:
        return op_immediate(p, 0, to, value, 1)
    short = -128 <= value < 128
    modrm = (0x40 if short else 0x80) | (to & 7) << 3 | host & 7
    p = put1(put_opcode(p, 0x8D, 1, to, 0, host), modrm)
    if host & 7 == RSP:
        p = put1(p, 0x24)
    return put1(p, value & 0xFF) if short else put32(p, value)


@jit
def add_scaled(p, to, base, index, scale):
    """Lea to, [base + (index << scale)]."""
    p = put_opcode(p, 0x8D, 1, to, index, base)
    return put3(p, 0x44 | (to & 7) << 3, scale << 6 | (index & 7) << 3 | base & 7, 0)


@jit
def load_slot(p, host, slot):
    """Mov host, S[slot]."""
    return op_state(p, 0x8B, host, S_PLACE + slot * 8, 1)


@jit
def store_slot(p, host, slot):
    """mov S[slot], host."""
    return op_state(p, 0x89, host, S_PLACE + slot * 8, 1)


@jit
def page_address(p, host, offset):
    """Mov host, the virtual address at this offset of the page that is being executed."""
    p = load_slot(p, host, st.CODE_PAGE)
    return op_immediate(p, 0, host, offset, 1) if offset else p


@jit
def test_slot(p, slot):
    """Cmp the lower half of S[slot], 0."""
    return put1(op_state(p, 0x83, 7, S_PLACE + slot * 8, 0), 0)


@jit
def extend_word(p, to, host):
    """Movsxd to, host."""
    return op(p, 0x63, to, host, 1)


@jit
def set_condition(p, condition, host):
    """Setcc and movzx into a whole register."""
    return op(op(p, 0x0F90 | condition, 0, host, 0), 0x0FB6, host, host, 0)


@jit
def jump(p, target):
    """Jmp target."""
    return put32(put1(p, 0xE9), target - (p + 5))


@jit
def jump_if(p, condition):
    """Jcc; what follows is the displacement, for ``patch``."""
    return put2(p, 0x0F, 0x80 | condition)


@jit
def patch(site, target):
    """Make the 32-bit displacement at ``site`` lead to ``target``; both in the same mapping."""
    store_32(site, target - (site + 4))


@jit
def patch_short(site, target):
    """Make the 8-bit displacement at ``site`` lead to ``target``."""
    store_8(site, target - (site + 1))
