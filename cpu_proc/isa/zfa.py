"""Zfa: constants, rounding to integers, quiet comparisons (RISC-V unprivileged §24); of Zfh, with the half ones."""

from __future__ import annotations

from functools import partial

from cpu_proc.engine import float_comparison as comparison
from cpu_proc.engine import float_conversion as conversion
from cpu_proc.engine.float_constants import constant
from cpu_proc.engine.float_format import NX
from cpu_proc.isa.precision import each
from cpu_proc.isa.table import FCVTMOD, FLI, FR2, Kind, R, instruction

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, assignment"

operation = partial(each, {"s": "zfa", "d": "zfa", "h": "zfa"})


@operation("fli.{p}", "11110{fmt} 00001 ..... 000 ..... 1010011", FLI, files="ff")
def fli(m, field1):
    return constant(m, field1)


@operation("fminm.{p}", "00101{fmt} ..... ..... 010 ..... 1010011", R, files="fff")
def fminm(S, m, frs1, frs2):
    return comparison.min_max_or_nan(S, m, frs1, frs2, 0)


@operation("fmaxm.{p}", "00101{fmt} ..... ..... 011 ..... 1010011", R, files="fff")
def fmaxm(S, m, frs1, frs2):
    return comparison.min_max_or_nan(S, m, frs1, frs2, 1)


@operation("fround.{p}", "01000{fmt} 00100 ..... ... ..... 1010011", FR2, files="ff")
def fround(S, m, frs1, rm):
    return conversion.round_to_integer(S, m, frs1, rm, 0)


@operation("froundnx.{p}", "01000{fmt} 00101 ..... ... ..... 1010011", FR2, files="ff")
def froundnx(S, m, frs1, rm):
    return conversion.round_to_integer(S, m, frs1, rm, NX)


@instruction("fcvtmod.w.d", "1100001 01000 ..... 001 ..... 1010011", FCVTMOD, Kind.FLOAT, precision="d", files="xf")
def fcvtmod(S, frs1):
    return conversion.to_modular(S, frs1)


@operation("fleq.{p}", "10100{fmt} ..... ..... 100 ..... 1010011", R, files="xff")
def fleq(S, m, frs1, frs2):
    return comparison.le_quiet(S, m, frs1, frs2)


@operation("fltq.{p}", "10100{fmt} ..... ..... 101 ..... 1010011", R, files="xff")
def fltq(S, m, frs1, frs2):
    return comparison.lt_quiet(S, m, frs1, frs2)
