"""Every integer instruction against a model in Python's own unbounded arithmetic, at the edges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.cpu_proc.harness import MASK, NOP, RAM, Bench, addi, b_type, i_type, jal, jalr, li, r_type, signed

EDGES = (
    0, 1, 2, 3, 31, 32, 33, 63, 64, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000, 0x1234_5678_9ABC_DEF0,
    MASK >> 1, 1 << 63, MASK - 1, MASK,
)  # fmt: skip
IMMEDIATES = (0, 1, -1, 5, 2047, -2048)


def narrow(value: int) -> int:
    """Sign-extend 32 bits."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def quotient(a: int, b: int, least: int) -> int:
    if b == 0:
        return -1
    if a == least and b == -1:
        return a
    return abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)


def rest(a: int, b: int, least: int) -> int:
    return a if b == 0 else a - quotient(a, b, least) * b


def divide_unsigned(a: int, b: int) -> int:
    return a // b if b else MASK


LEAST, LEAST_W = -(1 << 63), -(1 << 31)
U32 = 0xFFFF_FFFF
s = signed
w = narrow
Model = Callable[[int, int], int]

REGISTERS: dict[str, tuple[int, int, int, Model]] = {  # opcode, funct3, funct7, model on unsigned operands
    "add": (0x33, 0, 0x00, lambda a, b: a + b),
    "sub": (0x33, 0, 0x20, lambda a, b: a - b),
    "sll": (0x33, 1, 0x00, lambda a, b: a << (b & 63)),
    "slt": (0x33, 2, 0x00, lambda a, b: int(s(a) < s(b))),
    "sltu": (0x33, 3, 0x00, lambda a, b: int(a < b)),
    "xor": (0x33, 4, 0x00, lambda a, b: a ^ b),
    "srl": (0x33, 5, 0x00, lambda a, b: a >> (b & 63)),
    "sra": (0x33, 5, 0x20, lambda a, b: s(a) >> (b & 63)),
    "or": (0x33, 6, 0x00, lambda a, b: a | b),
    "and": (0x33, 7, 0x00, lambda a, b: a & b),
    "mul": (0x33, 0, 0x01, lambda a, b: a * b),
    "mulh": (0x33, 1, 0x01, lambda a, b: s(a) * s(b) >> 64),
    "mulhsu": (0x33, 2, 0x01, lambda a, b: s(a) * b >> 64),
    "mulhu": (0x33, 3, 0x01, lambda a, b: a * b >> 64),
    "div": (0x33, 4, 0x01, lambda a, b: quotient(s(a), s(b), LEAST)),
    "divu": (0x33, 5, 0x01, divide_unsigned),
    "rem": (0x33, 6, 0x01, lambda a, b: rest(s(a), s(b), LEAST)),
    "remu": (0x33, 7, 0x01, lambda a, b: a % b if b else a),
    "addw": (0x3B, 0, 0x00, lambda a, b: w(a + b)),
    "subw": (0x3B, 0, 0x20, lambda a, b: w(a - b)),
    "sllw": (0x3B, 1, 0x00, lambda a, b: w(a << (b & 31))),
    "srlw": (0x3B, 5, 0x00, lambda a, b: w((a & U32) >> (b & 31))),
    "sraw": (0x3B, 5, 0x20, lambda a, b: w(a) >> (b & 31)),
    "mulw": (0x3B, 0, 0x01, lambda a, b: w(a * b)),
    "divw": (0x3B, 4, 0x01, lambda a, b: w(quotient(w(a), w(b), LEAST_W))),
    "divuw": (0x3B, 5, 0x01, lambda a, b: w(divide_unsigned(a & U32, b & U32))),
    "remw": (0x3B, 6, 0x01, lambda a, b: w(rest(w(a), w(b), LEAST_W))),
    "remuw": (0x3B, 7, 0x01, lambda a, b: w((a & U32) % (b & U32) if b & U32 else a)),
}

IMMEDIATE: dict[str, tuple[int, int, Model]] = {
    "addi": (0x13, 0, lambda a, i: a + i),
    "slti": (0x13, 2, lambda a, i: int(s(a) < i)),
    "sltiu": (0x13, 3, lambda a, i: int(a < i & MASK)),
    "xori": (0x13, 4, lambda a, i: a ^ i),
    "ori": (0x13, 6, lambda a, i: a | i),
    "andi": (0x13, 7, lambda a, i: a & i),
    "addiw": (0x1B, 0, lambda a, i: w(a + i)),
}

SHIFTS: dict[str, tuple[int, int, int, int, Model]] = {  # opcode, funct3, upper bits, largest amount
    "slli": (0x13, 1, 0x000, 63, lambda a, n: a << n),
    "srli": (0x13, 5, 0x000, 63, lambda a, n: a >> n),
    "srai": (0x13, 5, 0x400, 63, lambda a, n: s(a) >> n),
    "slliw": (0x1B, 1, 0x000, 31, lambda a, n: w(a << n)),
    "srliw": (0x1B, 5, 0x000, 31, lambda a, n: w((a & U32) >> n)),
    "sraiw": (0x1B, 5, 0x400, 31, lambda a, n: w(a) >> n),
}

BRANCHES: dict[str, tuple[int, Callable[[int, int], bool]]] = {
    "beq": (0, lambda a, b: a == b),
    "bne": (1, lambda a, b: a != b),
    "blt": (4, lambda a, b: s(a) < s(b)),
    "bge": (5, lambda a, b: s(a) >= s(b)),
    "bltu": (6, lambda a, b: a < b),
    "bgeu": (7, lambda a, b: a >= b),
}


