"""Two instructions that together do what one of the host's does: constants, addresses, elements, extensions.

The second overwrites the result of the first, which nobody sees. Debian's code is compiled for a machine without
Zba and Zbb, and so is full of shifts to the left and back.
"""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.x86 import templates as t
from cpu_proc.engine.x86.assembler import (
    ADD,
    RAX,
    RCX,
    add_scaled,
    bring,
    host_or,
    load_constant,
    op,
    page_address,
    put1,
    settle,
)
from cpu_proc.engine.x86.forms import FORMS, form_of
from cpu_proc.engine.x86.integer import rd, rs1, rs2

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

LEFT, RIGHT, RIGHT_SIGNED = 4, 5, 7  # opcode extensions


@jit
def extension_opcode(bits, sign):
    """Return the host's instruction that extends a number of so many bits; 0 if there is none."""
    if bits == 8:
        return 0x0FBE if sign else 0x0FB6
    if bits == 16:
        return 0x0FBF if sign else 0x0FB7
    if bits == 32:
        return 0x63 if sign else 0x8B
    return 0


@jit
def shift_pair(w, following):
    """Return the opcode of the extension that two shifts begin with; 0 if they are something else."""
    first, second = w & 0x3FF, following & 0x3FF
    wide = FORMS[first, 2]
    if FORMS[first, 1] != LEFT or FORMS[second, 1] == LEFT or FORMS[second, 2] != wide:
        return 0
    size = 64 if wide else 32
    left, right = w >> 32 & (size - 1), following >> 32 & (size - 1)
    if FORMS[second, 1] == RIGHT_SIGNED:
        return extension_opcode(size - left, 1) if left == right else 0
    return extension_opcode(size - left, 0) if right <= left and wide else 0


@jit
def other_operand(w, following):
    """Return what a sum adds to the result of the word before it: a register, or -1 if it is no such sum."""
    if FORMS[following & 0x3FF, 1] != ADD or FORMS[following & 0x3FF, 2] == 0:
        return -1
    if rd(w) == following >> 16 & 31:
        return rs2(following) if rs2(following) != rd(w) else -1
    return following >> 16 & 31 if rs2(following) == rd(w) else -1


@jit
def scales(w, following):
    """Tell whether two words are the address of an element of 2, 4 or 8 bytes."""
    if FORMS[w & 0x3FF, 1] != LEFT or FORMS[w & 0x3FF, 2] == 0 or form_of(following) != t.BINARY:
        return False
    return 1 <= w >> 32 <= 3 and other_operand(w, following) >= 0


@jit
def fuses(w, following):
    """Tell whether two decoded words are one instruction to the host."""
    if following == 0 or rd(w) != rd(following):
        return False
    form, second = form_of(w), form_of(following)
    if form == t.SHIFT_IMMEDIATE and scales(w, following):
        return True
    if rd(w) != following >> 16 & 31:
        return False
    if form in (t.PC_RELATIVE, t.CONSTANT):
        return second == t.ADD_IMMEDIATE or (second == t.ADD_WORD_IMMEDIATE and form == t.CONSTANT)
    return form == t.SHIFT_IMMEDIATE and second == t.SHIFT_IMMEDIATE and shift_pair(w, following) != 0


@jit
def put_pair(p, w, following, offset):
    """Put two instructions that fuse; the result goes through rax if rd has no host register."""
    form = form_of(w)
    to = host_or(rd(w), RAX)
    if form == t.PC_RELATIVE:
        return settle(page_address(p, to, offset + (w >> 32) + (following >> 32)), rd(w), to)
    if form == t.CONSTANT:
        value = (w >> 32) + (following >> 32)
        if form_of(following) == t.ADD_WORD_IMMEDIATE:
            value = (value << 32) >> 32
        return settle(load_constant(p, to, value), rd(w), to)
    if form_of(following) == t.BINARY:
        other = other_operand(w, following)
        p = bring(bring(p, rs1(w), RAX), other, RCX)
        return settle(add_scaled(p, to, host_or(other, RCX), host_or(rs1(w), RAX), w >> 32), rd(w), to)
    opcode = shift_pair(w, following)
    signed = FORMS[following & 0x3FF, 1] == RIGHT_SIGNED
    p = op(bring(p, rs1(w), RAX), opcode, to, host_or(rs1(w), RAX), 1 if signed else 0)
    rest = (w >> 32 & 63) - (following >> 32 & 63)
    if not signed and rest:
        p = put1(op(p, 0xC1, LEFT, to, 1), rest)
    return settle(p, rd(w), to)
