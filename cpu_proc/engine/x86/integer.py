"""What the translator emits for integer arithmetic: one function for each form that ``templates`` names.

All take where to write, the decoded word, and the numbers of the instruction's row; ``rd`` is never x0 here. A guest
register in memory is loaded whole, and on its own: hosts that rename memory make such a load free after a store, where
an operand in memory, or half of it, costs four cycles.
"""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import store_8
from cpu_proc.engine.x86.assembler import (
    ADD,
    AND,
    HOST_OF,
    IF_BELOW,
    IF_EQUAL,
    IF_NOT_EQUAL,
    OR,
    RAX,
    RCX,
    RDX,
    SUBTRACT,
    XOR,
    add_constant,
    add_scaled,
    bring,
    extend_word,
    host_or,
    load_constant,
    load_x,
    move,
    op,
    op_immediate,
    op_vex,
    op_x,
    patch_short,
    put1,
    put2,
    set_condition,
    settle,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

HELD = 1 << 29  # in a decoded word: the first operand is in rax (its number plus IN_RAX)


@jit
def rd(w):
    return w >> 10 & 63


@jit
def rs1(w):
    return w >> 16 & 31 | (w & HELD) >> 23


@jit
def rs2(w):
    return w >> 21 & 31


@jit
def first_operand(p, w, to, wide):
    """Mov to, x[rs1]; of a word the upper half does not matter."""
    if wide or HOST_OF[rs1(w)] < 0:
        return load_x(p, to, rs1(w))
    return p if HOST_OF[rs1(w)] == to else op(p, 0x8B, to, HOST_OF[rs1(w)], 0)


@jit
def low_word(p, w, to):
    """Mov to, the lower half of x[rs1], zero-extended."""
    return op(bring(p, rs1(w), to), 0x8B, to, host_or(rs1(w), to), 0)


@jit
def finish(p, w, host, wide):
    """Put the result into x[rd]; a word is extended on the way."""
    if wide:
        return settle(p, rd(w), host)
    to = host_or(rd(w), host)
    return settle(extend_word(p, to, host), rd(w), to)


@jit
def binary(p, w, opcode, wide):
    """Two operands; the first has to be moved into place, unless it is there."""
    a, b = rs1(w), rs2(w)
    if opcode != SUBTRACT and HOST_OF[b] >= 0 and HOST_OF[b] == HOST_OF[rd(w)]:
        a, b = b, a
    to = host_or(rd(w), RAX)
    if to == HOST_OF[b] and a != b:
        to = RAX
    if opcode == ADD and wide and HOST_OF[a] >= 0 and HOST_OF[b] >= 0 and to != HOST_OF[a]:
        return settle(add_scaled(p, to, HOST_OF[a], HOST_OF[b], 0), rd(w), to)
    if b == 0 and opcode != AND:  # everything but "and" leaves the first operand
        return finish(load_x(p, to, a), w, to, wide)
    p = bring(load_x(p, to, a), b, RCX)
    return finish(op(p, opcode, to, host_or(b, RCX), wide), w, to, wide)


@jit
def add_immediate(p, w):
    to = host_or(rd(w), RAX)
    if rs1(w) == 0:
        return settle(load_constant(p, to, w >> 32), rd(w), to)
    host = HOST_OF[rs1(w)]
    if host >= 0:
        return settle(add_constant(p, to, host, w >> 32), rd(w), to)
    return settle(add_constant(load_x(p, to, rs1(w)), to, to, w >> 32), rd(w), to)


@jit
def add_word_immediate(p, w):
    to = host_or(rd(w), RAX)
    if w >> 32 == 0:
        return settle(op(bring(p, rs1(w), RAX), 0x63, to, host_or(rs1(w), RAX), 1), rd(w), to)
    if HOST_OF[rs1(w)] >= 0:
        return finish(add_constant(p, to, HOST_OF[rs1(w)], w >> 32), w, to, 0)
    return finish(op_immediate(first_operand(p, w, to, 0), 0, to, w >> 32, 0), w, to, 0)


@jit
def immediate(p, w, extension):
    to = host_or(rd(w), RAX)
    if w >> 32 == 0xFF and extension == 4:  # movzx
        return settle(op(bring(p, rs1(w), RAX), 0x0FB6, to, host_or(rs1(w), RAX), 0), rd(w), to)
    return settle(op_immediate(load_x(p, to, rs1(w)), extension, to, w >> 32, 1), rd(w), to)


@jit
def shift_immediate(p, w, extension, wide):
    to = host_or(rd(w), RAX)
    amount = w >> 32 & (63 if wide else 31)
    p = first_operand(p, w, to, wide)
    if amount:
        p = put1(op(p, 0xC1, extension, to, wide), amount)
    return finish(p, w, to, wide or (extension == 5 and amount))  # a word shifted right has no sign


@jit
def shift_word_left(p, w):
    """slli.uw: the lower word, shifted."""
    to = host_or(rd(w), RAX)
    p = low_word(p, w, to)
    return settle(put1(op(p, 0xC1, 4, to, 1), w >> 32 & 63), rd(w), to)


@jit
def shift(p, w, prefix, wide):
    """Shlx, sarx, shrx (prefix 1, 2, 3)."""
    p = bring(bring(p, rs1(w), RAX), rs2(w), RCX)
    to = host_or(rd(w), RAX)
    return finish(op_vex(p, prefix, 2, 0xF7, to, host_or(rs2(w), RCX), host_or(rs1(w), RAX), wide), w, to, wide)


@jit
def rotate(p, w, extension, wide):
    p = load_x(first_operand(p, w, RAX, wide), RCX, rs2(w))
    return finish(op(p, 0xD3, extension, RAX, wide), w, RAX, wide)


@jit
def rotate_immediate(p, w, wide):
    """rorx."""
    to = host_or(rd(w), RAX)
    p = op_vex(bring(p, rs1(w), RAX), 3, 3, 0xF0, to, 0, host_or(rs1(w), RAX), wide)
    return finish(put1(p, w >> 32 & 63), w, to, wide)


@jit
def compare_operands(p, a, b):
    """Cmp x[a], x[b]."""
    if b == 0:
        return test(p, a)
    if HOST_OF[a] < 0 and HOST_OF[b] >= 0:
        return op_x(p, 0x39, HOST_OF[b], a, 1)
    return op_x(bring(p, a, RAX), 0x3B, host_or(a, RAX), b, 1)


@jit
def test(p, register):
    """Cmp x[register], 0."""
    host = HOST_OF[register]
    if host >= 0:
        return op(p, 0x85, host, host, 1)
    return put1(op_x(p, 0x83, 7, register, 1), 0)


@jit
def compare(p, w, condition):
    if rs1(w) == 0 and condition == IF_BELOW:
        return settle(set_condition(test(p, rs2(w)), IF_NOT_EQUAL, RAX), rd(w), RAX)
    return settle(set_condition(compare_operands(p, rs1(w), rs2(w)), condition, RAX), rd(w), RAX)


@jit
def compare_immediate(p, w, condition):
    if w >> 32 == 1 and condition == IF_BELOW:
        return settle(set_condition(test(p, rs1(w)), IF_EQUAL, RAX), rd(w), RAX)
    p = op_immediate(bring(p, rs1(w), RAX), 7, host_or(rs1(w), RAX), w >> 32, 1)
    return settle(set_condition(p, condition, RAX), rd(w), RAX)


@jit
def multiply(p, w, wide):
    return binary(p, w, 0x0FAF, wide) if rs2(w) else settle(load_constant(p, RAX, 0), rd(w), RAX)


@jit
def multiply_high(p, w, extension, mixed):
    """imul or mul x[rs2] (5, 4); for mulhsu, what the sign of the first operand counts is taken off."""
    p = bring(load_x(p, RAX, rs1(w)), rs2(w), RCX)
    p = op(p, 0xF7, extension, host_or(rs2(w), RCX), 1)
    if mixed:
        p = put1(op(load_x(p, RAX, rs1(w)), 0xC1, 7, RAX, 1), 63)
        p = op(op(p, AND, RAX, host_or(rs2(w), RCX), 1), SUBTRACT, RDX, RAX, 1)
    return settle(p, rd(w), RDX)


@jit
def divide(p, w, signed, wide, result):
    """Div or idiv; what the host would trap on has answers here (RISC-V unprivileged §13.2)."""
    p = first_operand(load_x(p, RCX, rs2(w)), w, RAX, 1)
    p = put2(op(p, 0x85, RCX, RCX, wide), 0x70 | IF_EQUAL, 0)
    by_zero = p - 1
    by_minus_one = 0
    if signed:
        p = put2(op_immediate(p, 7, RCX, -1, wide), 0x70 | IF_EQUAL, 0)
        by_minus_one = p - 1
        p = put2(p, 0x48 if wide else 0x40, 0x99)  # cqo, cdq
        p = op(p, 0xF7, 7, RCX, wide)
    else:
        p = op(op(p, XOR, RDX, RDX, 0), 0xF7, 6, RCX, wide)
    p = put2(p, 0xEB, 0)
    done = p - 1
    done_too = 0
    if signed:
        patch_short(by_minus_one, p)
        p = op(op(p, 0xF7, 3, RAX, wide), XOR, RDX, RDX, 0)  # neg rax; xor edx, edx
        p = put2(p, 0xEB, 0)
        done_too = p - 1
    patch_short(by_zero, p)
    p = load_constant(move(p, RDX, RAX), RAX, -1)
    patch_short(done, p)
    if signed:
        patch_short(done_too, p)
    return finish(p, w, result, wide)


@jit
def shift_and_add(p, w, scale, narrow):
    """The first operand, or its lower word, shifted, plus the second."""
    index = RAX
    if narrow:
        p = low_word(p, w, RAX)
    else:
        p = bring(p, rs1(w), RAX)
        index = host_or(rs1(w), RAX)
    to = host_or(rd(w), RAX)
    return settle(add_scaled(bring(p, rs2(w), RCX), to, host_or(rs2(w), RCX), index, scale), rd(w), to)


@jit
def unary(p, w, opcode, prefix, wide):
    """One operand that the opcode takes from wherever it is: extensions and counts."""
    to = host_or(rd(w), RAX)
    p = bring(p, rs1(w), RAX)
    if prefix:
        p = put1(p, prefix)
    return settle(op(p, opcode, to, host_or(rs1(w), RAX), wide), rd(w), to)


@jit
def logic_with_not(p, w, opcode):
    """orn, xnor: the first operand with the second's complement."""
    p = op(load_x(p, RAX, rs2(w)), 0xF7, 2, RAX, 1)
    p = bring(p, rs1(w), RCX)
    return settle(op(p, opcode, RAX, host_or(rs1(w), RCX), 1), rd(w), RAX)


@jit
def and_with_not(p, w):
    """Andn, whose first operand is the one complemented."""
    p = bring(bring(p, rs1(w), RAX), rs2(w), RCX)
    to = host_or(rd(w), RAX)
    return settle(op_vex(p, 0, 2, 0xF2, to, host_or(rs2(w), RCX), host_or(rs1(w), RAX), 1), rd(w), to)


@jit
def choose(p, w, condition):
    """Minima and maxima: cmp, cmov."""
    p = bring(load_x(p, RAX, rs1(w)), rs2(w), RCX)
    second = host_or(rs2(w), RCX)
    return settle(op(op(p, 0x3B, RAX, second, 1), 0x0F40 | condition, RAX, second, 1), rd(w), RAX)


@jit
def choose_zero(p, w, condition):
    """Zicond: the first operand, or zero."""
    p = op(load_x(p, RAX, rs1(w)), XOR, RCX, RCX, 0)
    p = op(test(p, rs2(w)), 0x0F40 | condition, RAX, RCX, 1)
    return settle(p, rd(w), RAX)


@jit
def reverse_bytes(p, w):
    to = host_or(rd(w), RAX)
    p = load_x(p, to, rs1(w))
    return settle(put2(put1(p, 0x48 | to >> 3), 0x0F, 0xC8 | to & 7), rd(w), to)


@jit
def spread_bytes(p, w):
    """orc.b: the top bit of each byte that is not zero, times 255."""
    p = load_constant(load_x(p, RAX, rs1(w)), RCX, 0x7F7F7F7F7F7F7F7F)
    p = op(op(move(p, RDX, RAX), AND, RAX, RCX, 1), ADD, RAX, RCX, 1)
    p = op(op(p, OR, RAX, RDX, 1), 0xF7, 2, RCX, 1)  # or rax, rdx; not rcx
    p = put1(op(op(p, AND, RAX, RCX, 1), 0xC1, 5, RAX, 1), 7)  # and rax, rcx; shr rax, 7
    p = op(p, 0x69, RAX, RAX, 1)  # imul rax, rax, 255
    store_8(p, 255)
    store_8(p + 1, 0)
    store_8(p + 2, 0)
    store_8(p + 3, 0)
    return settle(p + 4, rd(w), RAX)


@jit
def one_bit(p, w, opcode):
    """Bts, btr, btc with a register."""
    p = bring(load_x(p, RAX, rs1(w)), rs2(w), RCX)
    return settle(op(p, opcode, host_or(rs2(w), RCX), RAX, 1), rd(w), RAX)


@jit
def one_bit_immediate(p, w, extension):
    to = host_or(rd(w), RAX)
    p = op(load_x(p, to, rs1(w)), 0x0FBA, extension, to, 1)
    return settle(put1(p, w >> 32 & 63), rd(w), to)


@jit
def extract_bit(p, w):
    p = bring(bring(p, rs1(w), RAX), rs2(w), RCX)
    p = op_vex(p, 3, 2, 0xF7, RAX, host_or(rs2(w), RCX), host_or(rs1(w), RAX), 1)
    return settle(op_immediate(p, 4, RAX, 1, 0), rd(w), RAX)


@jit
def extract_bit_immediate(p, w):
    to = host_or(rd(w), RAX)
    p = load_x(p, to, rs1(w))
    if w >> 32 & 63:
        p = put1(op(p, 0xC1, 5, to, 1), w >> 32 & 63)
    return settle(op_immediate(p, 4, to, 1, 0), rd(w), to)


@jit
def pack_words(p, w):
    """Pack: the lower words of both."""
    p = put1(op(load_x(p, RCX, rs2(w)), 0xC1, 4, RCX, 1), 32)
    p = low_word(p, w, RAX)
    return settle(op(p, OR, RAX, RCX, 1), rd(w), RAX)
