"""What a floating-point instruction must give, value and flags, by exact rational arithmetic.

Independent of the engine: numbers are fractions, rounding is a comparison with one half.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)
EXPONENT_BITS = {10: 5, 23: 8, 52: 11}
FRACTION_BITS = {"h": 10, "s": 23, "d": 52}
INTEGERS = {"w": (32, True), "wu": (32, False), "l": (64, True), "lu": (64, False)}
CONSTANTS = (
    -1.0, 0.0, 2.0**-16, 2.0**-15, 2.0**-8, 2.0**-7, 0.0625, 0.125, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75,
    0.875, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 8.0, 16.0, 128.0, 256.0, 2.0**15, 2.0**16,
)  # fmt: skip
Result = tuple[int, int]  # pattern, flags


def width(m: int) -> int:
    """Return the size of a format in bits."""
    return 1 + m + EXPONENT_BITS[m]


def bias(m: int) -> int:
    """Return what is added to exponents."""
    return (1 << EXPONENT_BITS[m] - 1) - 1


def split(m: int, a: int) -> tuple[int, int, int]:
    """Return sign, exponent and fraction fields."""
    return a >> width(m) - 1 & 1, a >> m & (1 << EXPONENT_BITS[m]) - 1, a & (1 << m) - 1


def infinity(m: int, negative: object = False) -> int:
    """Return infinity."""
    return (int(bool(negative)) << EXPONENT_BITS[m] | (1 << EXPONENT_BITS[m]) - 1) << m


def zero(m: int, negative: object = False) -> int:
    """Return zero."""
    return int(bool(negative)) << width(m) - 1


def nan(m: int) -> int:
    """Return the canonical NaN."""
    return infinity(m) | 1 << m - 1


def is_infinite(m: int, a: int) -> bool:
    """Tell whether ``a`` is an infinity."""
    return split(m, a)[1:] == (split(m, infinity(m))[1], 0)


def is_nan(m: int, a: int) -> bool:
    """Tell whether ``a`` is a NaN."""
    return split(m, a)[1] == split(m, infinity(m))[1] and split(m, a)[2] != 0


def is_signaling(m: int, a: int) -> bool:
    """Tell whether ``a`` is a signaling NaN."""
    return is_nan(m, a) and not a >> m - 1 & 1


def value(m: int, a: int) -> Fraction:
    """Return the value of a finite number."""
    sign, e, fraction = split(m, a)
    whole = fraction if e == 0 else fraction | 1 << m
    power = max(e, 1) - bias(m) - m
    magnitude = Fraction(whole << power) if power >= 0 else Fraction(whole, 1 << -power)
    return -magnitude if sign else magnitude


def floor_log2(v: Fraction) -> int:
    """Return the exponent of the leading bit."""
    e = v.numerator.bit_length() - v.denominator.bit_length()
    return e if Fraction(2) ** e <= v else e - 1


def to_whole(v: Fraction, rm: int, negative: bool) -> tuple[int, bool]:
    """Round a non-negative rational to an integer; return it and whether it was inexact."""
    whole, rest = divmod(v.numerator, v.denominator)
    if rest == 0:
        return whole, False
    twice = 2 * rest - v.denominator
    up = (twice > 0 or (twice == 0 and whole & 1), False, negative, not negative, twice >= 0)[rm]
    return whole + int(up), True


def rounded(m: int, v: Fraction, rm: int, negative: bool) -> Result:
    """Return pattern and flags of the rational magnitude ``v`` > 0."""
    emin = 1 - bias(m)
    sign = zero(m, negative)
    lead = floor_log2(v)
    e = max(lead, emin)
    q, inexact = to_whole(v / Fraction(2) ** (e - m), rm, negative)
    flags = NX if inexact else 0
    if lead < emin and inexact:
        unbounded, _ = to_whole(v / Fraction(2) ** (lead - m), rm, negative)
        if unbounded * Fraction(2) ** (lead - m) < Fraction(2) ** emin:
            flags |= UF
    if q >= 1 << (m + 1):
        q, e = q >> 1, e + 1
    if e > bias(m):
        away = rm in (RNE, RMM) or (rm == RUP and not negative) or (rm == RDN and negative)
        return infinity(m, negative) - (0 if away else 1), OF | NX
    if q < 1 << m:
        return sign | q, flags
    return sign | (e + bias(m)) << m | (q & (1 << m) - 1), flags


def _rounded(m: int, v: Fraction, rm: int, if_zero: object) -> Result:
    return rounded(m, abs(v), rm, v < 0) if v else (zero(m, if_zero), 0)


def _with_nan(m: int, *operands: int) -> Result:
    return nan(m), NV if any(is_signaling(m, a) for a in operands) else 0


def _fma(m: int, a: int, b: int, c: int, rm: int) -> Result:
    sa, sb, sc = (split(m, x)[0] for x in (a, b, c))
    zero_times_infinity = any(is_infinite(m, x) and y << 1 & (1 << width(m)) - 1 == 0 for x, y in ((a, b), (b, a)))
    if zero_times_infinity:
        return nan(m), NV
    if any(is_nan(m, x) for x in (a, b, c)):
        return _with_nan(m, a, b, c)
    sign = sa ^ sb
    if is_infinite(m, a) or is_infinite(m, b):
        return (nan(m), NV) if is_infinite(m, c) and sc != sign else (infinity(m, sign), 0)
    if is_infinite(m, c):
        return c, 0
    product, addend = value(m, a) * value(m, b), value(m, c)
    if_zero = sign if not product and not addend and sign == sc else rm == RDN
    return _rounded(m, product + addend, rm, if_zero)


def _add(m: int, a: int, b: int, rm: int) -> Result:
    return _fma(m, a, bias(m) << m, b, rm)  # a × 1 + b


def _mul(m: int, a: int, b: int, rm: int) -> Result:
    sign = split(m, a)[0] ^ split(m, b)[0]
    return _fma(m, a, b, zero(m, sign), rm)


def _div(m: int, a: int, b: int, rm: int) -> Result:
    sign = split(m, a)[0] ^ split(m, b)[0]
    if is_nan(m, a) or is_nan(m, b):
        return _with_nan(m, a, b)
    if is_infinite(m, a):
        return (nan(m), NV) if is_infinite(m, b) else (infinity(m, sign), 0)
    if is_infinite(m, b):
        return zero(m, sign), 0
    if not value(m, b):
        return (infinity(m, sign), DZ) if value(m, a) else (nan(m), NV)
    return _rounded(m, value(m, a) / value(m, b), rm, sign)


def _sqrt(m: int, a: int, rm: int) -> Result:
    if is_nan(m, a):
        return _with_nan(m, a)
    if not is_infinite(m, a) and not value(m, a):
        return a, 0
    if split(m, a)[0]:
        return nan(m), NV
    if is_infinite(m, a):
        return a, 0
    v, scale = value(m, a), 1 << 1300  # a root on the same side of every rounding boundary
    root = isqrt(v.numerator * v.denominator * scale)
    inexact = root * root != v.numerator * v.denominator * scale
    return rounded(m, Fraction(root * 2 + inexact, v.denominator << 651), rm, False)


def arithmetic(operation: str, m: int, operands: tuple[int, ...], rm: int) -> Result:
    """Return add, sub, mul, div, sqrt or fma."""
    minus = 1 << width(m) - 1
    if operation == "sub":
        return _add(m, operands[0], operands[1] ^ minus, rm)
    if operation.startswith(("fm", "fnm")) and operation != "fma":
        a, b, c = operands
        negative, subtracts = operation[1] == "n", operation[-3:] == "sub"
        return _fma(m, a ^ minus * negative, b, c ^ minus * (negative != subtracts), rm)
    return {"add": _add, "mul": _mul, "div": _div, "sqrt": _sqrt, "fma": _fma}[operation](m, *operands, rm)  # type: ignore[operator]


def to_integer(m: int, a: int, bits: int, signed: bool, rm: int) -> Result:
    """Return a saturating conversion, sign-extended to 64 bits."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    sign = split(m, a)[0]
    if is_nan(m, a) or is_infinite(m, a):
        q, flags = low if sign and not is_nan(m, a) else high, NV
    else:
        magnitude, inexact = to_whole(abs(value(m, a)), rm, bool(sign))
        q, flags = -magnitude if sign else magnitude, NX if inexact else 0
        if not low <= q <= high:
            q, flags = low if q < low else high, NV
    q &= (1 << bits) - 1
    return (q | (1 << 64) - (1 << bits) if q >> bits - 1 else q), flags


