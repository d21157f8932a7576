"""Two instructions that together do what one of the host's does: constants, addresses, extensions.

The second overwrites the result of the first, which nobody sees. Debian's code is compiled for a machine without
Zba and Zbb, and so is full of shifts to the left and back.
"""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.x86 import templates as t
from cpu_proc.engine.x86.assembler import RAX, host_or, load_constant, op, op_x, page_address, put1, settle
from cpu_proc.engine.x86.forms import FORMS, form_of
from cpu_proc.engine.x86.integer import rd, rs1

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
def fuses(w, following):
    """Tell whether two decoded words are one instruction to the host."""
    if following == 0 or rd(w) != rd(following) or rd(w) != (following >> 16 & 31):
        return False
    form, second = form_of(w), form_of(following)
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
    opcode = shift_pair(w, following)
    signed = FORMS[following & 0x3FF, 1] == RIGHT_SIGNED
    p = op_x(p, opcode, to, rs1(w), 1 if signed else 0)
    rest = (w >> 32 & 63) - (following >> 32 & 63)
    if not signed and rest:
        p = put1(op(p, 0xC1, LEFT, to, 1), rest)
    return settle(p, rd(w), to)
