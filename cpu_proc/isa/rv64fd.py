"""RV64F, RV64D and Zfh: single, double and half precision (RISC-V unprivileged §20, §21, §23).

Of Zfh, the loads, stores, moves and conversions between formats alone are Zfhmin.
"""

from __future__ import annotations

from functools import partial
from itertools import permutations

from cpu_proc.engine import float_arithmetic as arithmetic
from cpu_proc.engine import float_comparison as comparison
from cpu_proc.engine import float_conversion as conversion
from cpu_proc.engine.float_format import negate, sign_mask
from cpu_proc.isa.precision import FMT, FRACTION, WIDTH, each
from cpu_proc.isa.table import FR, FR2, FR2_EXACT, FR4, LOADS, R2, STORES, Kind, R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, assignment"

_EXTENSIONS = {"s": "f", "d": "d", "h": "zfh"}
operation = partial(each, _EXTENSIONS)


@operation("fmadd.{p}", ".....{fmt} ..... ..... ... ..... 1000011", FR4, files="ffff")
def fmadd(S, m, frs1, frs2, frs3, rm):
    return arithmetic.fma(S, m, frs1, frs2, frs3, rm)


@operation("fmsub.{p}", ".....{fmt} ..... ..... ... ..... 1000111", FR4, files="ffff")
def fmsub(S, m, frs1, frs2, frs3, rm):
    return arithmetic.fma(S, m, frs1, frs2, negate(m, frs3), rm)


@operation("fnmsub.{p}", ".....{fmt} ..... ..... ... ..... 1001011", FR4, files="ffff")
def fnmsub(S, m, frs1, frs2, frs3, rm):
    return arithmetic.fma(S, m, negate(m, frs1), frs2, frs3, rm)


@operation("fnmadd.{p}", ".....{fmt} ..... ..... ... ..... 1001111", FR4, files="ffff")
def fnmadd(S, m, frs1, frs2, frs3, rm):
    return arithmetic.fma(S, m, negate(m, frs1), frs2, negate(m, frs3), rm)


@operation("fadd.{p}", "00000{fmt} ..... ..... ... ..... 1010011", FR, files="fff")
def fadd(S, m, frs1, frs2, rm):
    return arithmetic.add(S, m, frs1, frs2, rm)


@operation("fsub.{p}", "00001{fmt} ..... ..... ... ..... 1010011", FR, files="fff")
def fsub(S, m, frs1, frs2, rm):
    return arithmetic.sub(S, m, frs1, frs2, rm)


@operation("fmul.{p}", "00010{fmt} ..... ..... ... ..... 1010011", FR, files="fff")
def fmul(S, m, frs1, frs2, rm):
    return arithmetic.mul(S, m, frs1, frs2, rm)


@operation("fdiv.{p}", "00011{fmt} ..... ..... ... ..... 1010011", FR, files="fff")
def fdiv(S, m, frs1, frs2, rm):
    return arithmetic.div(S, m, frs1, frs2, rm)


@operation("fsqrt.{p}", "01011{fmt} 00000 ..... ... ..... 1010011", FR2, files="ff")
def fsqrt(S, m, frs1, rm):
    return arithmetic.sqrt(S, m, frs1, rm)


@operation("fsgnj.{p}", "00100{fmt} ..... ..... 000 ..... 1010011", R, files="fff")
def fsgnj(m, frs1, frs2):
    return (frs1 & ~sign_mask(m)) | (frs2 & sign_mask(m))


@operation("fsgnjn.{p}", "00100{fmt} ..... ..... 001 ..... 1010011", R, files="fff")
def fsgnjn(m, frs1, frs2):
    return (frs1 & ~sign_mask(m)) | (~frs2 & sign_mask(m))


@operation("fsgnjx.{p}", "00100{fmt} ..... ..... 010 ..... 1010011", R, files="fff")
def fsgnjx(m, frs1, frs2):
    return frs1 ^ (frs2 & sign_mask(m))


@operation("fmin.{p}", "00101{fmt} ..... ..... 000 ..... 1010011", R, files="fff")
def fmin(S, m, frs1, frs2):
    return comparison.min_max(S, m, frs1, frs2, 0)


@operation("fmax.{p}", "00101{fmt} ..... ..... 001 ..... 1010011", R, files="fff")
def fmax(S, m, frs1, frs2):
    return comparison.min_max(S, m, frs1, frs2, 1)


@operation("feq.{p}", "10100{fmt} ..... ..... 010 ..... 1010011", R, files="xff")
def feq(S, m, frs1, frs2):
    return comparison.eq(S, m, frs1, frs2)


@operation("flt.{p}", "10100{fmt} ..... ..... 001 ..... 1010011", R, files="xff")
def flt(S, m, frs1, frs2):
    return comparison.lt(S, m, frs1, frs2)