def to_modular(a: int) -> Result:
    """Return fcvtmod.w.d."""
    flags = to_integer(52, a, 32, True, RTZ)[1]
    if is_nan(52, a) or is_infinite(52, a):
        return 0, flags
    magnitude, _ = to_whole(abs(value(52, a)), RTZ, False)
    q = (-magnitude if a >> 63 else magnitude) & 0xFFFFFFFF
    return (q | 0xFFFFFFFF << 32 if q >> 31 else q), flags


def from_integer(m: int, n: int, bits: int, signed: bool, rm: int) -> Result:
    """Return a conversion of the low ``bits`` of ``n``."""
    n &= (1 << bits) - 1
    return _rounded(m, Fraction(n - (1 << bits) if signed and n >> bits - 1 else n), rm, False)


def convert(source: int, target: int, a: int, rm: int) -> Result:
    """Return a conversion between formats."""
    if is_nan(source, a):
        return nan(target), _with_nan(source, a)[1]
    sign = split(source, a)[0]
    return (infinity(target, sign), 0) if is_infinite(source, a) else _rounded(target, value(source, a), rm, sign)


def round_to_integer(m: int, a: int, rm: int, says_inexact: bool) -> Result:
    """Return fround or froundnx."""
    if is_nan(m, a):
        return _with_nan(m, a)
    if is_infinite(m, a):
        return a, 0
    sign = split(m, a)[0]
    q, inexact = to_whole(abs(value(m, a)), rm, bool(sign))
    return _rounded(m, Fraction(-q if sign else q), RNE, sign)[0], NX if inexact and says_inexact else 0


