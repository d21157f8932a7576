"""Text for instruction words, from the same tables that execute them. No compiled code is needed."""

from __future__ import annotations

import functools

from cpu_proc.engine import numbering  # noqa: F401  # declares the rows
from cpu_proc.engine.float_constants import NAMES
from cpu_proc.isa import abi
from cpu_proc.isa.csr import numbers
from cpu_proc.isa.table import AMO, LR, TABLE, Compressed, Format, Instruction, extraction

_CSR_NAMES = {number: name for name, number in numbers().items()}
_BY_NAME = {row.name: row for row in TABLE.instructions}
_ROUNDING = (", rne", ", rtz", ", rdn", ", rup", ", rmm", ", 5", ", 6", "")  # 7 is the dynamic mode: not said
_ORDERING = ("", ".rl", ".aq", ".aqrl")


@functools.cache
def _extractor(fields: str) -> object:
    return compile(extraction(fields), "<format>", "eval")


def operands(form: Format, word: int) -> dict[str, int]:
    """Return the operands of ``word`` by name; a signed immediate is sign-extended."""
    values = {name: eval(_extractor(fields), {"i": word}) for name, fields in form.operands.items()}  # type: ignore[arg-type]
    if form.signed and values.get("imm", 0) >> (form.signed - 1) & 1:
        values["imm"] -= 1 << form.signed
    return values


def match(word: int) -> tuple[Instruction, Instruction | Compressed] | None:
    """Return (what executes, the row that matched), or ``None`` for an illegal word."""
    if word & 3 == 3:
        for row in TABLE.instructions:
            if word & row.mask == row.match:
                return row, row
        return None
    for short in TABLE.compressed:
        if word & 0xFFFF & short.mask == short.match and eval(
            short.when, {"rd": 0, "rs1": 0, "rs2": 0, "imm": 0, **operands(short.format, word)}
        ):
            return _BY_NAME[short.expands], short
    return None


def _syntax(row: Instruction, matched: Instruction | Compressed) -> str:
    """Return the syntax of ``matched``; a compressed one leaves out what its expansion fixes or repeats."""
    if matched is row:
        return row.format.syntax
    if row.name == "jalr":
        return "{rs1}"
    fields = matched.format.operands
    implied = {"{rd}": ("0",), "{rs1}": ("0", fields.get("rd")), "{rs2}": ("0",)}
    return ", ".join(
        part for part in row.format.syntax.split(", ") if fields.get(part.strip("{}")) not in implied.get(part, ())
    )


def _sets(fence: int) -> str:
    """Return what a fence orders: predecessors and successors."""
    before, after = (
        "".join(name for bit, name in zip((8, 4, 2, 1), "iorw", strict=True) if mask & bit)
        for mask in (fence >> 4 & 15, fence & 15)
    )
    return f"{before or 'unknown'}, {after or 'unknown'}"


def disassemble(word: int, address: int = 0) -> tuple[int, str]:
    """Return the size in bytes and the text of the instruction in ``word``."""
    size = 4 if word & 3 == 3 else 2
    found = match(word)
    if found is None:
        return size, f".insn {size}, {word & (1 << 8 * size) - 1:#x}"
    row, matched = found
    values = operands(matched.format, word)
    files = row.files.ljust(4, "x")
    named = {
        name: (abi.FLOAT if files[position] == "f" else abi.INTEGER)[values.get(name, 0)]
        for position, name in enumerate(("rd", "rs1", "rs2"))
    }
    immediate = values.get("imm", 0)
    text = _syntax(row, matched).format(
        **named,
        rs3=abi.FLOAT[immediate >> 3 & 31],
        imm=immediate,
        uimm=values.get("rs1", 0),
        upper=f"{immediate >> 12 & 0xFFFFF:#x}",
        target=f"{address + immediate & (1 << 64) - 1:#x}",
        rm=_ROUNDING[immediate & 7],
        sets=_sets(immediate),
        constant=NAMES[values.get("rs1", 0)],
        csr=_CSR_NAMES.get(immediate & 0xFFF, f"{immediate & 0xFFF:#x}"),
    )
    name = matched.name + (_ORDERING[word >> 25 & 3] if row.format in (AMO, LR) else "")
    return size, f"{name} {text}".rstrip()
