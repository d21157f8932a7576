"""RV64A: atomics on shared memory (RISC-V unprivileged §14), as host atomics.

An AMO repeats compare-and-swap until it took effect, so it is atomic against other harts and device processes.
LR remembers address and value; SC is a compare-and-swap with that value, which is stronger than a plain store.
"""

from __future__ import annotations

from cpu_proc.engine.native import ult
from cpu_proc.isa.table import AMO, LR, Kind, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call, name-defined"


def amoswap(old, rs2):
    return rs2


def amoadd(old, rs2):
    return old + rs2


def amoxor(old, rs2):
    return old ^ rs2


def amoand(old, rs2):
    return old & rs2


def amoor(old, rs2):
    return old | rs2


def amomin(old, rs2):
    return old if old < rs2 else rs2


def amomax(old, rs2):
    return rs2 if old < rs2 else old


def amominu(old, rs2):
    return old if ult(old, rs2) else rs2


def amomaxu(old, rs2):
    return rs2 if ult(old, rs2) else old


# Both operands of the W forms are sign-extended, which keeps the order of unsigned 32-bit numbers too.
for _funct5, _semantics in (
    ("00001", amoswap),
    ("00000", amoadd),
    ("00100", amoxor),
    ("01100", amoand),
    ("01000", amoor),
    ("10000", amomin),
    ("10100", amomax),
    ("11000", amominu),
    ("11100", amomaxu),
):
    for _suffix, _funct3, _width in (("w", "010", 32), ("d", "011", 64)):
        instruction(
            f"{_semantics.__name__}.{_suffix}",
            f"{_funct5} .. ..... ..... {_funct3} ..... 0101111",
            AMO,
            Kind.AMO,
            width=_width,
        )(_semantics)


@instruction("lr.w", "00010 .. 00000 ..... 010 ..... 0101111", LR, Kind.SYSTEM)
def lr_w(S, X, F, w):
    return sys_lr(S, X, w, 4)  # noqa: F821


@instruction("lr.d", "00010 .. 00000 ..... 011 ..... 0101111", LR, Kind.SYSTEM)
def lr_d(S, X, F, w):
    return sys_lr(S, X, w, 8)  # noqa: F821


@instruction("sc.w", "00011 .. ..... ..... 010 ..... 0101111", AMO, Kind.SYSTEM)
def sc_w(S, X, F, w):
    return sys_sc(S, X, w, 4)  # noqa: F821


@instruction("sc.d", "00011 .. ..... ..... 011 ..... 0101111", AMO, Kind.SYSTEM)
def sc_d(S, X, F, w):
    return sys_sc(S, X, w, 8)  # noqa: F821
