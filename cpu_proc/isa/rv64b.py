"""Bit manipulation: Zba, Zbb, Zbc, Zbs (RISC-V unprivileged §30.4) and Zbkb (§33.2)."""

from __future__ import annotations

from cpu_proc.engine.carryless import carryless, carryless_reversed
from cpu_proc.engine.native import bit_reverse, byte_swap, clz, cpop, ctz, rotate_right, shr, smax, smin, umax, umin
from cpu_proc.isa.table import R2, SHIFT5, SHIFT6, Kind, R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

_OP, _OP_32, _OP_IMM, _OP_IMM_32 = "0110011", "0111011", "0010011", "0011011"

# Zba: addresses of array elements


@instruction("add.uw", f"0000100 ..... ..... 000 ..... {_OP_32}", R, Kind.RARE, extension="zba")
def add_uw(rs1, rs2):
    return (rs1 & 0xFFFFFFFF) + rs2


@instruction("sh1add", f"0010000 ..... ..... 010 ..... {_OP}", R, Kind.RARE, extension="zba")
def sh1add(rs1, rs2):
    return (rs1 << 1) + rs2


@instruction("sh2add", f"0010000 ..... ..... 100 ..... {_OP}", R, Kind.RARE, extension="zba")
def sh2add(rs1, rs2):
    return (rs1 << 2) + rs2


@instruction("sh3add", f"0010000 ..... ..... 110 ..... {_OP}", R, Kind.RARE, extension="zba")
def sh3add(rs1, rs2):
    return (rs1 << 3) + rs2


@instruction("sh1add.uw", f"0010000 ..... ..... 010 ..... {_OP_32}", R, Kind.RARE, extension="zba")
def sh1add_uw(rs1, rs2):
    return ((rs1 & 0xFFFFFFFF) << 1) + rs2


@instruction("sh2add.uw", f"0010000 ..... ..... 100 ..... {_OP_32}", R, Kind.RARE, extension="zba")
def sh2add_uw(rs1, rs2):
    return ((rs1 & 0xFFFFFFFF) << 2) + rs2


@instruction("sh3add.uw", f"0010000 ..... ..... 110 ..... {_OP_32}", R, Kind.RARE, extension="zba")
def sh3add_uw(rs1, rs2):
    return ((rs1 & 0xFFFFFFFF) << 3) + rs2


@instruction("slli.uw", f"000010. ..... ..... 001 ..... {_OP_IMM_32}", SHIFT6, Kind.RARE, extension="zba")
def slli_uw(rs1, imm):
    return (rs1 & 0xFFFFFFFF) << (imm & 63)


# Zbb, some of it shared with Zbkb: logic with negation


@instruction("andn", f"0100000 ..... ..... 111 ..... {_OP}", R, Kind.RARE, extension="zbb zbkb")
def andn(rs1, rs2):
    return rs1 & ~rs2


@instruction("orn", f"0100000 ..... ..... 110 ..... {_OP}", R, Kind.RARE, extension="zbb zbkb")
def orn(rs1, rs2):
    return rs1 | ~rs2


@instruction("xnor", f"0100000 ..... ..... 100 ..... {_OP}", R, Kind.RARE, extension="zbb zbkb")
def xnor(rs1, rs2):
    return ~(rs1 ^ rs2)


# counting


