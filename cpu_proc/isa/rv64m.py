"""RV64M: multiplication and division (RISC-V unprivileged §13)."""

from __future__ import annotations

from cpu_proc.engine.native import mulh, mulhsu, mulhu, sdiv, srem, udiv, urem
from cpu_proc.isa.table import R, instruction

# ruff: noqa: D103
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

_MIN = -(1 << 63)


@instruction("mul", "0000001 ..... ..... 000 ..... 0110011", R)
def mul(rs1, rs2):
    return rs1 * rs2


@instruction("mulh", "0000001 ..... ..... 001 ..... 0110011", R)
def mulh_(rs1, rs2):
    return mulh(rs1, rs2)


@instruction("mulhsu", "0000001 ..... ..... 010 ..... 0110011", R)
def mulhsu_(rs1, rs2):
    return mulhsu(rs1, rs2)


@instruction("mulhu", "0000001 ..... ..... 011 ..... 0110011", R)
def mulhu_(rs1, rs2):
    return mulhu(rs1, rs2)


# Division never traps: by zero gives all ones and the dividend; overflow gives the dividend and zero (table 11).


@instruction("div", "0000001 ..... ..... 100 ..... 0110011", R)
def div(rs1, rs2):
    return -1 if rs2 == 0 else (0 - rs1 if rs2 == -1 else sdiv(rs1, rs2))


@instruction("divu", "0000001 ..... ..... 101 ..... 0110011", R)
def divu(rs1, rs2):
    return -1 if rs2 == 0 else udiv(rs1, rs2)


@instruction("rem", "0000001 ..... ..... 110 ..... 0110011", R)
def rem(rs1, rs2):
    return rs1 if rs2 == 0 else (0 if rs2 == -1 else srem(rs1, rs2))


@instruction("remu", "0000001 ..... ..... 111 ..... 0110011", R)
def remu(rs1, rs2):
    return rs1 if rs2 == 0 else urem(rs1, rs2)


@instruction("mulw", "0000001 ..... ..... 000 ..... 0111011", R)
def mulw(rs1, rs2):
    return ((rs1 * rs2) << 32) >> 32


@instruction("divw", "0000001 ..... ..... 100 ..... 0111011", R)
def divw(rs1, rs2):
    return -1 if rs2 << 32 == 0 else (sdiv((rs1 << 32) >> 32, (rs2 << 32) >> 32) << 32) >> 32


@instruction("divuw", "0000001 ..... ..... 101 ..... 0111011", R)
def divuw(rs1, rs2):
    return -1 if rs2 << 32 == 0 else (udiv(rs1 & 0xFFFFFFFF, rs2 & 0xFFFFFFFF) << 32) >> 32


@instruction("remw", "0000001 ..... ..... 110 ..... 0111011", R)
def remw(rs1, rs2):
    return (rs1 << 32) >> 32 if rs2 << 32 == 0 else (srem((rs1 << 32) >> 32, (rs2 << 32) >> 32) << 32) >> 32


@instruction("remuw", "0000001 ..... ..... 111 ..... 0111011", R)
def remuw(rs1, rs2):
    return (rs1 << 32) >> 32 if rs2 << 32 == 0 else (urem(rs1 & 0xFFFFFFFF, rs2 & 0xFFFFFFFF) << 32) >> 32
