"""Turn the instruction and CSR tables into the source of one Python module for Numba.

The module holds the decoder, the CSR accessors, functions for groups of rare instructions, and ``run``, the
interpreter loop. The hot instructions are branches of one long if-chain over the operation number, which LLVM makes
into a jump table. Registers are reached by host address: in a decoded word every register number sits where one
shift and one mask give its byte offset (``engine.numbering`` has the layout of the decoded word).
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from cpu_proc.engine import state as st
from cpu_proc.engine.generate_decoder import decoder
from cpu_proc.engine.generate_registers import csr_read, csr_write
from cpu_proc.engine.generate_translator import translator
from cpu_proc.engine.numbering import GROUPS, ILLEGAL, numbered
from cpu_proc.engine.source_text import Rename, chain
from cpu_proc.isa.precision import FRACTION
from cpu_proc.isa.table import Instruction, Kind

_TOGETHER = 9  # floating-point instructions in one function: each call in it costs every entry two stores
DATA_MASK = (st.TLB_ENTRIES - 1) * st.DATA_BYTES  # (address >> 7) under it is the byte offset of a TLB entry for data
FETCH_MASK = (st.TLB_ENTRIES - 1) * st.FETCH_BYTES  # (address >> 8), for code
SLICE = 2048  # instructions between two looks at the clock and the devices
SLICE_TRANSLATED = 16384  # of those that take a tenth of the time

RS1 = "load_i64(X + (w >> 13 & 0xF8))"
RS2 = "load_i64(X + (w >> 18 & 0xF8))"
RD = "X + (w >> 7 & 0x1F8)"
FRD = "F + (w >> 7 & 0xF8)"
IMM = "(w >> 32)"
LENGTH = "(w >> 26 & 7)"


def _first(kind: Kind) -> int:
    return next(number for number, row in numbered() if row.kind is kind)


def _expression(row: Instruction, names: dict[str, str]) -> str:
    """Return the semantics of ``row``, a function with one return, as an expression over ``names``."""
    function = ast.parse(textwrap.dedent(inspect.getsource(row.semantics))).body[0]
    assert isinstance(function, ast.FunctionDef)
    (statement,) = [node for node in function.body if not isinstance(node, ast.Expr)]
    assert isinstance(statement, ast.Return)
    assert statement.value is not None
    return ast.unparse(Rename(names).visit(statement.value))


_INTEGER = {"rs1": RS1, "rs2": RS2, "imm": IMM, "pc": "pc"}
_UNBOXED = {"d": "load_i64", "s": "unbox_32", "h": "unbox_16"}
_RESULT = {
    "x": f"store_64({RD}, {{0}})",
    "d": f"store_64({FRD}, {{0}})",
    "s": f"store_64({FRD}, {{0}} | -0x100000000)",  # NaN-boxed (RISC-V unprivileged §21.2)
    "h": f"store_64({FRD}, {{0}} | -0x10000)",
}


def _hot(row: Instruction) -> list[str]:
    """Return the body of one branch of ``run``."""
    value = _expression(row, _INTEGER)
    if row.kind in (Kind.VALUE, Kind.RARE):
        return [f"store_64({RD}, {value})"]
    if row.kind is Kind.BRANCH:
        return [f"if {value}:", f"    pc += {IMM}", "    continue"]
    if row.kind is Kind.JUMP:
        return [f"t = {value}", f"store_64({RD}, pc + {LENGTH})", "pc = t", "continue"]
    size = row.width // 8
    tag = -4096 | (size - 1)
    floats = ["if S[MSTATUS] & 0x6000 == 0:", "    S[PC] = pc", "    illegal(S)", "    break"]
    body = floats if row.result != "x" else []
    if row.kind is Kind.LOAD:
        sign = "i" if row.signed else "u"
        fast = f"load_{sign}{row.width}(a + load_i64(k + {st.DATA_ADDEND}))"
        slow = "v" if row.signed or size == 8 else f"v & {(1 << row.width) - 1:#x}"
        body = [
            *body,
            f"a = {value}",
            f"k = entries + ((a >> 7) & {DATA_MASK:#x})",
            f"if load_i64(k) == a & {tag}:",
            f"    {_RESULT[row.result].format(fast)}",
            "else:",
            "    S[PC] = pc",
            f"    v = load_slow(S, a, {size})",
            "    if S[EXIT] != 0:",
            "        break",
            f"    {_RESULT[row.result].format(slow)}",
        ]
        return [*body, "S[MSTATUS] |= 0x6000"] if row.result != "x" else body
    data = RS2 if row.result == "x" else "load_i64(F + (w >> 18 & 0xF8))"
    return [
        *body,
        f"a = {value}",
        f"k = entries + ((a >> 7) & {DATA_MASK:#x})",
        f"if load_i64(k + {st.DATA_STORES}) == a & {tag}:",
        f"    store_{row.width}(a + load_i64(k + {st.DATA_ADDEND}), {data})",
        "else:",
        "    S[PC] = pc",
        f"    store_slow(S, a, {size}, {data})",
        "    if S[EXIT] != 0:",
        "        break",
    ]


def _amo(row: Instruction) -> list[str]:
    narrow = row.width == 32
    value = _expression(row, {"old": "old", "rs2": "operand"})
    operand = f"({RS2} << 32) >> 32" if narrow else RS2
    load = "load_i32(host)" if narrow else "load_i64(host)"
    return [
        f"host = host_for_atomic(S, {RS1}, {row.width // 8}, 2)",
        "if host == 0:",
        "    return 2",
        f"operand = {operand}",
        f"old = {load}",
        "while True:",
        f"    seen = cas_{row.width}(host, old, {value})",
        "    if seen == old:",
        "        break",
        "    old = seen",
        f"store_64({RD}, old)",
    ]


def _floating(row: Instruction) -> list[str]:
    names = {
        **_INTEGER,
        **{f"frs{n}": f"{_UNBOXED[row.precision]}(F + (w >> {at} & 0xF8))" for n, at in ((1, 13), (2, 18), (3, 32))},
        "field1": "(w >> 16 & 31)",
        "m": str(FRACTION[row.precision]),
        "to": str(FRACTION.get(row.result)),
    }
    return [_RESULT[row.result].format(_expression(row, names))]


def _float_calls() -> str:
    """Return the choice among the floating-point functions."""
    cases = [
        (f"{rows[0][0]} <= op <= {rows[-1][0]}", [f"return floating_{rows[0][0]}(S, X, F, w)"])
        for rows in _float_groups()
    ]
    return chain(cases, 1)


def _rows(kind: Kind) -> list[tuple[int, Instruction]]:
    return [(number, row) for number, row in numbered() if row.kind is kind]


def _float_groups() -> list[list[tuple[int, Instruction]]]:
    """Return the floating-point rows in runs of one precision, doubles first."""
    runs = []
    for p in "dsh":
        rows = [(number, row) for number, row in _rows(Kind.FLOAT) if row.precision == p]
        runs += [rows[at : at + _TOGETHER] for at in range(0, len(rows), _TOGETHER)]
    return runs


def _group(kind: Kind, rows: list[tuple[int, Instruction]], suffix: str = "") -> str:
    """Return the function for one group of rare instructions."""
    if kind is Kind.AMO:
        bodies = [(f"op == {n}", _amo(row)) for n, row in rows]
    elif kind is Kind.FLOAT:
        bodies = [(f"op == {n}", _floating(row)) for n, row in rows]
    elif kind is Kind.RARE:
        bodies = [(f"op == {n}", _hot(row)) for n, row in rows]
    else:
        bodies = [(f"op == {n}", [f"return {_expression(row, {})}"]) for n, row in rows]
    guard = (
        f"""    rm = {IMM} & 7  # 0 where the format has no rounding mode
    if rm == 7:
        rm = S[FRM]
    if rm > 4 or S[MSTATUS] & 0x6000 == 0:
        return illegal(S)
    S[MSTATUS] |= 0x6000
