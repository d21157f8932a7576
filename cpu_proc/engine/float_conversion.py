"""Conversions between formats and with integers, and rounding to integers (RISC-V unprivileged §20.7, §21.5, Zfa)."""

from __future__ import annotations

from cpu_proc.engine import float_host as host
from cpu_proc.engine import state as st
from cpu_proc.engine.float_format import (
    DOUBLE,
    NV,
    NX,
    RNE,
    RTZ,
    SINGLE,
    TOP,
    assemble,
    bias_of,
    canonical_nan,
    exponent_mask,
    exponent_of,
    fraction_of,
    increment,
    infinity,
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
from cpu_proc.engine.native import clz, host_narrow, shr, ult

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def from_integer(S, m, v, signed, rm):
    """Convert a 64-bit integer."""
    if v == 0:
        return 0
    sign = 1 if signed and v < 0 else 0
    magnitude = 0 - v if sign else v
    lead = clz(magnitude)
    if lead >= 63 - m:  # it fits, in any format
        return assemble(m, sign, 63 - lead + bias_of(m), fraction_of(m, magnitude << (lead - 63 + m)))
    return pack(S, m, sign, 63 - lead, magnitude << lead, rm)


@jit
def whole_part(exponent, significand):
    """Return the integer part of an unpacked number below 2**64."""
    return shr(significand, 63 - exponent) if exponent >= 0 else 0


@jit
def part_below(exponent, significand):
    """Return what ``whole_part`` cuts off: one half is bit 63, the lowest bit may be sticky."""
    if exponent >= 0:
        return significand << (exponent + 1) if exponent < 63 else 0
    return shift_jam(significand, -1 - exponent)


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
    if is_zero(m, a):
        return 0
    exponent, significand = unpack_exponent(m, a), unpack_significand(m, a)
    if is_infinite(m, a) or exponent >= 64:
        S[st.FFLAGS] |= NV
        return smallest if sign else largest
    kept, rest = whole_part(exponent, significand), part_below(exponent, significand)
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
def to_modular(S, a):
    """Convert a double to an integer modulo 2**32, with the flags of the saturating conversion (Zfa)."""
    to_integer(S, DOUBLE, a, 32, True, RTZ)
    exponent = exponent_of(DOUBLE, a) - bias_of(DOUBLE)
    if exponent < 0 or exponent > 63 + DOUBLE:  # above are multiples of 2**64, infinities and NaNs
        return 0
    significand = fraction_of(DOUBLE, a) | (1 << DOUBLE)
    low = shr(significand, DOUBLE - exponent) if exponent <= DOUBLE else significand << (exponent - DOUBLE)
    value = 0 - low if sign_of(DOUBLE, a) else low
    return (value << 32) >> 32


@jit
def round_to_integer(S, m, a, rm, flag):
    """Round to an integer of the same format; ``flag`` is what to set when that is not exact (Zfa)."""
    if is_nan(m, a):
        return propagate(S, m, a, a)
    exponent, significand = unpack_exponent(m, a), unpack_significand(m, a)
    if is_zero(m, a) or exponent >= m:  # infinities are among the latter
        return a
    sign = sign_of(m, a)
    kept, rest = whole_part(exponent, significand), part_below(exponent, significand)
    kept += increment(rm, sign, kept & 1, rest, TOP)
    if rest != 0:
        S[st.FFLAGS] |= flag
    lead = clz(kept) & 63
    return pack(S, m, sign, 63 - lead, kept << lead, RNE)


@jit
def widened(source, target, a):
    """Return a normal number in a format with more of everything."""
    exponent = exponent_of(source, a) + bias_of(target) - bias_of(source)
    return assemble(target, sign_of(source, a), exponent, fraction_of(source, a) << (target - source))


@jit
def convert(S, source, target, a, rm):
    """Convert between the formats with ``source`` and ``target`` fraction bits."""
    sign = sign_of(source, a)
    if source < target and is_normal(source, a):
        return widened(source, target, a)
    if source == DOUBLE and target == SINGLE:
        r = host_narrow(a)
        if host.certain(S, SINGLE, r, rm):
            host.note(S, widened(SINGLE, DOUBLE, r) != a)
            return r
    if is_nan(source, a):
        if is_signaling(source, a):
            S[st.FFLAGS] |= NV
        return canonical_nan(target)
    if exponent_of(source, a) == exponent_mask(source):
        return infinity(target, sign)
    if is_zero(source, a):
        return assemble(target, sign, 0, 0)
    return pack(S, target, sign, unpack_exponent(source, a), unpack_significand(source, a), rm)
