"""Sums, products, quotients and roots on bit patterns, exact in value and flags for every rounding mode and format.

NaN results are canonical (RISC-V unprivileged §20.3). Each operation asks the host first (see ``float_host``); what
the host cannot tell for certain is computed in integers.
"""

from __future__ import annotations

from cpu_proc.engine import float_host as host
from cpu_proc.engine import state as st
from cpu_proc.engine.float_format import (
    DZ,
    NV,
    NX,
    RDN,
    assemble,
    canonical_nan,
    infinity,
    invalid,
    is_infinite,
    is_nan,
    is_signaling,
    is_zero,
    negate,
    pack,
    propagate,
    shift_jam,
    sign_of,
    unpack_exponent,
    unpack_significand,
)
from cpu_proc.engine.jit import inlined, jit
from cpu_proc.engine.native import clz, mulhu, shr, udiv, ult

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@inlined
def add(S, m, a, b, rm):
    r = host.add(m, a, b)
    if host.certain(S, m, r, rm):
        if S[st.FFLAGS] & NX == 0:
            host.note(S, host.sum_errs(m, a, b, r))
        return r
    return soft_add(S, m, a, b, rm)


@inlined
def sub(S, m, a, b, rm):
    r = host.sub(m, a, b)
    if host.certain(S, m, r, rm):
        if S[st.FFLAGS] & NX == 0:
            host.note(S, host.sum_errs(m, a, negate(m, b), r))
        return r
    return soft_add(S, m, a, negate(m, b), rm)


@inlined
def mul(S, m, a, b, rm):
    r = host.mul(m, a, b)
    if host.certain(S, m, r, rm):
        if S[st.FFLAGS] & NX == 0:
            host.note(S, host.product_errs(m, a, b, r))
        return r
    return soft_mul(S, m, a, b, rm)


@inlined
def div(S, m, a, b, rm):
    r = host.div(m, a, b)
    if host.certain(S, m, r, rm) and host.large(m, a):
        if S[st.FFLAGS] & NX == 0:
            host.note(S, host.quotient_errs(m, a, b, r))
        return r
    return soft_div(S, m, a, b, rm)


@inlined
def sqrt(S, m, a, rm):
    r = host.sqrt(m, a)
    if host.certain(S, m, r, rm) and host.large(m, a):
        if S[st.FFLAGS] & NX == 0:
            host.note(S, host.quotient_errs(m, a, r, r))
        return r
    return soft_sqrt(S, m, a, rm)


@inlined
def fma(S, m, a, b, c, rm):
    """Return a × b + c, rounded once."""
    r = host.fma(m, a, b, c)
    if host.certain(S, m, r, rm):
        if S[st.FFLAGS] & NX != 0:
            return r
        product = host.mul(m, a, b)
        if host.certain(S, m, product, rm) and not host.product_errs(m, a, b, product):
            host.note(S, host.sum_errs(m, product, c, r))
            return r
    return soft_fma(S, m, a, b, c, rm)


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
def soft_add(S, m, a, b, rm):
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
def soft_mul(S, m, a, b, rm):
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
def soft_div(S, m, a, b, rm):
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
def soft_sqrt(S, m, a, rm):
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
def soft_fma(S, m, a, b, c, rm):
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