"""
        if kind is Kind.FLOAT
        else ""
    )
    return f"""
@jit
def {GROUPS[kind]}{suffix}(S, X, F, w):
    op = w & 0x3FF
{guard}{chain(bodies, 1)}
    return 0
"""


_HEADER = '''"""Generated from the instruction tables by cpu_proc.engine.generate; not kept under version control."""

import numpy as np

from cpu_proc.engine.jit import entry, jit

from cpu_proc.engine.carryless import carryless, carryless_reversed
from cpu_proc.engine import float_arithmetic as arithmetic
from cpu_proc.engine import float_comparison as comparison
from cpu_proc.engine import float_conversion as conversion
from cpu_proc.engine.float_constants import constant
from cpu_proc.engine.float_format import NX, negate, sign_mask
from cpu_proc.engine.division import divide, divide_unsigned, remainder, remainder_unsigned
from cpu_proc.engine.access import host_for_atomic, load_slow, store_slow
from cpu_proc.engine.blocks import enabled, sys_cbo_clean, sys_cbo_inval, sys_cbo_zero
from cpu_proc.engine.code import compare_with_copy, fetch_page, fetch_word
from cpu_proc.engine.debug import breakpoint_near
from cpu_proc.engine.calls import serve_calls
from cpu_proc.engine.posts import post
from cpu_proc.engine.native import *
from cpu_proc.engine.counters import *
from cpu_proc.engine.interrupt_registers import *
from cpu_proc.engine.registers import *
from cpu_proc.engine.system import *
from cpu_proc.engine.tlb import obey, tlb_mode
from cpu_proc.engine.traps import *
from cpu_proc.engine.waiting import wait
from cpu_proc.engine.access import filled
from cpu_proc.engine.x86.assembler import patch
from cpu_proc.engine.x86.blocks import (
    ON_FLOAT, ON_FUEL, ON_MISS, TO_CHAIN, TO_INTERPRET, TO_LOOK_UP, UNTRANSLATED, forget_jumps, forget_page, keep_jump
)
from cpu_proc.engine.x86.forms import FORMS, ends, form_of, is_atomic, is_store
from cpu_proc.engine.x86.translate import translate as translate_here
'''


def source() -> str:
    """Return the text of the module."""
    slots = "\n".join(f"{name} = {index}" for name, index in st.SLOTS.items())
    hot = [(n, row) for n, row in numbered() if row.kind not in GROUPS]
    run_chain = chain([(f"op == {n}", _hot(row)) for n, row in hot], 4)
    return f"""{_HEADER}
{slots}
{decoder()}