@pytest.mark.parametrize("name", REGISTERS)
def test_two_registers_give_what_the_model_says(bench: Bench, name: str) -> None:
    opcode, funct3, funct7, model = REGISTERS[name]
    bench.words(RAM, r_type(opcode, funct3, funct7, 7, 5, 6))
    for a in EDGES:
        for b in EDGES:
            bench.set_x(5, a)
            bench.set_x(6, b)
            bench["PC"] = RAM
            bench.step()
            assert bench.x(7) == model(a, b) & MASK, (hex(a), hex(b))


@pytest.mark.parametrize("name", REGISTERS)
def test_destination_may_be_a_source(bench: Bench, name: str) -> None:
    opcode, funct3, funct7, model = REGISTERS[name]
    a, b = 0xFEDC_BA98_7654_3210, 0x8000_0000_0000_0003
    bench.set_x(5, a)
    bench.set_x(6, b)
    bench.run([r_type(opcode, funct3, funct7, 5, 5, 6)])
    assert bench.x(5) == model(a, b) & MASK
    bench.set_x(5, a)
    bench.run([r_type(opcode, funct3, funct7, 6, 5, 6)])
    assert bench.x(6) == model(a, b) & MASK


@pytest.mark.parametrize("name", IMMEDIATE)
def test_register_and_immediate(bench: Bench, name: str) -> None:
    opcode, funct3, model = IMMEDIATE[name]
    for immediate in IMMEDIATES:
        for a in EDGES:
            bench.set_x(5, a)
            bench.run([i_type(opcode, funct3, 7, 5, immediate)])
            assert bench.x(7) == model(a, immediate) & MASK, (hex(a), immediate)


@pytest.mark.parametrize("name", SHIFTS)
def test_shift_by_a_constant(bench: Bench, name: str) -> None:
    opcode, funct3, upper, largest, model = SHIFTS[name]
    for amount in (0, 1, largest // 2, largest):
        for a in EDGES:
            bench.set_x(5, a)
            bench.run([i_type(opcode, funct3, 7, 5, upper | amount)])
            assert bench.x(7) == model(a, amount) & MASK, (hex(a), amount)


@pytest.mark.parametrize("name", ["slliw", "srliw", "sraiw"])
def test_narrow_shift_by_32_is_illegal(bench: Bench, name: str) -> None:
    opcode, funct3, upper, _largest, _model = SHIFTS[name]
    bench.run([i_type(opcode, funct3, 7, 5, upper | 32)])
    assert bench.trapped()[0] == 2


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("offset", [8, -8, 4094, -4096])
def test_branch_goes_where_the_model_says(bench: Bench, name: str, offset: int) -> None:
    funct3, model = BRANCHES[name]
    at = RAM + 0x4000
    bench.words(at, b_type(funct3, 5, 6, offset))
    for a in EDGES[::2]:
        for b in EDGES[::2]:
            bench.set_x(5, a)
            bench.set_x(6, b)
            bench["PC"] = at
            bench.step()
            assert bench["PC"] == at + (offset if model(a, b) else 4), (hex(a), hex(b))


@pytest.mark.parametrize("offset", [2, -2, 0x800, 0xFFFFE, -0x100000])
def test_jal_links_and_jumps(bench: Bench, offset: int) -> None:
    at = RAM + 0x20_0000
    bench.run([jal(1, offset)], at=at)
    assert (bench["PC"], bench.x(1)) == (at + offset, at + 4)


def test_jalr_through_its_own_link_register_clears_bit_0(bench: Bench) -> None:
    bench.set_x(1, RAM + 0x101)
    bench.run([jalr(1, 1, 4)])
    assert (bench["PC"], bench.x(1)) == (RAM + 0x104, RAM + 4)


def test_lui_and_auipc_sign_extend(bench: Bench) -> None:
    bench.run([0x8000_0000 | 5 << 7 | 0x37, 0x8000_0000 | 6 << 7 | 0x17, 0x7FFF_F000 | 7 << 7 | 0x37])
    assert bench.x(5) == 0xFFFF_FFFF_8000_0000
    assert bench.x(6) == (RAM + 4 + 0xFFFF_FFFF_8000_0000) & MASK
    assert bench.x(7) == 0x7FFF_F000


def test_x0_stays_zero_whatever_writes_it(bench: Bench) -> None:
    bench.set_x(5, RAM)
    bench.run(
        [
            addi(0, 0, 5), r_type(0x33, 4, 1, 0, 5, 0), i_type(0x03, 3, 0, 5, 0), 0x1234_5037, 0x1234_5017,
            jal(0, 4), i_type(0x73, 2, 0, 0, 0x300), 0x0052_A02F, addi(6, 0, 0),
        ]
    )  # fmt: skip
    assert bench.x(0) == bench.x(6) == 0
    assert bench["PC"] == RAM + 9 * 4


@pytest.mark.parametrize("value", [*EDGES, 0xDEAD_BEEF_0BAD_F00D])
def test_harness_loads_any_constant(bench: Bench, value: int) -> None:
    bench.run(li(9, value))
    assert bench.x(9) == value


def test_budget_counts_instructions_exactly(bench: Bench) -> None:
    bench.run([NOP] * 5000, count=4099)
    assert (bench["PC"], bench["INSTRET"], bench.hart["BUDGET"]) == (RAM + 4 * 4099, 4099, 0)
