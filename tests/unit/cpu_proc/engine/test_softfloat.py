"""Floating point against exact rational arithmetic, for every rounding mode."""

from __future__ import annotations

import functools
import inspect
import random
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from numba import njit

from cpu_proc.engine import softfloat as sf
from cpu_proc.engine import state as st

FFLAGS = st.SLOTS["FFLAGS"]


@functools.cache
def call(name: str):
    """Return a way from Python into the compiled function ``name``, which has none of its own."""
    function = getattr(sf, name)
    names = ", ".join(inspect.signature(function.py_func).parameters)
    return njit(eval(f"lambda {names}: function({names})", {"function": function}))


CASES = 4000


def split(m: int, a: int) -> tuple[int, int, int]:
    ebits = 11 if m == 52 else 8
    return a >> (m + ebits) & 1, a >> m & (1 << ebits) - 1, a & (1 << m) - 1


def value(m: int, a: int) -> Fraction:
    sign, e, frac = split(m, a)
    bias = 1023 if m == 52 else 127
    mag = (
        Fraction(frac, 1 << m) * Fraction(2) ** (1 - bias)
        if e == 0
        else (1 + Fraction(frac, 1 << m)) * Fraction(2) ** (e - bias)
    )
    return -mag if sign else mag


def floor_log2(v: Fraction) -> int:
    e = v.numerator.bit_length() - v.denominator.bit_length()
    return e if Fraction(2) ** e <= v else e - 1


def to_integer_quotient(v: Fraction, rm: int, negative: bool) -> tuple[int, bool]:
    """Round a non-negative rational to an integer; return it and whether it was inexact."""
    whole, rest = divmod(v.numerator, v.denominator)
    if rest == 0:
        return whole, False
    twice = 2 * rest - v.denominator
    up = {0: twice > 0 or (twice == 0 and whole & 1), 1: False, 2: negative, 3: not negative, 4: twice >= 0}[rm]
    return whole + int(up), True


def rounded(m: int, v: Fraction, rm: int, negative: bool) -> tuple[int, int]:
    """Return (pattern, flags) of the rational magnitude ``v`` > 0."""
    bias, ebits = (1023, 11) if m == 52 else (127, 8)
    emin = 1 - bias
    sign = int(negative) << (m + ebits)
    e = max(floor_log2(v), emin)
    q, inexact = to_integer_quotient(v / Fraction(2) ** (e - m), rm, negative)
    flags = sf.NX if inexact else 0
    if floor_log2(v) < emin and inexact:
        unbounded, _ = to_integer_quotient(v / Fraction(2) ** (floor_log2(v) - m), rm, negative)
        if unbounded * Fraction(2) ** (floor_log2(v) - m) < Fraction(2) ** emin:
            flags |= sf.UF
    if q >= 1 << (m + 1):
        q, e = q >> 1, e + 1
    if e > bias:
        away = rm in (0, 4) or (rm == 3 and not negative) or (rm == 2 and negative)
        infinity = ((1 << ebits) - 1) << m
        return sign | (infinity if away else infinity - 1), sf.OF | sf.NX
    if q < 1 << m:
        return sign | q, flags
    return sign | (e + bias) << m | (q & (1 << m) - 1), flags