@instruction("clz", f"0110000 00000 ..... 001 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def clz_(rs1):
    return clz(rs1)


@instruction("ctz", f"0110000 00001 ..... 001 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def ctz_(rs1):
    return ctz(rs1)


@instruction("cpop", f"0110000 00010 ..... 001 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def cpop_(rs1):
    return cpop(rs1)


@instruction("clzw", f"0110000 00000 ..... 001 ..... {_OP_IMM_32}", R2, Kind.RARE, extension="zbb")
def clzw(rs1):
    return clz(rs1 & 0xFFFFFFFF) - 32


@instruction("ctzw", f"0110000 00001 ..... 001 ..... {_OP_IMM_32}", R2, Kind.RARE, extension="zbb")
def ctzw(rs1):
    return ctz(rs1 | 0x100000000)


@instruction("cpopw", f"0110000 00010 ..... 001 ..... {_OP_IMM_32}", R2, Kind.RARE, extension="zbb")
def cpopw(rs1):
    return cpop(rs1 & 0xFFFFFFFF)


# extremes and extensions


@instruction("max", f"0000101 ..... ..... 110 ..... {_OP}", R, Kind.RARE, extension="zbb")
def max_(rs1, rs2):
    return smax(rs1, rs2)


@instruction("maxu", f"0000101 ..... ..... 111 ..... {_OP}", R, Kind.RARE, extension="zbb")
def maxu(rs1, rs2):
    return umax(rs1, rs2)


@instruction("min", f"0000101 ..... ..... 100 ..... {_OP}", R, Kind.RARE, extension="zbb")
def min_(rs1, rs2):
    return smin(rs1, rs2)


@instruction("minu", f"0000101 ..... ..... 101 ..... {_OP}", R, Kind.RARE, extension="zbb")
def minu(rs1, rs2):
    return umin(rs1, rs2)


@instruction("sext.b", f"0110000 00100 ..... 001 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def sext_b(rs1):
    return (rs1 << 56) >> 56


@instruction("sext.h", f"0110000 00101 ..... 001 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def sext_h(rs1):
    return (rs1 << 48) >> 48


@instruction(
    "zext.h", f"0000100 00000 ..... 100 ..... {_OP_32}", R2, Kind.RARE, extension="zbb"
)  # Zbkb's packw with x0
def zext_h(rs1):
    return rs1 & 0xFFFF


# rotation


@instruction("rol", f"0110000 ..... ..... 001 ..... {_OP}", R, Kind.RARE, extension="zbb zbkb")
def rol(rs1, rs2):
    return rotate_right(rs1, 0 - rs2)


@instruction("ror", f"0110000 ..... ..... 101 ..... {_OP}", R, Kind.RARE, extension="zbb zbkb")
def ror(rs1, rs2):
    return rotate_right(rs1, rs2)


@instruction("rori", f"011000. ..... ..... 101 ..... {_OP_IMM}", SHIFT6, Kind.RARE, extension="zbb zbkb")
def rori(rs1, imm):
    return rotate_right(rs1, imm)


@instruction("rolw", f"0110000 ..... ..... 001 ..... {_OP_32}", R, Kind.RARE, extension="zbb zbkb")
def rolw(rs1, rs2):
    return (((rs1 & 0xFFFFFFFF) << (rs2 & 31) | (rs1 & 0xFFFFFFFF) >> ((0 - rs2) & 31)) << 32) >> 32


@instruction("rorw", f"0110000 ..... ..... 101 ..... {_OP_32}", R, Kind.RARE, extension="zbb zbkb")
def rorw(rs1, rs2):
    return (((rs1 & 0xFFFFFFFF) >> (rs2 & 31) | (rs1 & 0xFFFFFFFF) << ((0 - rs2) & 31)) << 32) >> 32


@instruction("roriw", f"0110000 ..... ..... 101 ..... {_OP_IMM_32}", SHIFT5, Kind.RARE, extension="zbb zbkb")
def roriw(rs1, imm):
    return (((rs1 & 0xFFFFFFFF) >> (imm & 31) | (rs1 & 0xFFFFFFFF) << ((0 - imm) & 31)) << 32) >> 32


# bytes


@instruction("rev8", f"0110101 11000 ..... 101 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb zbkb")
def rev8(rs1):
    return byte_swap(rs1)


@instruction("orc.b", f"0010100 00111 ..... 101 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbb")
def orc_b(rs1):  # the top bit of each byte that is not zero, spread over it
    return shr(((rs1 & 0x7F7F7F7F7F7F7F7F) + 0x7F7F7F7F7F7F7F7F | rs1) & -0x7F7F7F7F7F7F7F80, 7) * 255


# Zbkb alone


@instruction("brev8", f"0110100 00111 ..... 101 ..... {_OP_IMM}", R2, Kind.RARE, extension="zbkb")
def brev8(rs1):
    return byte_swap(bit_reverse(rs1))


@instruction("pack", f"0000100 ..... ..... 100 ..... {_OP}", R, Kind.RARE, extension="zbkb")
def pack(rs1, rs2):
    return (rs1 & 0xFFFFFFFF) | rs2 << 32


@instruction("packh", f"0000100 ..... ..... 111 ..... {_OP}", R, Kind.RARE, extension="zbkb")
def packh(rs1, rs2):
    return (rs1 & 0xFF) | (rs2 & 0xFF) << 8


@instruction("packw", f"0000100 ..... ..... 100 ..... {_OP_32}", R, Kind.RARE, extension="zbkb")
def packw(rs1, rs2):
    return ((rs1 & 0xFFFF | rs2 << 16) << 32) >> 32


# Zbc: products of polynomials over two elements


@instruction("clmul", f"0000101 ..... ..... 001 ..... {_OP}", R, Kind.RARE, extension="zbc")
def clmul(rs1, rs2):
    return carryless(rs1, rs2)


@instruction("clmulh", f"0000101 ..... ..... 011 ..... {_OP}", R, Kind.RARE, extension="zbc")
def clmulh(rs1, rs2):
    return shr(carryless_reversed(rs1, rs2), 1)


@instruction("clmulr", f"0000101 ..... ..... 010 ..... {_OP}", R, Kind.RARE, extension="zbc")
def clmulr(rs1, rs2):
    return carryless_reversed(rs1, rs2)


# Zbs: single bits


@instruction("bclr", f"0100100 ..... ..... 001 ..... {_OP}", R, Kind.RARE, extension="zbs")
def bclr(rs1, rs2):
    return rs1 & ~(1 << (rs2 & 63))


@instruction("bext", f"0100100 ..... ..... 101 ..... {_OP}", R, Kind.RARE, extension="zbs")
def bext(rs1, rs2):
    return shr(rs1, rs2 & 63) & 1


@instruction("binv", f"0110100 ..... ..... 001 ..... {_OP}", R, Kind.RARE, extension="zbs")
def binv(rs1, rs2):
    return rs1 ^ 1 << (rs2 & 63)


@instruction("bset", f"0010100 ..... ..... 001 ..... {_OP}", R, Kind.RARE, extension="zbs")
def bset(rs1, rs2):
    return rs1 | 1 << (rs2 & 63)


@instruction("bclri", f"010010. ..... ..... 001 ..... {_OP_IMM}", SHIFT6, Kind.RARE, extension="zbs")
def bclri(rs1, imm):
    return rs1 & ~(1 << (imm & 63))


@instruction("bexti", f"010010. ..... ..... 101 ..... {_OP_IMM}", SHIFT6, Kind.RARE, extension="zbs")
def bexti(rs1, imm):
    return shr(rs1, imm & 63) & 1


@instruction("binvi", f"011010. ..... ..... 001 ..... {_OP_IMM}", SHIFT6, Kind.RARE, extension="zbs")
def binvi(rs1, imm):
    return rs1 ^ 1 << (imm & 63)


@instruction("bseti", f"001010. ..... ..... 001 ..... {_OP_IMM}", SHIFT6, Kind.RARE, extension="zbs")
def bseti(rs1, imm):
    return rs1 | 1 << (imm & 63)
