"""What the translator emits for each instruction: one row, by the name the instruction has in ``isa``.

A row names a form, which is a function of ``integer``, ``memory``, ``floating`` or ``translate``, and up to three
numbers that it takes: host opcodes, condition codes, sizes. An instruction without a row is the interpreter's.
"""

from __future__ import annotations

from enum import IntEnum, auto

import numpy as np

from cpu_proc.engine.numbering import numbers
from cpu_proc.engine.x86.assembler import ADD, AND, IF_BELOW, IF_EQUAL, IF_LESS, IF_NOT_EQUAL, OR, SUBTRACT, XOR


class Form(IntEnum):
    """How an instruction is translated; the order tells values from floating point, memory and jumps."""

    NOTHING = 0
    # values: what they compute goes to an integer register, and there is nothing else to them
    CONSTANT = auto()
    PC_RELATIVE = auto()
    BINARY = auto()  # opcode, wide
    ADD_IMMEDIATE = auto()
    ADD_WORD_IMMEDIATE = auto()
    IMMEDIATE = auto()  # opcode extension
    SHIFT_IMMEDIATE = auto()  # opcode extension, wide
    SHIFT_WORD_LEFT = auto()
    SHIFT = auto()  # VEX prefix, wide
    ROTATE = auto()  # opcode extension, wide
    ROTATE_IMMEDIATE = auto()  # wide
    COMPARE = auto()  # condition
    COMPARE_IMMEDIATE = auto()  # condition
    MULTIPLY = auto()  # wide
    MULTIPLY_HIGH = auto()  # opcode extension, whether mixed
    DIVIDE = auto()  # signed, wide, host register of the result
    SHIFT_AND_ADD = auto()  # scale, narrow
    UNARY = auto()  # opcode, prefix, wide
    LOGIC_WITH_NOT = auto()  # opcode
    AND_WITH_NOT = auto()
    CHOOSE = auto()  # condition
    CHOOSE_ZERO = auto()  # condition
    REVERSE_BYTES = auto()
    SPREAD_BYTES = auto()
    ONE_BIT = auto()  # opcode
    ONE_BIT_IMMEDIATE = auto()  # opcode extension
    EXTRACT_BIT = auto()
    EXTRACT_BIT_IMMEDIATE = auto()
    PACK_WORDS = auto()
    LAST_VALUE = auto()
    FENCE = auto()
    # memory; the third number is the size
    FLOAT_LOAD = auto()  # -, double, size
    LOAD = auto()  # opcode, wide, size
    LOAD_RESERVED = auto()  # -, -, size
    LAST_LOAD = auto()
    EXCHANGE = auto()  # opcode, -, size
    MODIFY = auto()  # opcode, -, size
    ZERO_BLOCK = auto()
    STORE_CONDITIONAL = auto()  # -, -, size
    FLOAT_STORE = auto()  # -, double, size
    STORE = auto()  # -, -, size
    LAST_MEMORY = auto()
    # floating point; the second number tells doubles
    ARITHMETIC = auto()  # opcode
    SQUARE_ROOT = auto()
    MULTIPLY_ADD = auto()  # opcode
    EXTREME = auto()  # opcode
    WITH_SIGN = auto()  # operation
    CHANGE_PRECISION = auto()
    FROM_INTEGER = auto()  # source
    MOVE_FROM_INTEGER = auto()
    EXCHANGE_FLAGS = auto()  # whether it is csrrs
    EQUAL = auto()
    LESS = auto()  # condition
    TO_INTEGER = auto()  # wide
    MOVE_TO_INTEGER = auto()
    LAST_FLOAT = auto()
    # jumps
    BRANCH = auto()  # condition, condition with the operands exchanged
    JUMP = auto()
    JUMP_TO_REGISTER = auto()


F = Form
_QUOTIENT, _REMAINDER = 0, 2  # rax, rdx

