"""What the translator emits for floating point: the host's own arithmetic, whose flags are the guest's.

A block's first such instruction finds S[FLOAT_READY] set, or leaves: then FS is dirty, the rounding mode is to nearest
even, and the host's MXCSR gathers flags, which the dispatcher hands over to ``fflags`` (x86 detects tininess after
rounding, as RISC-V does: unprivileged §20.2). Wherever the host's result would differ (a NaN, an operand that is not
boxed, an integer out of range) the block is left before the result is stored, and the interpreter executes the
instruction; such a jump's displacement is remembered in ``S[ESCAPES]``, one after the other.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import inlined, jit
from cpu_proc.engine.x86.assembler import (
    DISCARDED,
    F_PLACE,
    IF_EQUAL,
    IF_NOT_EQUAL,
    IF_PARITY,
    IF_SIGN,
    RAX,
    RCX,
    RDX,
    S_PLACE,
    bring,
    host_or,
    jump_if,
    load_constant,
    load_x,
    op,
    op_immediate,
    op_memory,
    op_state,
    op_vex_state,
    put1,
    put4,
    put32,
    settle,
    store_slot,
    test_slot,
)
from cpu_proc.engine.x86.blocks import escape
from cpu_proc.engine.x86.integer import low_word, rd, rs1, rs2
from cpu_proc.engine.x86.memory import base, put_store

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@inlined
def prefix(double):
    return 0xF2 if double else 0xF3


@inlined
def place(register):
    """Return the displacement of ``f[register]`` from rbp."""
    return F_PLACE + register * 8


@inlined
def rs3(w):
    return w >> 35 & 31


@jit
def boxed(S, p, register, double):
    """Leave unless a single is boxed; what this block boxed is known to be."""
    if double or S[st.BOXED] >> register & 1:
        return p
    S[st.BOXED] |= 1 << register
    p = put1(op_state(p, 0x83, 7, place(register) + 4, 0), 0xFF)
    return escape(S, p, IF_NOT_EQUAL)


@jit
def load_f(S, p, xmm, register, double):
    """Movsd or movss xmm, f[register]."""
    p = boxed(S, p, register, double)
    return op_state(put1(p, prefix(double)), 0x0F10, xmm, place(register), 0)


@jit
def written(S, p, w, double):
    """Finish a write to f[rd]: a single is boxed, its upper half filled with ones."""
    if double:
        S[st.BOXED] &= ~(1 << rd(w))
        return p
    S[st.BOXED] |= 1 << rd(w)
    return put32(op_state(p, 0xC7, 0, place(rd(w)) + 4, 0), -1)


@jit
def store_f(S, p, w, double):
    """f[rd] = xmm0."""
    return written(S, op_state(put1(p, prefix(double)), 0x0F11, 0, place(rd(w)), 0), w, double)


@jit
def store_bits(S, p, w, host, double):
    """f[rd] = a host register, or its lower half."""
    return written(S, op_state(p, 0x89, host, place(rd(w)), double), w, double)


@jit
def settle_number(S, p, w, double):
    """f[rd] = xmm0, unless that is a NaN, which the guest spells in one way alone (§20.3)."""
    if double:
        p = put1(p, 0x66)
    p = op(p, 0x0F2E, 0, 0, 0)  # ucomis: only a NaN is not in order with itself
    return store_f(S, escape(S, p, IF_PARITY), w, double)


@jit
def compare_f(p, opcode, double, register):
    """Ucomis or comis xmm0, f[register]."""
    if double:
        p = put1(p, 0x66)
    return op_state(p, opcode, 0, place(register), 0)


@jit
def arithmetic(S, p, w, opcode, double):
    p = load_f(S, p, 0, rs1(w), double)
    p = boxed(S, p, rs2(w), double)
    return settle_number(S, op_state(put1(p, prefix(double)), opcode, 0, place(rs2(w)), 0), w, double)


@jit
def square_root(S, p, w, double):
    p = load_f(S, p, 0, rs1(w), double)
    return settle_number(S, op(put1(p, prefix(double)), 0x0F51, 0, 0, 0), w, double)


@jit
def multiply_add(S, p, w, opcode, double):
    """xmm0 = ±(xmm0 * f[rs2]) ± f[rs3]: vf(n)m(add|sub)213."""
    p = load_f(S, load_f(S, p, 0, rs1(w), double), 1, rs2(w), double)
    p = boxed(S, p, rs3(w), double)
    return settle_number(S, op_vex_state(p, 1, 2, opcode, 0, 1, place(rs3(w)), double), w, double)


@jit
def extreme(S, p, w, opcode, double):
    """Fmin, fmax: the host's take the second of two equal ones, so both orders are asked, for the sign of zero."""
    p = load_f(S, load_f(S, p, 0, rs1(w), double), 1, rs2(w), double)
    p = escape(S, compare_f(p, 0x0F2E, double, rs2(w)), IF_PARITY)
    p = op(p, 0x0F28, 2, 0, 0)  # movaps xmm2, xmm0
    p = op(put1(p, prefix(double)), opcode, 0, 1, 0)
    p = op(put1(p, prefix(double)), opcode, 1, 2, 0)
    return store_f(S, op(p, 0x0F56 if opcode == 0x0F5D else 0x0F54, 0, 1, 0), w, double)  # orps, andps


@jit
def equal(S, p, w, double):
    p = boxed(S, load_f(S, p, 0, rs1(w), double), rs2(w), double)
    p = compare_f(p, 0x0F2E, double, rs2(w))
    p = op(op(p, 0x0F90 | IF_EQUAL, 0, RAX, 0), 0x0F90 | IF_PARITY | 1, 0, RCX, 0)  # sete al; setnp cl
    return settle(op(op(p, 0x23, RAX, RCX, 0), 0x0FB6, RAX, RAX, 0), rd(w), RAX)


