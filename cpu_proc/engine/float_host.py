"""Host arithmetic for guest numbers, where result and flags are certain.

Singles and doubles, rounded to nearest even: the host then gives the same result as long as that is normal, which
also says that no operand was infinite or a NaN. Above the smallest binade it is not tiny either, so that only NX is
open. Where NX is not set yet, the error of the operation decides it: it is itself a number of the format, far enough
above the underflow threshold, and comes out exact (Muller et al., Handbook of Floating-Point Arithmetic, §4.3, §4.4).
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.float_format import (
    DOUBLE,
    HALF,
    NX,
    RNE,
    exponent_mask,
    exponent_of,
    negate,
    sign_mask,
)
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import (
    host_add_32,
    host_add_64,
    host_div_32,
    host_div_64,
    host_fma_32,
    host_fma_64,
    host_mul_32,
    host_mul_64,
    host_sqrt_32,
    host_sqrt_64,
    host_sub_32,
    host_sub_64,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def add(m, a, b):
    return host_add_64(a, b) if m == DOUBLE else host_add_32(a, b)


@jit
def sub(m, a, b):
    return host_sub_64(a, b) if m == DOUBLE else host_sub_32(a, b)


@jit
def mul(m, a, b):
    return host_mul_64(a, b) if m == DOUBLE else host_mul_32(a, b)


@jit
def div(m, a, b):
    return host_div_64(a, b) if m == DOUBLE else host_div_32(a, b)


@jit
def sqrt(m, a):
    return host_sqrt_64(a) if m == DOUBLE else host_sqrt_32(a)


@jit
def fma(m, a, b, c):
    return host_fma_64(a, b, c) if m == DOUBLE else host_fma_32(a, b, c)


@jit
def certain(S, m, r, rm):
    """Tell whether the host's ``r`` is the result, up to the flag NX."""
    lowest = 1 if S[st.FFLAGS] & NX != 0 else m + 2
    return rm == RNE and m != HALF and lowest < exponent_of(m, r) < exponent_mask(m)


@jit
def large(m, a):
    """Tell whether a remainder of the finite ``a`` cannot underflow."""
    return exponent_of(m, a) > m + 2


@jit
def is_error(m, a):
    """Tell whether ``a`` is not zero."""
    return a & (sign_mask(m) - 1) != 0


@jit
def sum_errs(m, a, b, r):
    """Tell whether ``r``, the rounded sum of ``a`` and ``b``, is not exact."""
    magnitude = sign_mask(m) - 1
    if a & magnitude < b & magnitude:
        return is_error(m, sub(m, a, sub(m, r, b)))
    return is_error(m, sub(m, b, sub(m, r, a)))


@jit
def product_errs(m, a, b, r):
    """Tell whether ``r``, the rounded product of ``a`` and ``b``, is not exact."""
    return is_error(m, fma(m, a, b, negate(m, r)))


@jit
def quotient_errs(m, a, b, r):
    """Tell whether ``r``, the rounded quotient of ``a`` and ``b``, is not exact."""
    return is_error(m, fma(m, negate(m, r), b, a))


@jit
def note(S, errs):
    """Set NX after an operation that erred."""
    if errs:
        S[st.FFLAGS] |= NX
    return 0