_INTEGER: dict[str, tuple[int, ...]] = {
    "lui": (F.CONSTANT,), "auipc": (F.PC_RELATIVE,),
    "addi": (F.ADD_IMMEDIATE,), "addiw": (F.ADD_WORD_IMMEDIATE,),
    "xori": (F.IMMEDIATE, 6), "ori": (F.IMMEDIATE, 1), "andi": (F.IMMEDIATE, 4),
    "slti": (F.COMPARE_IMMEDIATE, IF_LESS), "sltiu": (F.COMPARE_IMMEDIATE, IF_BELOW),
    "slt": (F.COMPARE, IF_LESS), "sltu": (F.COMPARE, IF_BELOW),
    "add": (F.BINARY, ADD, 1), "sub": (F.BINARY, SUBTRACT, 1), "xor": (F.BINARY, XOR, 1),
    "or": (F.BINARY, OR, 1), "and": (F.BINARY, AND, 1), "addw": (F.BINARY, ADD, 0), "subw": (F.BINARY, SUBTRACT, 0),
    "slli": (F.SHIFT_IMMEDIATE, 4, 1), "srli": (F.SHIFT_IMMEDIATE, 5, 1), "srai": (F.SHIFT_IMMEDIATE, 7, 1),
    "slliw": (F.SHIFT_IMMEDIATE, 4, 0), "srliw": (F.SHIFT_IMMEDIATE, 5, 0), "sraiw": (F.SHIFT_IMMEDIATE, 7, 0),
    "sll": (F.SHIFT, 1, 1), "srl": (F.SHIFT, 3, 1), "sra": (F.SHIFT, 2, 1),
    "sllw": (F.SHIFT, 1, 0), "srlw": (F.SHIFT, 3, 0), "sraw": (F.SHIFT, 2, 0),
    "fence": (F.FENCE,), "pause": (F.FENCE,),
    # M
    "mul": (F.MULTIPLY, 1), "mulw": (F.MULTIPLY, 0),
    "mulh": (F.MULTIPLY_HIGH, 5, 0), "mulhu": (F.MULTIPLY_HIGH, 4, 0), "mulhsu": (F.MULTIPLY_HIGH, 4, 1),
    "div": (F.DIVIDE, 1, 1, _QUOTIENT), "divu": (F.DIVIDE, 0, 1, _QUOTIENT),
    "rem": (F.DIVIDE, 1, 1, _REMAINDER), "remu": (F.DIVIDE, 0, 1, _REMAINDER),
    "divw": (F.DIVIDE, 1, 0, _QUOTIENT), "divuw": (F.DIVIDE, 0, 0, _QUOTIENT),
    "remw": (F.DIVIDE, 1, 0, _REMAINDER), "remuw": (F.DIVIDE, 0, 0, _REMAINDER),
    # Zba
    "add.uw": (F.SHIFT_AND_ADD, 0, 1), "slli.uw": (F.SHIFT_WORD_LEFT,),
    "sh1add": (F.SHIFT_AND_ADD, 1, 0), "sh1add.uw": (F.SHIFT_AND_ADD, 1, 1),
    "sh2add": (F.SHIFT_AND_ADD, 2, 0), "sh2add.uw": (F.SHIFT_AND_ADD, 2, 1),
    "sh3add": (F.SHIFT_AND_ADD, 3, 0), "sh3add.uw": (F.SHIFT_AND_ADD, 3, 1),
    # Zbb, Zbkb
    "andn": (F.AND_WITH_NOT,), "orn": (F.LOGIC_WITH_NOT, OR), "xnor": (F.LOGIC_WITH_NOT, XOR),
    "clz": (F.UNARY, 0x0FBD, 0xF3, 1), "ctz": (F.UNARY, 0x0FBC, 0xF3, 1), "cpop": (F.UNARY, 0x0FB8, 0xF3, 1),
    "clzw": (F.UNARY, 0x0FBD, 0xF3, 0), "ctzw": (F.UNARY, 0x0FBC, 0xF3, 0), "cpopw": (F.UNARY, 0x0FB8, 0xF3, 0),
    "sext.b": (F.UNARY, 0x0FBE, 0, 1), "sext.h": (F.UNARY, 0x0FBF, 0, 1), "zext.h": (F.UNARY, 0x0FB7, 0, 0),
    "max": (F.CHOOSE, 0xC), "min": (F.CHOOSE, 0xF), "maxu": (F.CHOOSE, 0x2), "minu": (F.CHOOSE, 0x7),
    "rol": (F.ROTATE, 0, 1), "ror": (F.ROTATE, 1, 1), "rolw": (F.ROTATE, 0, 0), "rorw": (F.ROTATE, 1, 0),
    "rori": (F.ROTATE_IMMEDIATE, 1), "roriw": (F.ROTATE_IMMEDIATE, 0),
    "rev8": (F.REVERSE_BYTES,), "orc.b": (F.SPREAD_BYTES,), "pack": (F.PACK_WORDS,),
    # Zbs, Zicond
    "bset": (F.ONE_BIT, 0x0FAB), "bclr": (F.ONE_BIT, 0x0FB3), "binv": (F.ONE_BIT, 0x0FBB), "bext": (F.EXTRACT_BIT,),
    "bseti": (F.ONE_BIT_IMMEDIATE, 5), "bclri": (F.ONE_BIT_IMMEDIATE, 6), "binvi": (F.ONE_BIT_IMMEDIATE, 7),
    "bexti": (F.EXTRACT_BIT_IMMEDIATE,),
    "czero.eqz": (F.CHOOSE_ZERO, IF_EQUAL), "czero.nez": (F.CHOOSE_ZERO, IF_NOT_EQUAL),
}  # fmt: skip
_MEMORY = {
    "lb": (F.LOAD, 0x0FBE, 1, 1), "lh": (F.LOAD, 0x0FBF, 1, 2), "lw": (F.LOAD, 0x63, 1, 4), "ld": (F.LOAD, 0x8B, 1, 8),
    "lbu": (F.LOAD, 0x0FB6, 0, 1), "lhu": (F.LOAD, 0x0FB7, 0, 2), "lwu": (F.LOAD, 0x8B, 0, 4),
    "sb": (F.STORE, 0, 0, 1), "sh": (F.STORE, 0, 0, 2), "sw": (F.STORE, 0, 0, 4), "sd": (F.STORE, 0, 0, 8),
    "flw": (F.FLOAT_LOAD, 0, 0, 4), "fld": (F.FLOAT_LOAD, 0, 1, 8),
    "fsw": (F.FLOAT_STORE, 0, 0, 4), "fsd": (F.FLOAT_STORE, 0, 1, 8),
    "cbo.zero": (F.ZERO_BLOCK, 0, 0, 1),
}  # fmt: skip
for _suffix, _size in (("w", 4), ("d", 8)):
    _MEMORY[f"amoadd.{_suffix}"] = (F.EXCHANGE, 0x0FC1, 0, _size)
    _MEMORY[f"amoswap.{_suffix}"] = (F.EXCHANGE, 0x87, 0, _size)
    for _name, _opcode in (("and", AND), ("or", OR), ("xor", XOR)):
        _MEMORY[f"amo{_name}.{_suffix}"] = (F.MODIFY, _opcode, 0, _size)
    _MEMORY[f"lr.{_suffix}"] = (F.LOAD_RESERVED, 0, 0, _size)
    _MEMORY[f"sc.{_suffix}"] = (F.STORE_CONDITIONAL, 0, 0, _size)