@jit
def translate(S, decoded, offset):
    return call_3(S[TRANSLATE_FUNCTION], S[SELF_HOST], decoded, offset)

{translator()}

@jit
def unbox_32(host):
    v = load_i64(host)
    return v & 0xFFFFFFFF if v >> 32 == -1 else 0x7FC00000


@jit
def unbox_16(host):
    v = load_i64(host)
    return v & 0xFFFF if v >> 16 == -1 else 0x7E00


@jit
def csr_read(S, number):
{csr_read()}
    return illegal(S)


@jit
def csr_write(S, number, value):
{csr_write()}
    return illegal(S)


@entry
def inspect_csr(S, number):
    return csr_read(S, number)


@entry
def change_csr(S, number, value):
    return csr_write(S, number, value)


@jit
def sys_csr(S, X, w, operation, value):
    number = (w >> 32) & 0xFFF
    writes = operation == 0 or (w >> 16 & 31) != 0
    if number >> 8 & 3 > S[PRIV] or (writes and number >> 10 == 3):
        return illegal(S)
    old = 0
    if operation != 0 or (w >> 10 & 63) != 32:
        old = csr_read(S, number)
        if S[EXIT] != 0:
            return 2
    changed = 0
    if writes:
        # for sip and mip the modified value starts from the writable bits alone (privileged §3.1.9)
        base = S[MIP] if number == 0x344 or number == 0x144 else old
        if operation == 1:
            value = base | value
        elif operation == 2:
            value = base & ~value
        changed = csr_write(S, number, value)
        if S[EXIT] != 0:
            return 2
    store_64({RD}, old)
    return reload(S, w) if changed else 0

{_group(Kind.RARE, _rows(Kind.RARE))}
{_group(Kind.SYSTEM, _rows(Kind.SYSTEM))}
{_group(Kind.AMO, _rows(Kind.AMO))}
{"".join(_group(Kind.FLOAT, rows, f"_{rows[0][0]}") for rows in _float_groups())}

# compiled for themselves, in another process than `run`, which calls them by the addresses in the state vector
@entry
def floating(state, X, F, w):
    S = vector(state, {st.SIZE})
    op = w & 0x3FF
{_float_calls()}
    return 0


@entry
def translate_block(state, decoded, offset):
    return translate_here(vector(state, {st.SIZE}), decoded, offset)


@jit
def fetch_decoded(S, pc, decoded):
    near = 0
    if S[BREAKS]:
        near = breakpoint_near(S, pc)
        if near == 2 and S[STEPPING] & {st.PASS_BREAKS} == 0:
            S[EXIT] = {st.EXIT_DEBUG}
            return 0
    # an instruction that ends on the next page depends on that page's mapping: it is kept by address, and forgotten
    # with the translations
    crossing = S[CROSSING_HOST] + (pc >> 12 & {st.CROSSINGS - 1}) * 16
    key = pc | (1 if S[PRIV] == 0 else 0)
    if pc & 0xFFF == 0xFFE and load_i64(crossing) == key:
        return load_i64(crossing + 8)
    i = fetch_word(S, pc)
    if S[EXIT] != 0:
        return 0
    S[DECODES] += 1
    w = decode(i)
    if decoded == S[UNDECODED_HOST]:
        return w
    if near:  # what is kept would be executed without coming here
        return w
    if pc & 0xFFF != 0xFFE or i & 3 != 3:
        compare_with_copy(S, decoded, pc & 0xFFF, i)
        store_64(decoded + ((pc & 0xFFF) << 2), w)
    elif S[PRIV] != 3 and S[CROSSING_KEPT]:  # M mode has another address space with the same key
        store_64(crossing, key)
        store_64(crossing + 8, w)
    return w


