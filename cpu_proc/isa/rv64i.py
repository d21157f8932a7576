"""RV64I: integer instructions (RISC-V unprivileged §2, §4)."""

from __future__ import annotations

from cpu_proc.engine.native import shr, slt, ult
from cpu_proc.isa.table import FENCE, LOADS, SHIFT5, SHIFT6, STORES, UPPER, B, I, J, Kind, R, instruction

# the name of the function is the name of the instruction; the specification is the documentation
# mypy: disable-error-code="no-untyped-def, no-untyped-call, name-defined"


@instruction("lui", "....... ..... ..... ... ..... 0110111", UPPER)
def lui(imm):
    return imm


@instruction("auipc", "....... ..... ..... ... ..... 0010111", UPPER)
def auipc(pc, imm):
    return pc + imm


@instruction("jal", "....... ..... ..... ... ..... 1101111", J, Kind.JUMP)
def jal(pc, imm):
    return pc + imm


@instruction("jalr", "....... ..... ..... 000 ..... 1100111", LOADS, Kind.JUMP)
def jalr(rs1, imm):
    return (rs1 + imm) & -2


@instruction("beq", "....... ..... ..... 000 ..... 1100011", B, Kind.BRANCH)
def beq(rs1, rs2):
    return rs1 == rs2


@instruction("bne", "....... ..... ..... 001 ..... 1100011", B, Kind.BRANCH)
def bne(rs1, rs2):
    return rs1 != rs2


@instruction("blt", "....... ..... ..... 100 ..... 1100011", B, Kind.BRANCH)
def blt(rs1, rs2):
    return rs1 < rs2


@instruction("bge", "....... ..... ..... 101 ..... 1100011", B, Kind.BRANCH)
def bge(rs1, rs2):
    return rs1 >= rs2


@instruction("bltu", "....... ..... ..... 110 ..... 1100011", B, Kind.BRANCH)
def bltu(rs1, rs2):
    return ult(rs1, rs2) != 0


@instruction("bgeu", "....... ..... ..... 111 ..... 1100011", B, Kind.BRANCH)
def bgeu(rs1, rs2):
    return ult(rs1, rs2) == 0


def _address(rs1, imm):
    return rs1 + imm


for _name, _funct3, _width, _signed in (
    ("lb", "000", 8, True),
    ("lh", "001", 16, True),
    ("lw", "010", 32, True),
    ("ld", "011", 64, True),
    ("lbu", "100", 8, False),
    ("lhu", "101", 16, False),
    ("lwu", "110", 32, False),
):
    instruction(_name, f"....... ..... ..... {_funct3} ..... 0000011", LOADS, Kind.LOAD, width=_width, signed=_signed)(
        _address
    )

for _name, _funct3, _width in (("sb", "000", 8), ("sh", "001", 16), ("sw", "010", 32), ("sd", "011", 64)):
    instruction(_name, f"....... ..... ..... {_funct3} ..... 0100011", STORES, Kind.STORE, width=_width)(_address)


@instruction("addi", "....... ..... ..... 000 ..... 0010011", I)
def addi(rs1, imm):
    return rs1 + imm


@instruction("slti", "....... ..... ..... 010 ..... 0010011", I)
def slti(rs1, imm):
    return slt(rs1, imm)


@instruction("sltiu", "....... ..... ..... 011 ..... 0010011", I)
def sltiu(rs1, imm):
    return ult(rs1, imm)


@instruction("xori", "....... ..... ..... 100 ..... 0010011", I)
def xori(rs1, imm):
    return rs1 ^ imm


@instruction("ori", "....... ..... ..... 110 ..... 0010011", I)
def ori(rs1, imm):
    return rs1 | imm


@instruction("andi", "....... ..... ..... 111 ..... 0010011", I)
def andi(rs1, imm):
    return rs1 & imm


@instruction("slli", "000000. ..... ..... 001 ..... 0010011", SHIFT6)
def slli(rs1, imm):
    return rs1 << (imm & 63)