def patterns(m: int, rng: random.Random) -> int:
    ebits = 11 if m == 52 else 8
    top = (1 << ebits) - 1
    kind = rng.random()
    e = rng.choice([0, 0, 1, 2, top - 1, top - 2, top // 2, top // 2 + 1]) if kind < 0.4 else rng.randrange(top)
    if 0.4 <= kind < 0.7:
        e = top // 2 + rng.randrange(-m - 2, m + 3)
    frac = rng.choice([0, 1, (1 << m) - 1, 1 << (m - 1), rng.getrandbits(m), rng.getrandbits(m) & -(1 << (m // 2))])
    return rng.getrandbits(1) << (m + ebits) | e << m | frac


def signed(a: int) -> int:
    return a - (1 << 64) if a >= 1 << 63 else a


@pytest.fixture
def S() -> np.ndarray:
    return np.zeros(st.SIZE, np.int64)


def check(S, m, got, want, want_flags, context):
    bits = 64 if m == 52 else 32
    assert (int(got) & (1 << bits) - 1, int(S[FFLAGS])) == (want, want_flags), context


def exact_result(operation: str, a: Fraction, b: Fraction, c: Fraction) -> Fraction | None:
    """Return the rational result; of a square root, one on the same side of every rounding boundary."""
    if operation == "sqrt":
        scale = 4**600
        root = isqrt(a.numerator * scale * a.denominator)
        inexact = root * root != a.numerator * scale * a.denominator
        return Fraction(root * 2 + inexact, a.denominator * 2**601)
    if operation == "div":
        return a / b if b else None
    return {"add": a + b, "sub": a - b, "mul": a * b, "fma": a * b + c}[operation]


@pytest.mark.parametrize("m", [23, 52])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div", "fma", "sqrt"])
@pytest.mark.parametrize("warm", [0, sf.NX])
def test_arithmetic_equals_exact_rounding(S, m, operation, warm):
    rng = random.Random(f"{m}{operation}{warm}")
    for _ in range(CASES):
        rm = rng.choice([0, 0, 1, 2, 3, 4])
        a, b, c = (patterns(m, rng) for _ in range(3))
        if operation == "fma" and rng.random() < 0.3:  # near cancellation
            product = value(m, a) * value(m, b)
            if product:
                c = rounded(m, abs(product), rng.randrange(5), product > 0)[0]
                if split(m, c)[1] == (0x7FF if m == 52 else 0xFF):
                    continue
        va, vb, vc = value(m, a), value(m, b), value(m, c)
        if operation == "sqrt":
            a &= ~(1 << (63 if m == 52 else 31))
            va = abs(va)
        exact = exact_result(operation, va, vb, vc)
        if not exact:
            continue  # zeros, infinities and NaNs have their own test
        S[FFLAGS] = warm
        args = (a, b, c)[: {"sqrt": 1, "fma": 3}.get(operation, 2)]
        got = call(operation)(S, m, *map(signed, args), rm)
        want, flags = rounded(m, abs(exact), rm, exact < 0)
        check(S, m, got, want, flags | warm, (operation, m, rm, [hex(x) for x in args]))


@pytest.mark.parametrize("m", [23, 52])
@pytest.mark.parametrize(("bits", "is_signed"), [(32, True), (32, False), (64, True), (64, False)])
def test_conversion_to_integer(S, m, bits, is_signed):
    rng = random.Random(m * bits + is_signed)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    for _ in range(CASES):
        rm, a = rng.randrange(5), patterns(m, rng)
        v = value(m, a)
        q, inexact = to_integer_quotient(abs(v), rm, v < 0)
        q = -q if v < 0 else q
        flags = sf.NX if inexact else 0
        if not low <= q <= high:
            q, flags = (low if q < low else high), sf.NV
        S[FFLAGS] = 0
        got = call("to_integer")(S, m, signed(a), bits, is_signed, rm)
        want = (q & (1 << bits) - 1) ^ (1 << bits - 1)
        want = signed((want - (1 << bits - 1)) & (1 << 64) - 1)
        assert (int(got), int(S[FFLAGS])) == (want, flags), (hex(a), rm, bits, is_signed)


@pytest.mark.parametrize("m", [23, 52])
@pytest.mark.parametrize("is_signed", [True, False])
def test_conversion_from_integer(S, m, is_signed):
    rng = random.Random(m + is_signed)
    for _ in range(CASES):
        rm = rng.randrange(5)
        n = rng.getrandbits(rng.randrange(1, 65))
        v = signed(n) if is_signed else n
        S[FFLAGS] = 0
        got = call("from_integer")(S, m, signed(n), is_signed, rm)
        want, flags = rounded(m, Fraction(abs(v)), rm, v < 0) if v else (0, 0)
        check(S, m, got, want, flags, (hex(n), rm))


@pytest.mark.parametrize(("source", "target"), [(23, 52), (52, 23)])
def test_conversion_between_formats(S, source, target):
    rng = random.Random(source)
    for _ in range(CASES):
        rm, a = rng.randrange(5), patterns(source, rng)
        v = value(source, a)
        if not v:
            continue
        S[FFLAGS] = 0
        got = call("convert")(S, source, target, signed(a), rm)
        want, flags = rounded(target, abs(v), rm, v < 0)
        check(S, target, got, want, flags, (hex(a), rm))


INF, NAN, SNAN, ONE, NEG = 0x7FF << 52, 0x7FF8 << 48, 0x7FF4 << 48, 0x3FF << 52, 1 << 63


@pytest.mark.parametrize(
    ("operation", "args", "rm", "want", "flags"),
    [
        ("add", (INF, INF | NEG), 0, NAN, sf.NV),
        ("add", (INF, ONE), 0, INF, 0),
        ("sub", (INF, INF), 0, NAN, sf.NV),
        ("add", (ONE, ONE | NEG), 0, 0, 0),
        ("add", (ONE, ONE | NEG), 2, NEG, 0),
        ("add", (0, NEG), 0, 0, 0),
        ("add", (NEG, NEG), 0, NEG, 0),
        ("mul", (INF, 0), 0, NAN, sf.NV),
        ("mul", (ONE | NEG, 0), 0, NEG, 0),
        ("div", (ONE, 0), 0, INF, sf.DZ),
        ("div", (0, 0), 0, NAN, sf.NV),
        ("div", (INF, INF), 0, NAN, sf.NV),
        ("div", (ONE, INF | NEG), 0, NEG, 0),
        ("sqrt", (ONE | NEG,), 0, NAN, sf.NV),
        ("sqrt", (NEG,), 0, NEG, 0),
        ("add", (NAN, ONE), 0, NAN, 0),
        ("add", (SNAN, ONE), 0, NAN, sf.NV),
        ("fma", (INF, 0, NAN), 0, NAN, sf.NV),
        ("fma", (ONE, 0, NEG), 0, 0, 0),
        ("eq", (NAN, ONE), None, 0, 0),
        ("lt", (NAN, ONE), None, 0, sf.NV),
        ("le", (NEG, 0), None, 1, 0),
        ("min_max", (NEG, 0, 0), None, NEG, 0),
        ("min_max", (NEG, 0, 1), None, 0, 0),
        ("min_max", (SNAN, ONE, 1), None, ONE, sf.NV),
    ],
)
def test_special_cases(S, operation, args, rm, want, flags):
    tail = () if rm is None else (rm,)
    got = call(operation)(S, 52, *(signed(a) for a in args), *tail)
    assert (int(got) & (1 << 64) - 1, int(S[FFLAGS])) == (want, flags)
