"""Bit manipulation, conditional zero and the hints against a model in Python's own unbounded arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from cpu_proc.engine.disassembler import disassemble
from cpu_proc.isa.table import TABLE
from tests.unit.cpu_proc.engine.test_integer import EDGES, U32, narrow
from tests.unit.cpu_proc.harness import MASK, RAM, Bench, r_type, signed

MIXED = (
    0x0102_0408_1020_4080,
    0xFEDC_BA98_7654_3210,
    0x00FF_0080_0100_7F00,
    0x8000_0000_0000_0001,
    0x5555_AAAA_5555_AAAA,
)
VALUES = (*EDGES, *MIXED)


def turned(value: int, right: int, bits: int) -> int:
    """Rotate the low bits to the right."""
    value &= (1 << bits) - 1
    right %= bits
    return (value >> right | value << bits - right) & (1 << bits) - 1


def spelled(value: int, bits: int = 64) -> str:
    return f"{value & (1 << bits) - 1:0{bits}b}"


def product(a: int, b: int) -> int:
    """Multiply without carries."""
    total = 0
    for bit in range(64):
        total ^= (a << bit) * (b >> bit & 1)
    return total


def each_byte(value: int, change: Callable[[int], int]) -> int:
    return int.from_bytes(bytes(change(byte) for byte in value.to_bytes(8, "little")), "little")


def sign_extended(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


TWO: dict[str, Callable[[int, int], int]] = {
    "add.uw": lambda a, b: (a & U32) + b,
    "sh1add": lambda a, b: 2 * a + b,
    "sh2add": lambda a, b: 4 * a + b,
    "sh3add": lambda a, b: 8 * a + b,
    "sh1add.uw": lambda a, b: 2 * (a & U32) + b,
    "sh2add.uw": lambda a, b: 4 * (a & U32) + b,
    "sh3add.uw": lambda a, b: 8 * (a & U32) + b,
    "andn": lambda a, b: a & (b ^ MASK),
    "orn": lambda a, b: a | (b ^ MASK),
    "xnor": lambda a, b: a ^ b ^ MASK,
    "max": lambda a, b: max(signed(a), signed(b)),
    "maxu": max,
    "min": lambda a, b: min(signed(a), signed(b)),
    "minu": min,
    "rol": lambda a, b: turned(a, -b, 64),
    "ror": lambda a, b: turned(a, b, 64),
    "rolw": lambda a, b: narrow(turned(a, -b, 32)),
    "rorw": lambda a, b: narrow(turned(a, b, 32)),
    "pack": lambda a, b: int(spelled(b, 32) + spelled(a, 32), 2),
    "packh": lambda a, b: int(spelled(b, 8) + spelled(a, 8), 2),
    "packw": lambda a, b: narrow(int(spelled(b, 16) + spelled(a, 16), 2)),
    "clmul": product,
    "clmulh": lambda a, b: product(a, b) >> 64,
    "clmulr": lambda a, b: product(a, b) >> 63,
    "bclr": lambda a, b: a & ~(1 << b % 64),
    "bext": lambda a, b: a >> b % 64 & 1,
    "binv": lambda a, b: a ^ 1 << b % 64,
    "bset": lambda a, b: a | 1 << b % 64,
    "czero.eqz": lambda a, b: a if b else 0,
    "czero.nez": lambda a, b: 0 if b else a,
}

ONE: dict[str, Callable[[int], int]] = {
    "clz": lambda a: len(spelled(a)) - len(spelled(a).lstrip("0")),
    "ctz": lambda a: len(spelled(a)) - len(spelled(a).rstrip("0")),
    "cpop": lambda a: spelled(a).count("1"),
    "clzw": lambda a: 32 - len(spelled(a, 32).lstrip("0")),
    "ctzw": lambda a: 32 - len(spelled(a, 32).rstrip("0")),
    "cpopw": lambda a: spelled(a, 32).count("1"),
    "sext.b": lambda a: sign_extended(a, 8),
    "sext.h": lambda a: sign_extended(a, 16),
    "zext.h": lambda a: a % 65536,
    "rev8": lambda a: int.from_bytes(a.to_bytes(8, "little"), "big"),
    "orc.b": lambda a: each_byte(a, lambda byte: 255 if byte else 0),
    "brev8": lambda a: each_byte(a, lambda byte: int(spelled(byte, 8)[::-1], 2)),
}

SHIFTS: dict[str, tuple[int, Callable[[int, int], int]]] = {  # largest amount, model
    "slli.uw": (63, lambda a, n: (a & U32) << n),
    "rori": (63, lambda a, n: turned(a, n, 64)),
    "roriw": (31, lambda a, n: narrow(turned(a, n, 32))),
    "bclri": (63, lambda a, n: a & ~(1 << n)),
    "bexti": (63, lambda a, n: a >> n & 1),
    "binvi": (63, lambda a, n: a ^ 1 << n),
    "bseti": (63, lambda a, n: a | 1 << n),
}


def word(name: str, rs2: int = 0) -> int:
    """Return the word of ``name`` from x5 (and x6, or a number in its place) into x7."""
    return next(row.match for row in TABLE.instructions if row.name == name) | 7 << 7 | 5 << 15 | rs2 << 20


def run(bench: Bench, a: int, b: int = 0) -> int:
    bench.set_x(5, a)
    bench.set_x(6, b)
    bench["PC"] = RAM
    bench.step()
    return bench.x(7)


def test_every_row_has_a_model() -> None:
    extensions = {"zba", "zbb", "zbc", "zbs", "zbkb", "zicond"}
    rows = {row.name for row in TABLE.instructions if extensions & set(row.extension.split())}
    assert rows == {*ONE, *TWO, *SHIFTS}


@pytest.mark.parametrize("name", TWO)
def test_two_registers(bench: Bench, name: str) -> None:
    bench.words(RAM, word(name, 6))
    for a in VALUES:
        for b in VALUES:
            assert run(bench, a, b) == TWO[name](a, b) & MASK, (hex(a), hex(b))


@pytest.mark.parametrize("name", ONE)
def test_one_register(bench: Bench, name: str) -> None:
    bench.words(RAM, word(name))
    for a in (*VALUES, *(1 << bit for bit in range(64))):
        assert run(bench, a) == ONE[name](a) & MASK, hex(a)


@pytest.mark.parametrize("name", SHIFTS)
def test_constant_amount(bench: Bench, name: str) -> None:
    largest, model = SHIFTS[name]
    for amount in range(largest + 1):
        bench.reset()
        bench.words(RAM, word(name, amount))
        for a in VALUES:
            assert run(bench, a) == model(a, amount) & MASK, (hex(a), amount)


def test_narrow_rotation_by_32_is_illegal(bench: Bench) -> None:
    bench.run([word("roriw", 32)])
    assert bench.trapped()[0] == 2


NTL: Sequence[int] = [r_type(0x33, 0, 0, 0, 0, rs2) for rs2 in (2, 3, 4, 5)]
C_NTL = [0x9002 | rs2 << 2 for rs2 in (2, 3, 4, 5)]  # c.add x0, rs2


@pytest.mark.parametrize("hint", [0x0100_000F, 0x00D0_0073, 0x01D0_0073, *NTL, *C_NTL])
def test_hints_and_waits_do_nothing(bench: Bench, hint: int) -> None:
    before = [0, *range(100, 131)]
    for number, value in enumerate(before):
        bench.set_x(number, value)
    bench.run([hint], count=1)
    assert bench["PC"] == RAM + (4 if hint & 3 == 3 else 2)
    assert [bench.x(number) for number in range(32)] == before


def test_names_of_what_binutils_does_not_name() -> None:
    assert disassemble(0x0100_000F)[1] == "pause"
    assert disassemble(word("czero.eqz", 6))[1] == "czero.eqz t2, t0, t1"
    assert disassemble(word("czero.nez", 6))[1] == "czero.nez t2, t0, t1"
