"""The decoder, as source text from the rows: a table of patterns, and one packing for each shape of encoding.

A shape is what rows share that have their operands in the same places; there are about sixty among more than three
hundred rows, so that little is left to compile.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpu_proc.engine.numbering import ILLEGAL, numbers
from cpu_proc.engine.source_text import chain, renamed
from cpu_proc.isa.table import TABLE, Compressed, Format, Instruction, Kind, extraction

WRITES_X = 1 << 19  # bit 29 of a word under construction: rd is an integer register, so x0 means "discard"
_BUCKETS = 32 + 32  # by major opcode, then by quadrant and funct3 of the compressed


@dataclass(frozen=True)
class _Shape:
    """Where operands are, and what a word needs beside them."""

    operands: tuple[tuple[str, str], ...]
    signed: int
    length: int
    writes_x: bool
    when: str

    def operand(self, name: str) -> str:
        """Return the expression for an operand of the word ``i``."""
        fields = dict(self.operands)
        return extraction(fields[name]) if name in fields else "0"

    def pack(self) -> list[str]:
        """Return the statements that make the decoded word, or nothing of a reserved encoding."""
        imm, rd = self.operand("imm"), self.operand("rd")
        if self.signed:
            imm = f"(({imm}) << {64 - self.signed}) >> {64 - self.signed}"
        if self.writes_x:
            rd = f"({WRITES_X} | {rd})"
        registers = f"{rd} << 10 | {self.operand('rs1')} << 16 | {self.operand('rs2')} << 21"
        word = f"{registers} | {self.length << 26} | ({imm}) << 32"
        if self.when == "True":
            return [f"return number | {word}"]
        names = {name: self.operand(name) for name in ("rd", "rs1", "rs2", "imm")}
        return [f"if {renamed(self.when, names)}:", f"    return number | {word}"]


def _shape(form: Format, length: int, target: Instruction, when: str) -> _Shape:
    writes_x = target.result == "x" and target.kind not in (Kind.BRANCH, Kind.STORE)
    return _Shape(tuple(sorted(form.operands.items())), form.signed, length, writes_x, when)


def _bucket(row: Instruction | Compressed) -> int:
    if isinstance(row, Instruction):
        return row.match >> 2 & 31
    return 32 + ((row.match & 3) << 3 | row.match >> 13)


def decoder() -> str:
    """Return the tables and functions of the decoder; ``decode(i)`` takes one parcel or two."""
    by_name = {row.name: row for row in TABLE.instructions}
    number = numbers()
    shapes: dict[_Shape, int] = {}
    buckets: list[list[int]] = [[] for _ in range(_BUCKETS)]
    rows: list[Instruction | Compressed] = [*TABLE.instructions, *TABLE.compressed]
    for row in rows:
        if isinstance(row, Compressed):
            target = by_name[row.expands]
            shape = _shape(row.format, 2, target, row.when)
        else:
            target = row
            shape = _shape(row.format, 4, target, "True")
        buckets[_bucket(row)] += [row.mask, row.match, number[target.name], shapes.setdefault(shape, len(shapes))]
    flat: list[int] = []
    starts: list[int] = []
    for bucket in buckets:
        starts.append(len(flat))
        flat += bucket
    starts.append(len(flat))
    packs = chain([(f"shape == {index}", shape.pack()) for shape, index in shapes.items()], 1)
    return f"""
PATTERNS = np.array({flat}, np.int64)  # mask, match, operation, shape
STARTS = np.array({starts}, np.int64)


@jit
def pack(i, number, shape):
{packs}
    return 0


@jit
def match(i):
    bucket = i >> 2 & 31
    if i & 3 != 3:
        i &= 0xFFFF
        bucket = 32 + ((i & 3) << 3 | i >> 13)
    for row in range(STARTS[bucket], STARTS[bucket + 1], 4):
        if i & PATTERNS[row] == PATTERNS[row + 1]:
            w = pack(i, PATTERNS[row + 2], PATTERNS[row + 3])
            if w != 0:
                return w
    return {ILLEGAL}


@entry
def decode(i):
    w = match(i)
    if w >> 29 & 1:
        w ^= 1 << 29
        if w >> 10 & 63 == 0:
            w |= 32 << 10
    return w
"""
