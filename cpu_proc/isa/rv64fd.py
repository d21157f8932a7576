"""RV64F and RV64D: single and double precision (RISC-V unprivileged §20, §21)."""

from __future__ import annotations

from cpu_proc.engine import softfloat as sf
from cpu_proc.engine.float_format import TOP
from cpu_proc.isa.table import FR, FR2, FR2_EXACT, FR4, LOADS, R2, STORES, Kind, R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, assignment"

_OP_FP = "1010011"


def _address(rs1, imm):
    return rs1 + imm


instruction("flw", "....... ..... ..... 010 ..... 0000111", LOADS, Kind.LOAD, width=32, result="s", files="fx")(
    _address
)
instruction("fld", "....... ..... ..... 011 ..... 0000111", LOADS, Kind.LOAD, width=64, result="d", files="fx")(
    _address
)
instruction("fsw", "....... ..... ..... 010 ..... 0100111", STORES, Kind.STORE, width=32, result="s", files=".xf")(
    _address
)
instruction("fsd", "....... ..... ..... 011 ..... 0100111", STORES, Kind.STORE, width=64, result="d", files=".xf")(
    _address
)


# Every operation below exists once per precision: m is the number of fraction bits.


def _fmadd_s(S, srs1, srs2, srs3, rm):
    return sf.fma(S, 23, srs1, srs2, srs3, rm)


def _fmsub_s(S, srs1, srs2, srs3, rm):
    return sf.fma(S, 23, srs1, srs2, srs3 ^ 0x80000000, rm)


def _fnmsub_s(S, srs1, srs2, srs3, rm):
    return sf.fma(S, 23, srs1 ^ 0x80000000, srs2, srs3, rm)


def _fnmadd_s(S, srs1, srs2, srs3, rm):
    return sf.fma(S, 23, srs1 ^ 0x80000000, srs2, srs3 ^ 0x80000000, rm)


def _fmadd_d(S, frs1, frs2, frs3, rm):
    return sf.fma(S, 52, frs1, frs2, frs3, rm)


def _fmsub_d(S, frs1, frs2, frs3, rm):
    return sf.fma(S, 52, frs1, frs2, sf.negate(52, frs3), rm)


def _fnmsub_d(S, frs1, frs2, frs3, rm):
    return sf.fma(S, 52, sf.negate(52, frs1), frs2, frs3, rm)


def _fnmadd_d(S, frs1, frs2, frs3, rm):
    return sf.fma(S, 52, sf.negate(52, frs1), frs2, sf.negate(52, frs3), rm)


for _opcode, _name, _single, _double in (
    ("1000011", "fmadd", _fmadd_s, _fmadd_d),
    ("1000111", "fmsub", _fmsub_s, _fmsub_d),
    ("1001011", "fnmsub", _fnmsub_s, _fnmsub_d),
    ("1001111", "fnmadd", _fnmadd_s, _fnmadd_d),
):
    instruction(f"{_name}.s", f".....00 ..... ..... ... ..... {_opcode}", FR4, Kind.FLOAT, result="s", files="ffff")(
        _single
    )
    instruction(f"{_name}.d", f".....01 ..... ..... ... ..... {_opcode}", FR4, Kind.FLOAT, result="d", files="ffff")(
        _double
    )


def fadd_s(S, srs1, srs2, rm):
    return sf.add(S, 23, srs1, srs2, rm)


def fsub_s(S, srs1, srs2, rm):
    return sf.sub(S, 23, srs1, srs2, rm)


def fmul_s(S, srs1, srs2, rm):
    return sf.mul(S, 23, srs1, srs2, rm)


def fdiv_s(S, srs1, srs2, rm):
    return sf.div(S, 23, srs1, srs2, rm)


def fadd_d(S, frs1, frs2, rm):
    return sf.add(S, 52, frs1, frs2, rm)


def fsub_d(S, frs1, frs2, rm):
    return sf.sub(S, 52, frs1, frs2, rm)


def fmul_d(S, frs1, frs2, rm):
    return sf.mul(S, 52, frs1, frs2, rm)


def fdiv_d(S, frs1, frs2, rm):
    return sf.div(S, 52, frs1, frs2, rm)


