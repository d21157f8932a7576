"""Zihintpause and Zawrs: waits that may end at once (RISC-V unprivileged §10, §16), and here do.

A hint is a special case of another row, so this module is imported before it. The hints of Zihintntl (§11) need no row:
they are additions whose result x0 discards.
"""

from __future__ import annotations

from cpu_proc.isa.table import NONE, Kind, instruction

# mypy: disable-error-code="no-untyped-def"


@instruction("pause", "0000 0001 0000 00000 000 00000 0001111", NONE, Kind.SYSTEM, extension="zihintpause")
def pause(S, X, F, w):
    return 0


@instruction("wrs.nto", "0000000 01101 00000 000 00000 1110011", NONE, Kind.SYSTEM, extension="zawrs")
def wrs_nto(S, X, F, w):
    return 0


@instruction("wrs.sto", "0000000 11101 00000 000 00000 1110011", NONE, Kind.SYSTEM, extension="zawrs")
def wrs_sto(S, X, F, w):
    return 0
