"""RV64M: multiplication and division (RISC-V unprivileged §13)."""

from __future__ import annotations

from cpu_proc.engine.division import divide, divide_unsigned, remainder, remainder_unsigned
from cpu_proc.engine.native import mulh, mulhsu, mulhu
from cpu_proc.isa.table import R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call"


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


@instruction("div", "0000001 ..... ..... 100 ..... 0110011", R)
def div(rs1, rs2):
    return divide(rs1, rs2)


@instruction("divu", "0000001 ..... ..... 101 ..... 0110011", R)
def divu(rs1, rs2):
    return divide_unsigned(rs1, rs2)


@instruction("rem", "0000001 ..... ..... 110 ..... 0110011", R)
def rem(rs1, rs2):
    return remainder(rs1, rs2)


@instruction("remu", "0000001 ..... ..... 111 ..... 0110011", R)
def remu(rs1, rs2):
    return remainder_unsigned(rs1, rs2)


@instruction("mulw", "0000001 ..... ..... 000 ..... 0111011", R)
def mulw(rs1, rs2):
    return ((rs1 * rs2) << 32) >> 32


@instruction("divw", "0000001 ..... ..... 100 ..... 0111011", R)
def divw(rs1, rs2):
    return (divide((rs1 << 32) >> 32, (rs2 << 32) >> 32) << 32) >> 32


@instruction("divuw", "0000001 ..... ..... 101 ..... 0111011", R)
def divuw(rs1, rs2):
    return (divide_unsigned(rs1 & 0xFFFFFFFF, rs2 & 0xFFFFFFFF) << 32) >> 32


@instruction("remw", "0000001 ..... ..... 110 ..... 0111011", R)
def remw(rs1, rs2):
    return (remainder((rs1 << 32) >> 32, (rs2 << 32) >> 32) << 32) >> 32


@instruction("remuw", "0000001 ..... ..... 111 ..... 0111011", R)
def remuw(rs1, rs2):
    return (remainder_unsigned(rs1 & 0xFFFFFFFF, rs2 & 0xFFFFFFFF) << 32) >> 32