_FLOAT: dict[str, tuple[int, ...]] = {}
for _p, _double in (("s", 0), ("d", 1)):
    for _name, _opcode in (("add", 0x0F58), ("sub", 0x0F5C), ("mul", 0x0F59), ("div", 0x0F5E)):
        _FLOAT[f"f{_name}.{_p}"] = (F.ARITHMETIC, _opcode, _double)
    for _name, _opcode in (("madd", 0xA9), ("msub", 0xAB), ("nmsub", 0xAD), ("nmadd", 0xAF)):
        _FLOAT[f"f{_name}.{_p}"] = (F.MULTIPLY_ADD, _opcode, _double)
    for _number, _name in enumerate(("w", "wu", "l", "lu")):
        _FLOAT[f"fcvt.{_p}.{_name}"] = (F.FROM_INTEGER, _number, _double)
    _FLOAT |= {
        f"fsqrt.{_p}": (F.SQUARE_ROOT, 0, _double),
        f"fmin.{_p}": (F.EXTREME, 0x0F5D, _double), f"fmax.{_p}": (F.EXTREME, 0x0F5F, _double),
        f"feq.{_p}": (F.EQUAL, 0, _double), f"flt.{_p}": (F.LESS, 0x7, _double), f"fle.{_p}": (F.LESS, 0x3, _double),
        f"fsgnj.{_p}": (F.WITH_SIGN, 0, _double), f"fsgnjn.{_p}": (F.WITH_SIGN, 1, _double),
        f"fsgnjx.{_p}": (F.WITH_SIGN, 2, _double),
        f"fcvt.w.{_p}": (F.TO_INTEGER, 0, _double), f"fcvt.l.{_p}": (F.TO_INTEGER, 1, _double),
    }  # fmt: skip
_FLOAT |= {
    "fcvt.s.d": (F.CHANGE_PRECISION, 0, 1), "fcvt.d.s": (F.CHANGE_PRECISION, 0, 0),
    "fmv.x.d": (F.MOVE_TO_INTEGER, 0, 1), "fmv.x.w": (F.MOVE_TO_INTEGER, 0, 0),
    "fmv.d.x": (F.MOVE_FROM_INTEGER, 0, 1), "fmv.w.x": (F.MOVE_FROM_INTEGER, 0, 0),
}  # fmt: skip
_JUMPS = {
    "beq": (F.BRANCH, 0x4, 0x4), "bne": (F.BRANCH, 0x5, 0x5), "blt": (F.BRANCH, 0xC, 0xF),
    "bge": (F.BRANCH, 0xD, 0xE), "bltu": (F.BRANCH, 0x2, 0x7), "bgeu": (F.BRANCH, 0x3, 0x6),
    "jal": (F.JUMP,), "jalr": (F.JUMP_TO_REGISTER,),
}  # fmt: skip

_CSR = {  # fflags alone, as compilers read and restore it around comparisons; see forms
    "csrrw": (F.EXCHANGE_FLAGS, 0), "csrrs": (F.EXCHANGE_FLAGS, 1),
}  # fmt: skip
ROWS = _INTEGER | _MEMORY | _FLOAT | _JUMPS | _CSR
FORMS = np.zeros((1024, 4), np.int64)  # by operation number
for _row, _number in numbers().items():
    if _row in ROWS:
        FORMS[_number, : len(ROWS[_row])] = ROWS[_row]
globals().update({form.name: int(form) for form in Form})  # numbers for Numba, which takes its time over enumerations