for _funct5, _name, _single, _double in (
    ("00000", "fadd", fadd_s, fadd_d),
    ("00001", "fsub", fsub_s, fsub_d),
    ("00010", "fmul", fmul_s, fmul_d),
    ("00011", "fdiv", fdiv_s, fdiv_d),
):
    instruction(f"{_name}.s", f"{_funct5}00 ..... ..... ... ..... {_OP_FP}", FR, Kind.FLOAT, result="s", files="fff")(
        _single
    )
    instruction(f"{_name}.d", f"{_funct5}01 ..... ..... ... ..... {_OP_FP}", FR, Kind.FLOAT, result="d", files="fff")(
        _double
    )


@instruction("fsqrt.s", f"0101100 00000 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="ff")
def fsqrt_s(S, srs1, rm):
    return sf.sqrt(S, 23, srs1, rm)


@instruction("fsqrt.d", f"0101101 00000 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="d", files="ff")
def fsqrt_d(S, frs1, rm):
    return sf.sqrt(S, 52, frs1, rm)


@instruction("fsgnj.s", f"0010000 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, result="s", files="fff")
def fsgnj_s(srs1, srs2):
    return (srs1 & 0x7FFFFFFF) | (srs2 & 0x80000000)


@instruction("fsgnjn.s", f"0010000 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, result="s", files="fff")
def fsgnjn_s(srs1, srs2):
    return (srs1 & 0x7FFFFFFF) | (~srs2 & 0x80000000)


@instruction("fsgnjx.s", f"0010000 ..... ..... 010 ..... {_OP_FP}", R, Kind.FLOAT, result="s", files="fff")
def fsgnjx_s(srs1, srs2):
    return srs1 ^ (srs2 & 0x80000000)


@instruction("fsgnj.d", f"0010001 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, result="d", files="fff")
def fsgnj_d(frs1, frs2):
    return (frs1 & 0x7FFFFFFFFFFFFFFF) | (frs2 & TOP)


@instruction("fsgnjn.d", f"0010001 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, result="d", files="fff")
def fsgnjn_d(frs1, frs2):
    return (frs1 & 0x7FFFFFFFFFFFFFFF) | (~frs2 & TOP)


@instruction("fsgnjx.d", f"0010001 ..... ..... 010 ..... {_OP_FP}", R, Kind.FLOAT, result="d", files="fff")
def fsgnjx_d(frs1, frs2):
    return frs1 ^ (frs2 & TOP)


@instruction("fmin.s", f"0010100 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, result="s", files="fff")
def fmin_s(S, srs1, srs2):
    return sf.min_max(S, 23, srs1, srs2, 0)


@instruction("fmax.s", f"0010100 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, result="s", files="fff")
def fmax_s(S, srs1, srs2):
    return sf.min_max(S, 23, srs1, srs2, 1)


@instruction("fmin.d", f"0010101 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, result="d", files="fff")
def fmin_d(S, frs1, frs2):
    return sf.min_max(S, 52, frs1, frs2, 0)


@instruction("fmax.d", f"0010101 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, result="d", files="fff")
def fmax_d(S, frs1, frs2):
    return sf.min_max(S, 52, frs1, frs2, 1)


@instruction("feq.s", f"1010000 ..... ..... 010 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def feq_s(S, srs1, srs2):
    return sf.eq(S, 23, srs1, srs2)


@instruction("flt.s", f"1010000 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def flt_s(S, srs1, srs2):
    return sf.lt(S, 23, srs1, srs2)


@instruction("fle.s", f"1010000 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def fle_s(S, srs1, srs2):
    return sf.le(S, 23, srs1, srs2)


@instruction("feq.d", f"1010001 ..... ..... 010 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def feq_d(S, frs1, frs2):
    return sf.eq(S, 52, frs1, frs2)


@instruction("flt.d", f"1010001 ..... ..... 001 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def flt_d(S, frs1, frs2):
    return sf.lt(S, 52, frs1, frs2)


@instruction("fle.d", f"1010001 ..... ..... 000 ..... {_OP_FP}", R, Kind.FLOAT, files="xff")
def fle_d(S, frs1, frs2):
    return sf.le(S, 52, frs1, frs2)


@instruction("fclass.s", f"1110000 00000 ..... 001 ..... {_OP_FP}", R2, Kind.FLOAT, files="xf")
def fclass_s(srs1):
    return sf.classify(23, srs1)


@instruction("fclass.d", f"1110001 00000 ..... 001 ..... {_OP_FP}", R2, Kind.FLOAT, files="xf")
def fclass_d(frs1):
    return sf.classify(52, frs1)


@instruction("fmv.x.w", f"1110000 00000 ..... 000 ..... {_OP_FP}", R2, Kind.FLOAT, files="xf")
def fmv_x_w(frs1):
    return (frs1 << 32) >> 32


@instruction("fmv.x.d", f"1110001 00000 ..... 000 ..... {_OP_FP}", R2, Kind.FLOAT, files="xf")
def fmv_x_d(frs1):
    return frs1


@instruction("fmv.w.x", f"1111000 00000 ..... 000 ..... {_OP_FP}", R2, Kind.FLOAT, result="s", files="fx")
def fmv_w_x(rs1):
    return rs1


@instruction("fmv.d.x", f"1111001 00000 ..... 000 ..... {_OP_FP}", R2, Kind.FLOAT, result="d", files="fx")
def fmv_d_x(rs1):
    return rs1


@instruction("fcvt.s.d", f"0100000 00001 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="ff")
def fcvt_s_d(S, frs1, rm):
    return sf.convert(S, 52, 23, frs1, rm)


@instruction("fcvt.d.s", f"0100001 00000 ..... ... ..... {_OP_FP}", FR2_EXACT, Kind.FLOAT, result="d", files="ff")
def fcvt_d_s(S, srs1, rm):
    return sf.convert(S, 23, 52, srs1, rm)


# Conversions with integers: the rs2 field says which integer type.


@instruction("fcvt.w.s", f"1100000 00000 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_w_s(S, srs1, rm):
    return sf.to_integer(S, 23, srs1, 32, True, rm)


@instruction("fcvt.wu.s", f"1100000 00001 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_wu_s(S, srs1, rm):
    return sf.to_integer(S, 23, srs1, 32, False, rm)


@instruction("fcvt.l.s", f"1100000 00010 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_l_s(S, srs1, rm):
    return sf.to_integer(S, 23, srs1, 64, True, rm)


@instruction("fcvt.lu.s", f"1100000 00011 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_lu_s(S, srs1, rm):
    return sf.to_integer(S, 23, srs1, 64, False, rm)


@instruction("fcvt.w.d", f"1100001 00000 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_w_d(S, frs1, rm):
    return sf.to_integer(S, 52, frs1, 32, True, rm)


@instruction("fcvt.wu.d", f"1100001 00001 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_wu_d(S, frs1, rm):
    return sf.to_integer(S, 52, frs1, 32, False, rm)


@instruction("fcvt.l.d", f"1100001 00010 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_l_d(S, frs1, rm):
    return sf.to_integer(S, 52, frs1, 64, True, rm)


@instruction("fcvt.lu.d", f"1100001 00011 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, files="xf")
def fcvt_lu_d(S, frs1, rm):
    return sf.to_integer(S, 52, frs1, 64, False, rm)


@instruction("fcvt.s.w", f"1101000 00000 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="fx")
def fcvt_s_w(S, rs1, rm):
    return sf.from_integer(S, 23, (rs1 << 32) >> 32, True, rm)


@instruction("fcvt.s.wu", f"1101000 00001 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="fx")
def fcvt_s_wu(S, rs1, rm):
    return sf.from_integer(S, 23, rs1 & 0xFFFFFFFF, False, rm)


@instruction("fcvt.s.l", f"1101000 00010 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="fx")
def fcvt_s_l(S, rs1, rm):
    return sf.from_integer(S, 23, rs1, True, rm)


@instruction("fcvt.s.lu", f"1101000 00011 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="s", files="fx")
def fcvt_s_lu(S, rs1, rm):
    return sf.from_integer(S, 23, rs1, False, rm)


@instruction("fcvt.d.w", f"1101001 00000 ..... ... ..... {_OP_FP}", FR2_EXACT, Kind.FLOAT, result="d", files="fx")
def fcvt_d_w(S, rs1, rm):
    return sf.from_integer(S, 52, (rs1 << 32) >> 32, True, rm)


@instruction("fcvt.d.wu", f"1101001 00001 ..... ... ..... {_OP_FP}", FR2_EXACT, Kind.FLOAT, result="d", files="fx")
def fcvt_d_wu(S, rs1, rm):
    return sf.from_integer(S, 52, rs1 & 0xFFFFFFFF, False, rm)


@instruction("fcvt.d.l", f"1101001 00010 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="d", files="fx")
def fcvt_d_l(S, rs1, rm):
    return sf.from_integer(S, 52, rs1, True, rm)


@instruction("fcvt.d.lu", f"1101001 00011 ..... ... ..... {_OP_FP}", FR2, Kind.FLOAT, result="d", files="fx")
def fcvt_d_lu(S, rs1, rm):
    return sf.from_integer(S, 52, rs1, False, rm)
