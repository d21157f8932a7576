"""Host operations do what the instruction set says, at the edges."""

from __future__ import annotations

import pytest
from numba import njit

from cpu_proc.engine import native

MIN = -(1 << 63)


@njit
def product_is_nonzero(a, b):
    return a * b != 0


@njit
def sum_is_larger(a):
    return a + 1 > a


def test_signed_overflow_wraps_in_comparisons_too():
    assert not product_is_nonzero(MIN, 2)
    assert not sum_is_larger((1 << 63) - 1)


@pytest.mark.parametrize(
    ("name", "args", "want"),
    [
        ("ult", (-1, 0), 0),
        ("ult", (0, -1), 1),
        ("shr", (-1, 63), 1),
        ("mulhu", (-1, -1), -2),
        ("mulh", (MIN, MIN), 1 << 62),
        ("mulhsu", (-1, -1), -1),
        ("udiv", (-1, 2), (1 << 63) - 1),
        ("sdiv", (-7, 2), -3),
        ("srem", (-7, 2), -1),
        ("clz", (0,), 64),
        ("ctz", (MIN,), 63),
    ],
)
def test_operation(name, args, want):
    function = getattr(native, name)
    call = {1: njit(lambda a: function(a)), 2: njit(lambda a, b: function(a, b))}[len(args)]  # noqa: PLW0108  # no wrapper of its own
    assert call(*args) == want
