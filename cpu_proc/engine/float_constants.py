"""The 32 constants that ``fli`` loads (RISC-V unprivileged §24.1)."""

from __future__ import annotations

import math
import struct

import numpy as np

from cpu_proc.engine.float_format import DOUBLE, HALF, SINGLE
from cpu_proc.engine.jit import jit

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

NAMES = (
    "-1.0", "min", "1.52587890625e-05", "3.0517578125e-05", "0.00390625", "0.0078125", "0.0625", "0.125",
    "0.25", "0.3125", "0.375", "0.4375", "0.5", "0.625", "0.75", "0.875",
    "1.0", "1.25", "1.5", "1.75", "2.0", "2.5", "3.0", "4.0",
    "8.0", "16.0", "128.0", "256.0", "32768.0", "65536.0", "inf", "nan",
)  # fmt: skip
"""How they are written; ``min`` is the smallest positive normal number."""


def pattern(m: int, index: int) -> int:
    """Return a constant as a bit pattern of a format."""
    if NAMES[index] == "min":
        return 1 << m
    value = float(NAMES[index])
    if m == HALF and value > 65504:  # 2.0**16 is too much for a half, and stands for infinity there
        value = math.inf
    floats, integers = {HALF: ("<e", "<H"), SINGLE: ("<f", "<I"), DOUBLE: ("<d", "<q")}[m]
    return int(struct.unpack(integers, struct.pack(floats, value))[0])


_PATTERNS = np.array([pattern(m, index) for m in (HALF, SINGLE, DOUBLE) for index in range(32)])


@jit
def constant(m, index):
    return _PATTERNS[32 * (m > HALF) + 32 * (m > SINGLE) + index]