@operation("fle.{p}", "10100{fmt} ..... ..... 000 ..... 1010011", R, files="xff")
def fle(S, m, frs1, frs2):
    return comparison.le(S, m, frs1, frs2)


@operation("fclass.{p}", "11100{fmt} 00000 ..... 001 ..... 1010011", R2, files="xf")
def fclass(m, frs1):
    return comparison.classify(m, frs1)


# Conversions between formats: the rs2 field says which one the operand has.


def _convert(S, m, to, frs1, rm):
    return conversion.convert(S, m, to, frs1, rm)


for _to, _p in permutations(FMT, 2):
    instruction(
        f"fcvt.{_to}.{_p}",
        f"01000{FMT[_to]} 000{FMT[_p]} ..... ... ..... 1010011",
        FR2_EXACT if FRACTION[_p] < FRACTION[_to] else FR2,
        Kind.FLOAT,
        precision=_p,
        result=_to,
        files="ff",
        extension="zfh" if "h" in (_p, _to) else "d",
    )(_convert)


# Conversions with integers: the rs2 field says which integer type.


@operation("fcvt.w.{p}", "11000{fmt} 00000 ..... ... ..... 1010011", FR2, files="xf")
def fcvt_w(S, m, frs1, rm):
    return conversion.to_integer(S, m, frs1, 32, True, rm)


@operation("fcvt.wu.{p}", "11000{fmt} 00001 ..... ... ..... 1010011", FR2, files="xf")
def fcvt_wu(S, m, frs1, rm):
    return conversion.to_integer(S, m, frs1, 32, False, rm)


@operation("fcvt.l.{p}", "11000{fmt} 00010 ..... ... ..... 1010011", FR2, files="xf")
def fcvt_l(S, m, frs1, rm):
    return conversion.to_integer(S, m, frs1, 64, True, rm)


@operation("fcvt.lu.{p}", "11000{fmt} 00011 ..... ... ..... 1010011", FR2, files="xf")
def fcvt_lu(S, m, frs1, rm):
    return conversion.to_integer(S, m, frs1, 64, False, rm)


@operation("fcvt.{p}.w", "11010{fmt} 00000 ..... ... ..... 1010011", FR2, files="fx", exact="d")
def fcvt_from_w(S, m, rs1, rm):
    return conversion.from_integer(S, m, (rs1 << 32) >> 32, True, rm)


@operation("fcvt.{p}.wu", "11010{fmt} 00001 ..... ... ..... 1010011", FR2, files="fx", exact="d")
def fcvt_from_wu(S, m, rs1, rm):
    return conversion.from_integer(S, m, rs1 & 0xFFFFFFFF, False, rm)


@operation("fcvt.{p}.l", "11010{fmt} 00010 ..... ... ..... 1010011", FR2, files="fx")
def fcvt_from_l(S, m, rs1, rm):
    return conversion.from_integer(S, m, rs1, True, rm)


@operation("fcvt.{p}.lu", "11010{fmt} 00011 ..... ... ..... 1010011", FR2, files="fx")
def fcvt_from_lu(S, m, rs1, rm):
    return conversion.from_integer(S, m, rs1, False, rm)


# Loads, stores and moves between the register files carry bits, whatever they mean.


def _address(rs1, imm):
    return rs1 + imm


for _p, _letter, _funct3 in (("s", "w", "010"), ("d", "d", "011"), ("h", "h", "001")):
    _access = f"....... ..... ..... {_funct3} ..... 0"
    _own = {"width": WIDTH[_p], "result": _p, "extension": _EXTENSIONS[_p]}
    instruction(f"fl{_letter}", f"{_access}000111", LOADS, Kind.LOAD, files="fx", **_own)(_address)
    instruction(f"fs{_letter}", f"{_access}100111", STORES, Kind.STORE, files=".xf", **_own)(_address)


def _from_w(frs1):
    return (frs1 << 32) >> 32


def _from_d(frs1):
    return frs1


def _from_h(frs1):
    return (frs1 << 48) >> 48


def _into(rs1):
    return rs1


for _p, _letter, _from in (("s", "w", _from_w), ("d", "d", _from_d), ("h", "h", _from_h)):
    _move, _own = f"{FMT[_p]} 00000 ..... 000 ..... 1010011", {"extension": _EXTENSIONS[_p]}
    instruction(f"fmv.x.{_letter}", f"11100{_move}", R2, Kind.FLOAT, files="xf", precision="d", **_own)(_from)
    instruction(f"fmv.{_letter}.x", f"11110{_move}", R2, Kind.FLOAT, files="fx", result=_p, **_own)(_into)
