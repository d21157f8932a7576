"""Comparing, choosing and classifying floating-point numbers on their bit patterns (RISC-V unprivileged §20.8)."""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.float_format import (
    NV,
    canonical_nan,
    exponent_of,
    is_infinite,
    is_nan,
    is_signaling,
    is_zero,
    propagate,
    sign_mask,
    sign_of,
)
from cpu_proc.engine.jit import inlined, jit

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def order_key(m, a):
    """Map a non-NaN pattern to an integer that orders like the number (both zeros alike)."""
    magnitude = a & (sign_mask(m) - 1)
    return -magnitude if sign_of(m, a) else magnitude


@jit
def unordered(S, m, a, b):
    """Tell whether a NaN is among the operands of a signaling comparison."""
    if is_nan(m, a) or is_nan(m, b):
        S[st.FFLAGS] |= NV
        return 1
    return 0


@jit
def unordered_quiet(S, m, a, b):
    """Tell whether a NaN is among the operands of a quiet comparison."""
    if is_nan(m, a) or is_nan(m, b):
        propagate(S, m, a, b)
        return 1
    return 0


@inlined
def eq(S, m, a, b):
    return 0 if unordered_quiet(S, m, a, b) else order_key(m, a) == order_key(m, b)


@inlined
def lt(S, m, a, b):
    return 0 if unordered(S, m, a, b) else order_key(m, a) < order_key(m, b)


@inlined
def le(S, m, a, b):
    return 0 if unordered(S, m, a, b) else order_key(m, a) <= order_key(m, b)


@jit
def lt_quiet(S, m, a, b):
    return 0 if unordered_quiet(S, m, a, b) else order_key(m, a) < order_key(m, b)


@jit
def le_quiet(S, m, a, b):
    return 0 if unordered_quiet(S, m, a, b) else order_key(m, a) <= order_key(m, b)


@jit
def min_max(S, m, a, b, want_max):
    """Return the smaller or larger operand, the other one of a NaN (§20.6)."""
    if is_signaling(m, a) or is_signaling(m, b):
        S[st.FFLAGS] |= NV
    if is_nan(m, a):
        return canonical_nan(m) if is_nan(m, b) else b
    if is_nan(m, b):
        return a
    ka, kb = order_key(m, a), order_key(m, b)
    a_smaller = sign_of(m, a) == 1 if ka == kb else ka < kb  # -0 is smaller than +0 here
    return a if a_smaller == (want_max == 0) else b


@jit
def min_max_or_nan(S, m, a, b, want_max):
    """As ``min_max``, but a NaN of any operand that has one (Zfa)."""
    if is_nan(m, a) or is_nan(m, b):
        return propagate(S, m, a, b)
    return min_max(S, m, a, b, want_max)


@jit
def classify(m, a):
    sign = sign_of(m, a)
    if is_nan(m, a):
        return 1 << 8 if is_signaling(m, a) else 1 << 9
    if is_infinite(m, a):
        return 1 << 0 if sign else 1 << 7
    if is_zero(m, a):
        return 1 << 3 if sign else 1 << 4
    if exponent_of(m, a) == 0:
        return 1 << 2 if sign else 1 << 5
    return 1 << 1 if sign else 1 << 6
