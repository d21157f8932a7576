"""Functions compiled the engine's own way: parts without machine code, operators, calls by address."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numba import njit

from cpu_proc.engine.jit import jit
from cpu_proc.engine.libraries import Part
from cpu_proc.engine.native import vector
from cpu_proc.engine.numbering import numbers
from tests.unit.cpu_proc.harness import TRAP, Bench, engine

MIN, MAX = -(1 << 63), (1 << 63) - 1


@jit
def arithmetic(a, b):
    return a + b, a - b, a * b, a & b, a | b, a ^ b, a << (b & 63), a >> (b & 63)


@jit
def comparisons(a, b):
    return a == b, a != b, a < b, a <= b, a > b, a >= b


@jit
def in_place(a, b):
    a += b
    a <<= 1
    a |= a == b  # a truth value among integers
    return a * (a > b) + 7 // 2


@njit
def called(a, b):
    return arithmetic(a, b), comparisons(a, b), in_place(a, b)


@njit
def add_to_third(address):
    values = vector(address, 4)
    values[2] += values[1]
    return len(values)


def wrapped(value):
    return (value - MIN) % (1 << 64) + MIN


@pytest.mark.parametrize("a", [0, 1, -1, 5, MIN, MAX])
@pytest.mark.parametrize("b", [0, 1, -1, 63, MIN, MAX])
def test_operators_are_those_of_python_modulo_64_bits(a, b):
    by = b & 63
    first, second, third = called(a, b)
    assert first == tuple(map(wrapped, (a + b, a - b, a * b, a & b, a | b, a ^ b, a << by, a >> by)))
    assert second == (a == b, a != b, a < b, a <= b, a > b, a >= b)
    c = wrapped(wrapped(a + b) << 1)
    c |= c == b
    assert third == wrapped((c if c > b else 0) + 3)


def test_what_python_does_not_call_has_no_machine_code():
    called(1, 2)
    (result,) = arithmetic.overloads.values()
    assert isinstance(result.library, Part)
    assert result.library.get_pointer_to_function(result.fndesc.llvm_func_name) == 0


def test_a_vector_is_made_of_its_address():
    values = np.arange(4)
    assert add_to_third(values.ctypes.data) == 4
    assert values.tolist() == [0, 1, 3, 3]


def test_floating_point_is_called_by_address():
    bench = Bench()
    bench["MSTATUS"] = 0  # floating point is off
    function = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)(engine().addresses["FLOATING_FUNCTION"])
    state, x, f = (int(part.ctypes.data) for part in (bench.hart.state, bench.hart.x, bench.hart.f))
    assert function(state, x, f, numbers()["fadd.d"]) == 2
    assert bench["EXIT"] == TRAP
