"""Text for instruction words, from the same tables that execute them. No compiled code is needed."""

from __future__ import annotations

import functools

from cpu_proc.isa import privileged, rv64a, rv64c, rv64fd, rv64i, rv64m  # noqa: F401  # they declare the rows
from cpu_proc.isa.csr import CSRS
from cpu_proc.isa.table import TABLE, Compressed, Format, Instruction, extraction

ABI = (
    ["zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6"]
)
FLOAT = ["ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11"]
_CSR_NAMES = {row.number: row.name for row in CSRS}


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
    by_name = {row.name: row for row in TABLE.instructions}
    if word & 3 == 3:
        for row in TABLE.instructions:
            if word & row.mask == row.match:
                return row, row
        return None
    for short in TABLE.compressed:
        if word & 0xFFFF & short.mask == short.match and eval(
            short.when, {"rd": 0, "rs1": 0, "rs2": 0, "imm": 0, **operands(short.format, word)}
        ):
            return by_name[short.expands], short
    return None


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
        name: (FLOAT if files[position] == "f" else ABI)[values.get(name, 0)]
        for position, name in enumerate(("rd", "rs1", "rs2"))
    }
    immediate = values.get("imm", 0)
    text = row.format.syntax.format(
        **named,
        rs3=FLOAT[immediate >> 3 & 31],
        imm=immediate,
        uimm=values.get("rs1", 0),
        upper=f"{immediate >> 12 & 0xFFFFF:#x}",
        target=f"{address + immediate & (1 << 64) - 1:#x}",
        csr=_CSR_NAMES.get(immediate & 0xFFF, f"{immediate & 0xFFF:#x}"),
    )
    return size, f"{matched.name} {text}".rstrip()