@entry
def run(S, X, F):
    S[RUNNING] = 1
    fence(0)  # whoever posts sees that we run, or we see the post
    while True:
        # a device access that Python has served belongs to the next instruction: nothing may come between
        again = S[MMIO_DONE]
        if again == 0:
            obey(S)
            if S[STOP_REQUEST]:
                S[EXIT] = {st.EXIT_STOP}
                break
            if load_u8(S[LOOK_HOST]):
                S[EXIT] = {st.EXIT_LOOK}
                break
            if S[BUDGET] <= 0:
                S[EXIT] = {st.EXIT_BUDGET}
                break
            if S[STEPPING] & {st.HOLD_INTERRUPTS} == 0:
                take_interrupt(S)
        n = 1 if again else min({SLICE_TRANSLATED} if S[TRANSLATING] and S[ICOUNT] == 0 else {SLICE}, S[BUDGET])
        S[BUDGET] -= n
        S[INSTRET] += n
        pc = S[PC]
        entries = S[TLB_HOST] + tlb_mode(S, 1) * {st.DATA_BYTES}
        fetches = S[TLB_HOST] + {st.TLB_FETCHES * 8} + tlb_mode(S, 0) * {st.FETCH_BYTES}
        page = 1  # no page: pages are multiples of 4096
        decoded = 0
        while n > 0:
            floor = 0
            if S[TRANSLATING] and S[BREAKS] == 0:  # breakpoints are the interpreter's to find
                S[PC] = pc
                n = translated(S, X, n, entries, fetches)
                pc = S[PC]
                page = 1
                floor = n - S[INTERPRET] if n > 0 else 0
            while n > floor:
                n -= 1
                if pc & -4096 != page:
                    k = fetches + ((pc >> 8) & {FETCH_MASK:#x})
                    page = pc & -4096
                    if load_i64(k) == page:
                        decoded = load_i64(k + 8)
                    else:
                        S[PC] = pc
                        decoded = fetch_page(S, pc)
                        if S[EXIT] != 0:
                            break
                w = load_i64(decoded + ((pc & 0xFFF) << 2))
                if w == 0:
                    S[PC] = pc
                    w = fetch_decoded(S, pc, decoded)
                    if S[EXIT] != 0:
                        break
                op = w & 0x3FF
{run_chain}
                elif op != {ILLEGAL}:
                    S[PC] = pc
                    S[REMAINING] = n
                    if op >= {_first(Kind.FLOAT)}:
                        v = call_4(S[FLOATING_FUNCTION], S[SELF_HOST], X, F, w)
                    elif op >= {_first(Kind.AMO)}:
                        v = amo(S, X, F, w)
                    elif op >= {_first(Kind.SYSTEM)}:
                        v = system(S, X, F, w)
                    else:
                        v = rare(S, X, F, w)
                    if v != 0:
                        if v == 2:
                            break
                        if S[REMAINING] < n:  # an interrupt is due: give back the rest of the slice
                            S[INSTRET] -= n - S[REMAINING]
                            S[BUDGET] += n - S[REMAINING]
                            n = S[REMAINING]
                        pc = S[PC]
                        entries = S[TLB_HOST] + tlb_mode(S, 1) * {st.DATA_BYTES}
                        fetches = S[TLB_HOST] + {st.TLB_FETCHES * 8} + tlb_mode(S, 0) * {st.FETCH_BYTES}
                        page = 1
                        continue
                else:
                    S[PC] = pc
                    illegal(S)
                    break
                pc += {LENGTH}
            if S[EXIT] != 0:
                break
        S[REMAINING] = 0
        if again:
            S[MMIO_DONE] = 0  # the instruction may have found other memory in the place of the device
        S[INSTRET] -= n
        S[BUDGET] += n
        if S[EXIT] == 0:
            S[PC] = pc
            continue
        if S[EXIT] == {st.EXIT_MMIO}:  # the instruction will run again: it has not been one yet
            S[INSTRET] -= 1
            S[BUDGET] += 1
        if S[EXIT] == {st.EXIT_DEBUG}:  # stopped before the instruction
            S[INSTRET] -= 1
            S[BUDGET] += 1
        if S[EXIT] == {st.EXIT_WFI}:
            if S[STEPPING]:  # a step does not wait
                break
            S[EXIT] = 0
            wait(S)
            if S[EXIT] != 0:
                break
            continue
        if S[EXIT] != {st.EXIT_TRAP}:
            break
        S[INSTRET] -= 1  # what traps does not retire (privileged §3.3.1)
        S[EXIT] = 0
        trap(S, S[CAUSE], S[TVAL], False)
    fence(0)
    S[RUNNING] = 0
"""