def compare(name: str, m: int, a: int, b: int) -> Result:
    """Return feq, flt, fle, fltq or fleq."""
    if is_nan(m, a) or is_nan(m, b):
        return 0, NV if name in ("flt", "fle") else _with_nan(m, a, b)[1]
    va, vb = (_extended(m, x) for x in (a, b))
    return int({"feq": va == vb, "flt": va < vb, "fle": va <= vb}[name[:3]]), 0


def _extended(m: int, a: int) -> Fraction:
    """Return a value that orders infinities beyond everything finite."""
    return Fraction((-1) ** split(m, a)[0] << 2000) if is_infinite(m, a) else value(m, a)


def min_max(name: str, m: int, a: int, b: int) -> Result:
    """Return fmin, fmax, fminm or fmaxm."""
    flags = _with_nan(m, a, b)[1]
    nans = [is_nan(m, a), is_nan(m, b)]
    if all(nans) or (any(nans) and name[-1] == "m"):
        return nan(m), flags
    if any(nans):
        return (b if nans[0] else a), flags
    ordered = sorted((a, b), key=lambda x: (_extended(m, x), -split(m, x)[0]))
    return ordered[name.startswith("fmax")], flags


def classify(m: int, a: int) -> int:
    """Return the one bit of fclass."""
    sign, e, fraction = split(m, a)
    if is_nan(m, a):
        return 1 << (8 if is_signaling(m, a) else 9)
    bit = 0 if is_infinite(m, a) else 1 if e else 2 if fraction else 3
    return 1 << (bit if sign else 7 - bit)


def constant(m: int, index: int) -> int:
    """Return what fli loads."""
    if index == 1:
        return 1 << m
    if index == 31:
        return nan(m)
    return infinity(m) if index == 30 else _rounded(m, Fraction(CONSTANTS[index]), RNE, False)[0]


def inject(m: int, name: str, a: int, b: int) -> int:
    """Return fsgnj, fsgnjn or fsgnjx."""
    top = 1 << width(m) - 1
    sign = {"fsgnj": b, "fsgnjn": ~b, "fsgnjx": a ^ b}[name]
    return a & ~top | sign & top


def unboxed(m: int, register: int) -> int:
    """Return the number in a register; the canonical NaN where its upper bits are not all ones (§21.2)."""
    bits = width(m)
    return register & (1 << bits) - 1 if register >> bits == (1 << 64 - bits) - 1 else nan(m)


def boxed(m: int, a: int) -> int:
    """Return the register that holds a number."""
    return a | (1 << 64) - (1 << width(m))


def reference(name: str, registers: tuple[int, int, int], rm: int, field1: int = 0) -> Result:
    """Return what ``name`` writes to its register, and the flags it sets; ``field1`` is the number of rs1."""
    base, *types = name.split(".")
    m = FRACTION_BITS.get(types[-1], 52)
    a, b, c = (unboxed(m, register) for register in registers)
    if base == "fmv":
        bits = 8 << "bhwd".index((set(types) - {"x"}).pop())
        low = registers[0] & (1 << bits) - 1
        extends = types[1] == "x" or low >> bits - 1
        return (low | (1 << 64) - (1 << bits) if extends and bits < 64 else low), 0
    if base == "fclass":
        return classify(m, a), 0
    if base in ("feq", "flt", "fle", "fltq", "fleq"):
        return compare(base, m, a, b)
    if base == "fcvtmod":
        return to_modular(a)
    if base == "fcvt" and types[0] in INTEGERS:
        return to_integer(m, a, *INTEGERS[types[0]], rm)
    target = FRACTION_BITS[types[0]]
    if base == "fcvt" and types[1] in INTEGERS:
        got, flags = from_integer(target, registers[0], *INTEGERS[types[1]], rm)
    elif base == "fcvt":
        got, flags = convert(m, target, a, rm)
    elif base in ("fround", "froundnx"):
        got, flags = round_to_integer(m, a, rm, base == "froundnx")
    elif base in ("fmin", "fmax", "fminm", "fmaxm"):
        got, flags = min_max(base, m, a, b)
    elif base == "fli":
        got, flags = constant(m, field1), 0
    elif base.startswith("fsgnj"):
        got, flags = inject(m, base, a, b), 0
    elif base in ("fmadd", "fmsub", "fnmadd", "fnmsub"):
        got, flags = arithmetic(base, m, (a, b, c), rm)
    else:
        got, flags = arithmetic(base[1:], m, (a,) if base == "fsqrt" else (a, b), rm)
    return boxed(target, got) & (1 << 64) - 1, flags
