"""Products without carries: of polynomials whose coefficients are bits (RISC-V unprivileged §30.4.6)."""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import bit_reverse, ctz

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"


@jit
def carryless(a, b):
    product = 0
    while b != 0:
        product ^= a << ctz(b)
        b &= b - 1
    return product


@jit
def carryless_reversed(a, b):
    """Return bits 126 to 63 of the product: the low half of the product read backwards."""
    return bit_reverse(carryless(bit_reverse(a), bit_reverse(b)))
