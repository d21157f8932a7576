"""Floating-point arithmetic on bit patterns, exact in value and flags for every rounding mode and format.

NaN results are canonical (RISC-V unprivileged §20.3). Host arithmetic is used where its result and flags are certain:
rounding to nearest even, NX already set, operands and result normal; the only flag it could raise is then NX.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.float_format import (  # noqa: F401  # the flags are part of this module
    DZ,
    NV,
    NX,
    OF,
    RDN,
    RNE,
    TOP,
    UF,
    assemble,
    canonical_nan,
    exponent_of,
    increment,
    infinity,
    invalid,
    is_infinite,
    is_nan,
    is_normal,
    is_signaling,
    is_zero,
    pack,
    propagate,
    shift_jam,
    sign_of,
    unpack_exponent,
    unpack_significand,
)
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import (
    clz,
    host_add_32,
    host_add_64,
    host_div_32,
    host_div_64,
    host_mul_32,
    host_mul_64,
    host_sqrt_32,
    host_sqrt_64,
    host_sub_32,
    host_sub_64,
    mulhu,
    shr,
    udiv,
    ult,
)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def certain(S, m, a, b, rm):
    return rm == RNE and S[st.FFLAGS] & NX != 0 and is_normal(m, a) and is_normal(m, b)


@jit
def add_magnitudes(S, m, sign_a, ea, sa, sign_b, eb, sb, rm):
    """Add two nonzero finite numbers given unpacked; significands at bit 63."""
    if ea < eb or (ea == eb and ult(sa, sb)):
        sign_a, ea, sa, sign_b, eb, sb = sign_b, eb, sb, sign_a, ea, sa
    sa, sb = shr(sa, 1), shift_jam(shr(sb, 1) | (sb & 1), ea - eb)  # one bit of room above
    if sign_a == sign_b:
        total = sa + sb
    else:
        total = sa - sb
        if total == 0:
            return assemble(m, 1 if rm == RDN else 0, 0, 0)
    lead = clz(total)
    return pack(S, m, sign_a, ea + 1 - lead, total << lead, rm)


@jit
def add(S, m, a, b, rm):
    if certain(S, m, a, b, rm):
        r = host_add_64(a, b) if m == 52 else host_add_32(a, b)
        if is_normal(m, r):
            return r
    if is_nan(m, a) or is_nan(m, b):
        return propagate(S, m, a, b)
    if is_infinite(m, a):
        if is_infinite(m, b) and a != b:
            return invalid(S, m)
        return a
    if is_infinite(m, b):
        return b
    if is_zero(m, a):
        if is_zero(m, b) and a != b:
            return assemble(m, 1 if rm == RDN else 0, 0, 0)
        return b
    if is_zero(m, b):
        return a
    return add_magnitudes(
        S,
        m,
        sign_of(m, a),
        unpack_exponent(m, a),
        unpack_significand(m, a),
        sign_of(m, b),
        unpack_exponent(m, b),
        unpack_significand(m, b),
        rm,
    )


@jit
def negate(m, a):
    return a ^ (TOP if m == 52 else 0x80000000)


@jit
def sub(S, m, a, b, rm):
    if certain(S, m, a, b, rm):
        r = host_sub_64(a, b) if m == 52 else host_sub_32(a, b)
        if is_normal(m, r):
            return r
    if is_nan(m, b):
        return propagate(S, m, a, b)
    return add(S, m, a, negate(m, b), rm)


@jit
def mul(S, m, a, b, rm):
    if certain(S, m, a, b, rm):
        r = host_mul_64(a, b) if m == 52 else host_mul_32(a, b)
        if is_normal(m, r) and exponent_of(m, r) > 1:  # the smallest binade may be a tiny result rounded up
            return r
    if is_nan(m, a) or is_nan(m, b):
        return propagate(S, m, a, b)
    sign = sign_of(m, a) ^ sign_of(m, b)
    if is_infinite(m, a) or is_infinite(m, b):
        if is_zero(m, a) or is_zero(m, b):
            return invalid(S, m)
        return infinity(m, sign)
    if is_zero(m, a) or is_zero(m, b):
        return assemble(m, sign, 0, 0)
    sa, sb = unpack_significand(m, a), unpack_significand(m, b)
    high = mulhu(sa, sb)
    high |= 1 if sa * sb != 0 else 0
    lead = clz(high)
    return pack(S, m, sign, unpack_exponent(m, a) + unpack_exponent(m, b) + 1 - lead, high << lead, rm)


@jit
def div(S, m, a, b, rm):
    if certain(S, m, a, b, rm):
        r = host_div_64(a, b) if m == 52 else host_div_32(a, b)
        if is_normal(m, r) and exponent_of(m, r) > 1:
            return r
    if is_nan(m, a) or is_nan(m, b):
        return propagate(S, m, a, b)
    sign = sign_of(m, a) ^ sign_of(m, b)
    if is_infinite(m, a):
        return invalid(S, m) if is_infinite(m, b) else infinity(m, sign)
    if is_infinite(m, b):
        return assemble(m, sign, 0, 0)
    if is_zero(m, b):
        if is_zero(m, a):
            return invalid(S, m)
        S[st.FFLAGS] |= DZ
        return infinity(m, sign)
    if is_zero(m, a):
        return assemble(m, sign, 0, 0)
    # long division, 11 bits a step: significands of 53 bits leave 11 bits of room
    divisor = shr(unpack_significand(m, b), 11)
    rest = shr(unpack_significand(m, a), 11)
    quotient = udiv(rest, divisor)
    rest -= quotient * divisor
    for _ in range(5):
        rest <<= 11
        digit = udiv(rest, divisor)
        rest -= digit * divisor
        quotient = (quotient << 11) | digit
    quotient = (quotient << 2) | (1 if rest != 0 else 0)  # bit 57 has weight one
    lead = clz(quotient)
    exponent = unpack_exponent(m, a) - unpack_exponent(m, b) + 6 - lead
    return pack(S, m, sign, exponent, quotient << lead, rm)


@jit
def sqrt(S, m, a, rm):
    if certain(S, m, a, a, rm) and sign_of(m, a) == 0:
        return host_sqrt_64(a) if m == 52 else host_sqrt_32(a)
    if is_nan(m, a):
        return propagate(S, m, a, a)
    if is_zero(m, a):
        return a
    if sign_of(m, a) == 1:
        return invalid(S, m)
    if is_infinite(m, a):
        return a
    exponent = unpack_exponent(m, a)
    # two bits of the radicand a step; the integer part (1 to 3) first
    radicand = unpack_significand(m, a)
    odd = exponent & 1
    remainder = root = 0
    integer_bits = 2 if odd else 1
    remainder = shr(radicand, 64 - integer_bits)
    radicand <<= integer_bits
    root = 1
    remainder -= 1
    for _ in range(57):
        remainder = (remainder << 2) | shr(radicand, 62)
        radicand <<= 2
        trial = (root << 2) | 1
        root <<= 1
        if not ult(remainder, trial):
            remainder -= trial
            root |= 1
    root = (root << 6) | (1 if remainder != 0 else 0)
    return pack(S, m, 0, exponent >> 1, root, rm)


@jit
def fma(S, m, a, b, c, rm):
    """Return a × b + c, rounded once."""
    if is_nan(m, a) or is_nan(m, b) or is_nan(m, c):
        zero_times_infinity = (is_infinite(m, a) and is_zero(m, b)) or (is_zero(m, a) and is_infinite(m, b))
        if zero_times_infinity or is_signaling(m, a) or is_signaling(m, b) or is_signaling(m, c):
            S[st.FFLAGS] |= NV
        return canonical_nan(m)
    sign = sign_of(m, a) ^ sign_of(m, b)
    if is_infinite(m, a) or is_infinite(m, b):
        if is_zero(m, a) or is_zero(m, b) or (is_infinite(m, c) and sign_of(m, c) != sign):
            return invalid(S, m)
        return infinity(m, sign)
    if is_infinite(m, c):
        return c
    if is_zero(m, a) or is_zero(m, b):
        if is_zero(m, c):
            if sign == sign_of(m, c):
                return c
            return assemble(m, 1 if rm == RDN else 0, 0, 0)
        return c
    sa, sb = unpack_significand(m, a), unpack_significand(m, b)
    high, low = mulhu(sa, sb), sa * sb
    exponent = unpack_exponent(m, a) + unpack_exponent(m, b) + 1
    if high >= 0:  # normalise the product to bit 127
        high = (high << 1) | shr(low, 63)
        low <<= 1
        exponent -= 1
    if is_zero(m, c):
        return pack(S, m, sign, exponent, high | (1 if low != 0 else 0), rm)
    sign_c, exponent_c, high_c, low_c = sign_of(m, c), unpack_exponent(m, c), unpack_significand(m, c), 0
    if exponent < exponent_c or (exponent == exponent_c and ult(high, high_c)):
        sign, sign_c = sign_c, sign
        exponent, exponent_c = exponent_c, exponent
        high, high_c = high_c, high
        low, low_c = low_c, low
    # one bit of room above, then align the smaller one
    low = shr(low, 1) | (high << 63)  # the low halves end in zeros: products have 106 bits of 128
    high = shr(high, 1)
    low_c = shr(low_c, 1) | (high_c << 63)
    high_c = shr(high_c, 1)
    n = exponent - exponent_c
    if n >= 128:
        low_c, high_c = 1, 0
    elif n >= 64:
        low_c = shift_jam(high_c, n - 64) | (1 if low_c != 0 else 0)
        high_c = 0
    elif n > 0:
        low_c = shr(low_c, n) | (high_c << (64 - n)) | (1 if low_c << (64 - n) != 0 else 0)
        high_c = shr(high_c, n)
    if sign == sign_c:
        total_low = low + low_c
        total_high = high + high_c + ult(total_low, low)
    else:
        total_low = low - low_c
        total_high = high - high_c - ult(low, low_c)
        if total_high == 0 and total_low == 0:
            return assemble(m, 1 if rm == RDN else 0, 0, 0)
        if total_high < 0:  # equal leading words, smaller low half: negative difference
            total_low = 0 - total_low
            total_high = ~total_high + (1 if total_low == 0 else 0)
            sign = sign_c
    exponent += 1
    if total_high == 0:
        total_high, total_low = total_low, 0
        exponent -= 64
    lead = clz(total_high)
    if lead > 0:
        total_high = (total_high << lead) | shr(total_low, 64 - lead)
        total_low <<= lead
    return pack(S, m, sign, exponent - lead, total_high | (1 if total_low != 0 else 0), rm)


@jit
def order_key(m, a):
    """Map a non-NaN pattern to an integer that orders like the number (both zeros alike)."""
    if is_zero(m, a):
        return 0
    if m == 52:
        return a if a >= 0 else TOP - a
    magnitude = a & 0x7FFFFFFF
    return magnitude if a & 0x80000000 == 0 else -magnitude


@jit
def eq(S, m, a, b):
    if is_nan(m, a) or is_nan(m, b):
        propagate(S, m, a, b)
        return 0
    return 1 if order_key(m, a) == order_key(m, b) else 0


@jit
def lt(S, m, a, b):
    if is_nan(m, a) or is_nan(m, b):
        S[st.FFLAGS] |= NV
        return 0
    return 1 if order_key(m, a) < order_key(m, b) else 0


@jit
def le(S, m, a, b):
    if is_nan(m, a) or is_nan(m, b):
        S[st.FFLAGS] |= NV
        return 0
    return 1 if order_key(m, a) <= order_key(m, b) else 0


@jit
def min_max(S, m, a, b, want_max):
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


@jit
def from_integer(S, m, v, signed, rm):
    """Convert a 64-bit integer."""
    if v == 0:
        return 0
    sign = 1 if signed and v < 0 else 0
    magnitude = 0 - v if sign else v
    lead = clz(magnitude)
    return pack(S, m, sign, 63 - lead, magnitude << lead, rm)


@jit
def to_integer(S, m, a, bits, signed, rm):
    """Convert to an integer of ``bits`` (32 or 64), saturating; 32-bit results are sign-extended either way."""
    largest = (1 << 31) - 1 if bits == 32 else ~TOP
    smallest = 0 - largest - 1
    if not signed:
        largest = -1  # all ones, sign-extended from either width
        smallest = 0
    if is_nan(m, a):
        S[st.FFLAGS] |= NV
        return largest
    sign = sign_of(m, a)
    if is_infinite(m, a):
        S[st.FFLAGS] |= NV
        return smallest if sign else largest
    if is_zero(m, a):
        return 0
    exponent, significand = unpack_exponent(m, a), unpack_significand(m, a)
    if exponent >= 64:
        S[st.FFLAGS] |= NV
        return smallest if sign else largest
    if exponent == 63:
        kept, rest = significand, 0
    elif exponent >= 0:
        kept, rest = shr(significand, 63 - exponent), significand << (exponent + 1)
    else:
        kept, rest = 0, shift_jam(significand, -1 - exponent)
    up = increment(rm, sign, kept & 1, rest, TOP)
    overflow = up == 1 and kept == -1
    kept += up
    if signed:
        limit = (1 << (bits - 1)) if bits == 32 else TOP
        too_big = overflow or (ult(limit, kept) if sign else not ult(kept, limit))
    elif sign:
        too_big = kept != 0
    else:
        too_big = overflow or (bits == 32 and ult(0xFFFFFFFF, kept))
    if too_big:
        S[st.FFLAGS] |= NV
        return smallest if sign else largest
    if rest != 0:
        S[st.FFLAGS] |= NX
    value = 0 - kept if sign else kept
    return (value << 32) >> 32 if bits == 32 else value


@jit
def convert(S, source, target, a, rm):
    """Convert between the formats with ``source`` and ``target`` fraction bits."""
    if is_nan(source, a):
        if is_signaling(source, a):
            S[st.FFLAGS] |= NV
        return canonical_nan(target)
    if is_infinite(source, a):
        return infinity(target, sign_of(source, a))
    if is_zero(source, a):
        return assemble(target, sign_of(source, a), 0, 0)
    return pack(S, target, sign_of(source, a), unpack_exponent(source, a), unpack_significand(source, a), rm)