@instruction("srli", "000000. ..... ..... 101 ..... 0010011", SHIFT6)
def srli(rs1, imm):
    return shr(rs1, imm & 63)


@instruction("srai", "010000. ..... ..... 101 ..... 0010011", SHIFT6)
def srai(rs1, imm):
    return rs1 >> (imm & 63)


@instruction("add", "0000000 ..... ..... 000 ..... 0110011", R)
def add(rs1, rs2):
    return rs1 + rs2


@instruction("sub", "0100000 ..... ..... 000 ..... 0110011", R)
def sub(rs1, rs2):
    return rs1 - rs2


@instruction("sll", "0000000 ..... ..... 001 ..... 0110011", R)
def sll(rs1, rs2):
    return rs1 << (rs2 & 63)


@instruction("slt", "0000000 ..... ..... 010 ..... 0110011", R)
def slt_(rs1, rs2):
    return slt(rs1, rs2)


@instruction("sltu", "0000000 ..... ..... 011 ..... 0110011", R)
def sltu(rs1, rs2):
    return ult(rs1, rs2)


@instruction("xor", "0000000 ..... ..... 100 ..... 0110011", R)
def xor(rs1, rs2):
    return rs1 ^ rs2


@instruction("srl", "0000000 ..... ..... 101 ..... 0110011", R)
def srl(rs1, rs2):
    return shr(rs1, rs2 & 63)


@instruction("sra", "0100000 ..... ..... 101 ..... 0110011", R)
def sra(rs1, rs2):
    return rs1 >> (rs2 & 63)


@instruction("or", "0000000 ..... ..... 110 ..... 0110011", R)
def or_(rs1, rs2):
    return rs1 | rs2


@instruction("and", "0000000 ..... ..... 111 ..... 0110011", R)
def and_(rs1, rs2):
    return rs1 & rs2


# The W forms work on the low 32 bits and sign-extend: (v << 32) >> 32.


@instruction("addiw", "....... ..... ..... 000 ..... 0011011", I)
def addiw(rs1, imm):
    return ((rs1 + imm) << 32) >> 32


@instruction("slliw", "0000000 ..... ..... 001 ..... 0011011", SHIFT5)
def slliw(rs1, imm):
    return (rs1 << ((imm & 31) + 32)) >> 32


@instruction("srliw", "0000000 ..... ..... 101 ..... 0011011", SHIFT5)
def srliw(rs1, imm):
    return (((rs1 & 0xFFFFFFFF) >> (imm & 31)) << 32) >> 32


@instruction("sraiw", "0100000 ..... ..... 101 ..... 0011011", SHIFT5)
def sraiw(rs1, imm):
    return ((rs1 << 32) >> 32) >> (imm & 31)


@instruction("addw", "0000000 ..... ..... 000 ..... 0111011", R)
def addw(rs1, rs2):
    return ((rs1 + rs2) << 32) >> 32


@instruction("subw", "0100000 ..... ..... 000 ..... 0111011", R)
def subw(rs1, rs2):
    return ((rs1 - rs2) << 32) >> 32


@instruction("sllw", "0000000 ..... ..... 001 ..... 0111011", R)
def sllw(rs1, rs2):
    return (rs1 << ((rs2 & 31) + 32)) >> 32


@instruction("srlw", "0000000 ..... ..... 101 ..... 0111011", R)
def srlw(rs1, rs2):
    return (((rs1 & 0xFFFFFFFF) >> (rs2 & 31)) << 32) >> 32


@instruction("sraw", "0100000 ..... ..... 101 ..... 0111011", R)
def sraw(rs1, rs2):
    return ((rs1 << 32) >> 32) >> (rs2 & 31)


@instruction("fence", "....... ..... ..... 000 ..... 0001111", FENCE, Kind.SYSTEM)
def fence(S, X, F, w):
    return sys_fence(S)  # noqa: F821  # the system functions are in scope of the generated code
