"""Zicond: conditional zero (RISC-V unprivileged §12)."""

from __future__ import annotations

from cpu_proc.engine.native import ult
from cpu_proc.isa.table import Kind, R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@instruction("czero.eqz", "0000111 ..... ..... 101 ..... 0110011", R, Kind.RARE, extension="zicond")
def czero_eqz(rs1, rs2):
    return rs1 & 0 - ult(0, rs2)


@instruction("czero.nez", "0000111 ..... ..... 111 ..... 0110011", R, Kind.RARE, extension="zicond")
def czero_nez(rs1, rs2):
    return rs1 & ult(0, rs2) - 1
