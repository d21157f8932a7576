"""What the translator emits for an instruction: one row each, by the name the instruction has in ``isa``.

A row is an expression over ``p`` (where to write), ``w`` (the decoded word) and ``offset`` (of the instruction in its
page); it leaves the result in rax. Instructions without a row are executed by the interpreter.
"""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.x86.assembler import (
    RAX,
    RCX,
    extend_word,
    load_constant,
    load_register,
    put1,
    put2,
    put3,
    put4,
    set_condition,
    with_immediate,
    with_register,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

LESS, BELOW = 0xC, 0x2  # condition codes


@jit
def rs1(w):
    return w >> 16 & 31


@jit
def rs2(w):
    return w >> 21 & 31


@jit
def binary(p, w, opcode, wide):
    """Op rax, x[rs2], for opcodes that take a memory operand."""
    p = load_register(p, RAX, rs1(w))
    if rs2(w) == 0:
        p = load_register(p, RCX, 0)
        if wide:
            p = put1(p, 0x48)
        p = put2(p, opcode, 0xC1)
    else:
        p = with_register(p, opcode, rs2(w), wide)
    return p if wide else extend_word(p)


@jit
def add_immediate(p, w):
    if rs1(w) == 0:
        return load_constant(p, w >> 32)
    p = load_register(p, RAX, rs1(w))
    return with_immediate(p, 0x05, w >> 32, 1) if w >> 32 != 0 else p


@jit
def immediate(p, w, opcode):
    return with_immediate(load_register(p, RAX, rs1(w)), opcode, w >> 32, 1)


@jit
def add_word_immediate(p, w):
    p = load_register(p, RAX, rs1(w))
    if w >> 32 != 0:
        p = with_immediate(p, 0x05, w >> 32, 0)
    return extend_word(p)


@jit
def shift_immediate(p, w, extension):
    return put4(load_register(p, RAX, rs1(w)), 0x48, 0xC1, 0xC0 | extension << 3, w >> 32 & 63)


@jit
def shift_word_immediate(p, w, extension):
    return extend_word(put3(load_register(p, RAX, rs1(w)), 0xC1, 0xC0 | extension << 3, w >> 32 & 31))


@jit
def shift(p, w, extension):
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return put3(p, 0x48, 0xD3, 0xC0 | extension << 3)


@jit
def shift_word(p, w, extension):
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return extend_word(put2(p, 0xD3, 0xC0 | extension << 3))


@jit
def compare(p, w, condition):
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return set_condition(put3(p, 0x48, 0x39, 0xC8), condition)


@jit
def compare_immediate(p, w, condition):
    return set_condition(with_immediate(load_register(p, RAX, rs1(w)), 0x3D, w >> 32, 1), condition)


@jit
def multiply(p, w):
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return put4(p, 0x48, 0x0F, 0xAF, 0xC1)


@jit
def multiply_word(p, w):
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return extend_word(put3(p, 0x0F, 0xAF, 0xC1))


@jit
def multiply_high(p, w, modrm):
    """imul rcx (or mul rcx); mov rax, rdx."""
    p = load_register(load_register(p, RAX, rs1(w)), RCX, rs2(w))
    return put3(put3(p, 0x48, 0xF7, modrm), 0x48, 0x89, 0xD0)


@jit
def shift_and_add(p, w, amount, narrow):
    """The base, zero-extended or not, shifted, plus x[rs2]."""
    p = load_register(p, RAX, rs1(w))
    if narrow:
        p = put2(p, 0x89, 0xC0)  # mov eax, eax
    if amount:
        p = put4(p, 0x48, 0xC1, 0xE0, amount)
    return p if rs2(w) == 0 else with_register(p, 0x03, rs2(w), 1)


VALUES = {
    "lui": "load_constant(p, w >> 32)",
    "auipc": "page_address(p, offset + (w >> 32))",
    "addi": "add_immediate(p, w)",
    "xori": "immediate(p, w, 0x35)",
    "ori": "immediate(p, w, 0x0D)",
    "andi": "immediate(p, w, 0x25)",
    "slti": "compare_immediate(p, w, LESS)",
    "sltiu": "compare_immediate(p, w, BELOW)",
    "slli": "shift_immediate(p, w, 4)",
    "srli": "shift_immediate(p, w, 5)",
    "srai": "shift_immediate(p, w, 7)",
    "addiw": "add_word_immediate(p, w)",
    "slliw": "shift_word_immediate(p, w, 4)",
    "srliw": "shift_word_immediate(p, w, 5)",
    "sraiw": "shift_word_immediate(p, w, 7)",
    "add": "binary(p, w, 0x03, 1)",
    "sub": "binary(p, w, 0x2B, 1)",
    "xor": "binary(p, w, 0x33, 1)",
    "or": "binary(p, w, 0x0B, 1)",
    "and": "binary(p, w, 0x23, 1)",
    "addw": "binary(p, w, 0x03, 0)",
    "subw": "binary(p, w, 0x2B, 0)",
    "sll": "shift(p, w, 4)",
    "srl": "shift(p, w, 5)",
    "sra": "shift(p, w, 7)",
    "sllw": "shift_word(p, w, 4)",
    "srlw": "shift_word(p, w, 5)",
    "sraw": "shift_word(p, w, 7)",
    "slt": "compare(p, w, LESS)",
    "sltu": "compare(p, w, BELOW)",
    "mul": "multiply(p, w)",
    "mulw": "multiply_word(p, w)",
    "mulh": "multiply_high(p, w, 0xE9)",
    "mulhu": "multiply_high(p, w, 0xE1)",
    "add.uw": "shift_and_add(p, w, 0, 1)",
    "sh1add": "shift_and_add(p, w, 1, 0)",
    "sh2add": "shift_and_add(p, w, 2, 0)",
    "sh3add": "shift_and_add(p, w, 3, 0)",
    "sh1add.uw": "shift_and_add(p, w, 1, 1)",
    "sh2add.uw": "shift_and_add(p, w, 2, 1)",
    "sh3add.uw": "shift_and_add(p, w, 3, 1)",
}
BRANCHES = {"beq": 0x4, "bne": 0x5, "blt": 0xC, "bge": 0xD, "bltu": 0x2, "bgeu": 0x3}  # condition codes
LOADS = {  # the instruction that loads [rax + rdx] into rax, as opcode bytes (the ModRM and SIB bytes follow)
    "lb": (0x48, 0x0F, 0xBE), "lh": (0x48, 0x0F, 0xBF), "lw": (0x48, 0x63), "ld": (0x48, 0x8B),
    "lbu": (0x0F, 0xB6), "lhu": (0x0F, 0xB7), "lwu": (0x8B,),
}  # fmt: skip
STORES = {"sb": (0x88,), "sh": (0x66, 0x89), "sw": (0x89,), "sd": (0x48, 0x89)}  # rcx to [rax + rdx]
