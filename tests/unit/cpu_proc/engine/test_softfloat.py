"""Floating point against exact rational arithmetic, for every rounding mode."""

from __future__ import annotations

import functools
import inspect
import random

import numpy as np
import pytest
from numba import njit

from cpu_proc.engine import float_arithmetic, float_comparison, float_conversion
from cpu_proc.engine import float_format as sf
from cpu_proc.engine import state as st
from tests.fuzz import float_reference as exact
from tests.fuzz.float_reference import rounded, value

FFLAGS = st.SLOTS["FFLAGS"]


@functools.cache
def call(name: str):
    """Return a way from Python into the compiled function ``name``, which has none of its own."""
    modules = float_arithmetic, float_comparison, float_conversion
    function = next(getattr(module, name) for module in modules if hasattr(module, name))
    names = ", ".join(inspect.signature(function.py_func).parameters)
    return njit(eval(f"lambda {names}: function({names})", {"function": function}))


CASES = 4000


def patterns(m: int, rng: random.Random) -> int:
    ebits = exact.EXPONENT_BITS[m]
    top = (1 << ebits) - 1
    kind = rng.random()
    e = rng.choice([0, 0, 1, 2, top - 1, top - 2, top // 2, top // 2 + 1]) if kind < 0.4 else rng.randrange(top)
    if 0.4 <= kind < 0.7:
        e = min(max(top // 2 + rng.randrange(-m - 2, m + 3), 0), top - 1)
    frac = rng.choice([0, 1, (1 << m) - 1, 1 << (m - 1), rng.getrandbits(m), rng.getrandbits(m) & -(1 << (m // 2))])
    return rng.getrandbits(1) << (m + ebits) | e << m | frac


def signed(a: int) -> int:
    return a - (1 << 64) if a >= 1 << 63 else a


@pytest.fixture
def S() -> np.ndarray:
    return np.zeros(st.SIZE, np.int64)


def check(S, m, got, want, want_flags, context):
    assert (int(got) & (1 << exact.width(m)) - 1, int(S[FFLAGS])) == (want, want_flags), context


@pytest.mark.parametrize("m", [10, 23, 52])
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
        args = (a, b, c)[: {"sqrt": 1, "fma": 3}.get(operation, 2)]
        want, flags = exact.arithmetic(operation, m, args, rm)
        S[FFLAGS] = warm
        got = call(operation)(S, m, *map(signed, args), rm)
        check(S, m, got, want, flags | warm, (operation, m, rm, [hex(x) for x in args]))


@pytest.mark.parametrize("m", [10, 23, 52])
@pytest.mark.parametrize(("bits", "is_signed"), [(32, True), (32, False), (64, True), (64, False)])
def test_conversion_to_integer(S, m, bits, is_signed):
    rng = random.Random(m * bits + is_signed)
    for _ in range(CASES):
        rm, a = rng.randrange(5), patterns(m, rng)
        S[FFLAGS] = 0
        got = call("to_integer")(S, m, signed(a), bits, is_signed, rm)
        want, flags = exact.to_integer(m, a, bits, is_signed, rm)
        assert (int(got), int(S[FFLAGS])) == (signed(want), flags), (hex(a), rm, bits, is_signed)


@pytest.mark.parametrize("m", [10, 23, 52])
@pytest.mark.parametrize("is_signed", [True, False])
def test_conversion_from_integer(S, m, is_signed):
    rng = random.Random(m + is_signed)
    for _ in range(CASES):
        rm = rng.randrange(5)
        n = rng.getrandbits(rng.randrange(1, 65))
        S[FFLAGS] = 0
        got = call("from_integer")(S, m, signed(n), is_signed, rm)
        want, flags = exact.from_integer(m, n, 64, is_signed, rm)
        check(S, m, got, want, flags, (hex(n), rm))


@pytest.mark.parametrize(("source", "target"), [(23, 52), (52, 23), (10, 23), (10, 52), (23, 10), (52, 10)])
def test_conversion_between_formats(S, source, target):
    rng = random.Random(source)
    for _ in range(CASES):
        rm, a = rng.randrange(5), patterns(source, rng)
        S[FFLAGS] = 0
        got = call("convert")(S, source, target, signed(a), rm)
        want, flags = exact.convert(source, target, a, rm)
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
