"""IEEE 754 formats: taking numbers apart, and rounding them back into patterns (RISC-V unprivileged §20.2).

A format is its number of fraction bits ``m``; everything else follows from it and ``exponent_bits``. A finite number
is unpacked to (sign, exponent of the leading bit, significand with the leading bit at bit 63); ``pack`` rounds such a
triple, whose lowest bit may be sticky, back into a pattern. Tininess is detected after rounding.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import clz, shr, ult

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)
TOP = -(1 << 63)  # bit 63
HALF, SINGLE, DOUBLE = 10, 23, 52


@jit
def exponent_bits(m):
    return 5 + 3 * (m > HALF) + 3 * (m > SINGLE)  # 5, 8 and 11


@jit
def sign_mask(m):
    return 1 << (m + exponent_bits(m))


@jit
def fraction_of(m, a):
    return a & ((1 << m) - 1)


@jit
def exponent_mask(m):
    return (1 << exponent_bits(m)) - 1


@jit
def sign_of(m, a):
    return (a >> (m + exponent_bits(m))) & 1


@jit
def exponent_of(m, a):
    return (a >> m) & exponent_mask(m)


@jit
def bias_of(m):
    return exponent_mask(m) >> 1


@jit
def canonical_nan(m):
    return (exponent_mask(m) << m) | (1 << (m - 1))


@jit
def infinity(m, sign):
    return assemble(m, sign, exponent_mask(m), 0)


@jit
def assemble(m, sign, exponent, fraction):
    return (sign << (m + exponent_bits(m))) | (exponent << m) | fraction


@jit
def negate(m, a):
    return a ^ sign_mask(m)


@jit
def is_nan(m, a):
    return exponent_of(m, a) == exponent_mask(m) and fraction_of(m, a) != 0


@jit
def is_signaling(m, a):
    return is_nan(m, a) and (a >> (m - 1)) & 1 == 0


@jit
def is_infinite(m, a):
    return exponent_of(m, a) == exponent_mask(m) and fraction_of(m, a) == 0


@jit
def is_zero(m, a):
    return exponent_of(m, a) == 0 and fraction_of(m, a) == 0


@jit
def is_normal(m, a):
    e = exponent_of(m, a)
    return e != 0 and e != exponent_mask(m)


@jit
def unpack_exponent(m, a):
    """Exponent of the leading bit of a finite nonzero number."""
    e = exponent_of(m, a)
    if e == 0:
        return 1 - bias_of(m) - (clz(fraction_of(m, a)) - (63 - m))
    return e - bias_of(m)


@jit
def unpack_significand(m, a):
    """Significand with its leading bit at bit 63."""
    fraction = fraction_of(m, a)
    if exponent_of(m, a) == 0:
        return fraction << clz(fraction) if fraction != 0 else 0
    return (fraction | (1 << m)) << (63 - m)


@jit
def shift_jam(v, n):
    """Shift right logically; what falls out sticks in bit 0."""
    if n <= 0:
        return v
    if n > 63:
        return 1 if v != 0 else 0
    return shr(v, n) | (1 if v << (64 - n) != 0 else 0)


@jit
def increment(rm, sign, odd, rest, half):
    """Tell whether rounding adds one: ``rest`` is what is cut off, ``half`` its middle."""
    if rest == 0:
        return 0
    if rm == RNE:
        return 1 if ult(half, rest) or (rest == half and odd) else 0
    if rm == RMM:
        return 0 if ult(rest, half) else 1
    if rm == RUP:
        return 1 - sign
    if rm == RDN:
        return sign
    return 0


@jit
def pack(S, m, sign, exponent, significand, rm):
    """Round (sign, exponent of bit 63, significand normalised to bit 63 with a sticky bit 0) into a pattern."""
    if significand == 0:
        return assemble(m, sign, 0, 0)
    cut = 63 - m
    minimum = 1 - bias_of(m)
    if exponent < minimum:
        # subnormal: denormalise, round there; tiny unless rounding with an unbounded exponent reaches the minimum
        half = 1 << (cut - 1)
        rest = significand & ((1 << cut) - 1)
        kept = shr(significand, cut)
        carried = exponent == minimum - 1 and kept + increment(rm, sign, kept & 1, rest, half) == 1 << (m + 1)
        lowered = shift_jam(significand, minimum - exponent)
        rest = lowered & ((1 << cut) - 1)
        kept = shr(lowered, cut)
        if rest != 0:
            S[st.FFLAGS] |= NX if carried else NX | UF
        kept += increment(rm, sign, kept & 1, rest, half)
        return assemble(m, sign, 0, 0) + kept  # a carry into the exponent field is the smallest normal number
    half = 1 << (cut - 1)
    rest = significand & ((1 << cut) - 1)
    kept = shr(significand, cut)
    kept += increment(rm, sign, kept & 1, rest, half)
    if kept == 1 << (m + 1):
        kept >>= 1
        exponent += 1
    if exponent > bias_of(m):
        S[st.FFLAGS] |= OF | NX
        away = rm in (RNE, RMM) or (rm == RUP and sign == 0) or (rm == RDN and sign == 1)
        return infinity(m, sign) if away else infinity(m, sign) - 1
    if rest != 0:
        S[st.FFLAGS] |= NX
    return assemble(m, sign, exponent + bias_of(m), fraction_of(m, kept))


@jit
def invalid(S, m):
    S[st.FFLAGS] |= NV
    return canonical_nan(m)


@jit
def propagate(S, m, a, b):
    """Return the NaN for an operation with a NaN operand."""
    if is_signaling(m, a) or is_signaling(m, b):
        S[st.FFLAGS] |= NV
    return canonical_nan(m)