@jit
def less(S, p, w, condition, double):
    """Flt, fle: the operands in the other order, so that an unordered pair is neither."""
    p = boxed(S, load_f(S, p, 0, rs2(w), double), rs1(w), double)
    p = compare_f(p, 0x0F2F, double, rs1(w))
    return settle(op(op(p, 0x0F90 | condition, 0, RAX, 0), 0x0FB6, RAX, RAX, 0), rd(w), RAX)


@jit
def with_sign(S, p, w, operation, double):
    """Fsgnj, fsgnjn, fsgnjx (0, 1, 2): bits alone."""
    a, b = rs1(w), rs2(w)
    p = boxed(S, boxed(S, p, a, double), b, double)
    p = op_state(p, 0x8B, RAX, place(a), double)
    top = 63 if double else 31
    if a == b and operation:
        p = put1(op(p, 0x0FBA, 7 if operation == 1 else 6, RAX, double), top)  # btc, btr
    elif a != b:
        p = op_state(p, 0x8B, RCX, place(b), double)
        if operation == 1:
            p = op(p, 0xF7, 2, RCX, double)
        if operation != 2:
            p = op(p, 0x33, RCX, RAX, double)
        p = put1(op(put1(op(p, 0xC1, 5, RCX, double), top), 0xC1, 4, RCX, double), top)
        p = op(p, 0x33, RAX, RCX, double)
    return store_bits(S, p, w, RAX, double)


@jit
def to_integer(S, p, w, wide, double):
    """Cvtt for truncation, cvt for the mode in force; what is out of range has the host's own mark."""
    p = load_f(S, p, 0, rs1(w), double)
    p = op(put1(p, prefix(double)), 0x0F2C if w >> 32 & 7 == 1 else 0x0F2D, RAX, 0, wide)
    p = op(load_constant(p, RCX, -1 << 63), 0x3B, RAX, RCX, 1) if wide else put32(op(p, 0x81, 7, RAX, 0), -1 << 31)
    p = escape(S, p, IF_EQUAL)
    return settle(p if wide else op(p, 0x63, RAX, RAX, 1), rd(w), RAX)


@jit
def from_integer(S, p, w, source, double):
    """Cvtsi2sd or ss from w, wu, l, lu (0-3); only the largest of the last are not the host's."""
    wide = 1 if source else 0
    p = op(p, 0x0F57, 0, 0, 0)  # xorps: the rest of the register is an operand too
    if source == 1:
        p = low_word(p, w, RAX)
        p = op(put1(p, prefix(double)), 0x0F2A, 0, RAX, 1)
        return store_f(S, p, w, double)
    if source == 3:
        p = bring(p, rs1(w), RAX)
        p = escape(S, op(p, 0x85, host_or(rs1(w), RAX), host_or(rs1(w), RAX), 1), IF_SIGN)
    p = put1(bring(p, rs1(w), RAX), prefix(double))
    return store_f(S, op(p, 0x0F2A, 0, host_or(rs1(w), RAX), wide), w, double)


@jit
def change_precision(S, p, w, double):
    """Cvtsd2ss, cvtss2sd; ``double`` says what the operand is."""
    p = load_f(S, p, 0, rs1(w), double)
    return settle_number(S, op(put1(p, prefix(double)), 0x0F5A, 0, 0, 0), w, 1 - double)


@jit
def move_to_integer(p, w, double):
    return settle(op_state(p, 0x8B if double else 0x63, RAX, place(rs1(w)), 1), rd(w), RAX)


@jit
def move_from_integer(S, p, w, double):
    return store_bits(S, bring(p, rs1(w), RAX), w, host_or(rs1(w), RAX), double)


@jit
def exchange_flags(p, w, only_reads):
    """Frflags, and fsflags with an old value or without: what fflags holds and what the host has gathered since."""
    if rd(w) != DISCARDED:
        p = op_state(p, 0x0FAE, 3, S_PLACE + st.MXCSR * 8, 0)  # stmxcsr
        p = op_immediate(op_state(p, 0x8B, RAX, S_PLACE + st.MXCSR * 8, 0), 4, RAX, 0x3F, 0)
        p = put32(put4(p, 0x0F, 0xB6, 0x84, 0x05), S_PLACE + st.FLAGS_TABLE * 8)  # movzx eax, [rbp + rax + table]
        p = op_state(p, 0x0B, RAX, S_PLACE + st.FFLAGS * 8, 1)
    if only_reads == 0:
        p = op_immediate(load_x(p, RCX, rs1(w)), 4, RCX, 31, 1)
        p = store_slot(p, RCX, st.FFLAGS)
        p = op_state(p, 0x0FAE, 2, S_PLACE + st.MXCSR_CLEAR * 8, 0)  # ldmxcsr
    return settle(p, rd(w), RAX)


@jit
def load(S, p, w, double):
    """The access of a load into a floating register."""
    p = op_memory(p, 0x8B, RAX, RDX, base(w), w >> 32, double)
    return store_bits(S, p, w, RAX, double)


@jit
def store(p, w, double):
    """The access of a store from a floating register."""
    p = op_state(p, 0x8B, RCX, place(rs2(w)), 1)
    return put_store(p, w, RCX, 8 if double else 4)


@jit
def ready(p):
    """Cmp S[FLOAT_READY], 0; what follows is the displacement of the jump if it is not set."""
    return jump_if(test_slot(p, st.FLOAT_READY), IF_EQUAL)
