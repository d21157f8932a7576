"""Zicbom and Zicboz: cache-block operations (RISC-V unprivileged, CMO §2). Memory here is always coherent."""

from __future__ import annotations

from cpu_proc.isa.table import Format, Kind, instruction

# ruff: noqa: F821  # the system functions are in scope of the generated code
# mypy: disable-error-code="no-untyped-def, no-untyped-call, name-defined"

_BLOCK = Format({"rs1": "[19:15]"}, syntax="({rs1})")
_MISC = "010 00000 0001111"


@instruction("cbo.inval", f"0000000 00000 ..... {_MISC}", _BLOCK, Kind.SYSTEM, extension="zicbom")
def cbo_inval(S, X, F, w):
    return sys_cbo_inval(S, X, w)


@instruction("cbo.clean", f"0000000 00001 ..... {_MISC}", _BLOCK, Kind.SYSTEM, extension="zicbom")
def cbo_clean(S, X, F, w):
    return sys_cbo_clean(S, X, w)


@instruction("cbo.flush", f"0000000 00010 ..... {_MISC}", _BLOCK, Kind.SYSTEM, extension="zicbom")
def cbo_flush(S, X, F, w):
    return sys_cbo_clean(S, X, w)


@instruction("cbo.zero", f"0000000 00100 ..... {_MISC}", _BLOCK, Kind.SYSTEM, extension="zicboz")
def cbo_zero(S, X, F, w):
    return sys_cbo_zero(S, X, w)
