"""How an instruction is declared, and the list of all of them.

A row is a decorator over one short function: name, encoding pattern, format, and the semantics. Decoder,
interpreter, disassembler and tests are generated from the rows; nothing about an instruction is written twice. A
compressed instruction is a row of its own that names the instruction it expands to (RISC-V unprivileged §26).

Semantics are written in int64 arithmetic over the functions of ``engine.native``; the names of the parameters say
what a function needs:

``rs1 rs2``       integer registers                 ``imm pc``     immediate, address of the instruction
``frs1 frs2 frs3`` floating registers, unboxed      ``m to``       fraction bits of the operands, of the result
``rm``            resolved rounding mode            ``field1``     the rs1 field itself
``old``           what an AMO found in memory
``S X F w``       hart state, host addresses of the register files, decoded word: for system instructions
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

Semantics = Callable[..., Any]


class Kind(Enum):
    """What the generator wraps around the semantics."""

    VALUE = auto()  # returns what goes to rd
    RARE = auto()  # as VALUE, kept out of the interpreter's loop: each branch there slows all the others
    BRANCH = auto()  # returns whether pc + imm is next
    JUMP = auto()  # returns the target; rd becomes the address of the next instruction
    LOAD = auto()  # returns the address; the loaded value goes to rd
    STORE = auto()  # returns the address; rs2 goes there
    AMO = auto()  # takes what was in memory and rs2, returns what goes there; rd gets the former
    SYSTEM = auto()  # acts on the hart's state; returns 0, or nonzero after it set S[EXIT] or S[PC]
    FLOAT = auto()  # as VALUE, with floating registers and flags


@dataclass(frozen=True)
class Format:
    """Where the operands lie in the encoding, and how they are written.

    ``operands`` maps each operand to bit fields: ``[hi:lo]<<n`` terms joined by ``|``, ``+8`` for the three-bit
    register numbers, a plain number for an implied one. ``signed`` is the width of a signed immediate, 0 if unsigned.
    """

    operands: dict[str, str]
    signed: int = 0
    syntax: str = ""


R = Format({"rd": "[11:7]", "rs1": "[19:15]", "rs2": "[24:20]"}, syntax="{rd}, {rs1}, {rs2}")
R2 = Format({"rd": "[11:7]", "rs1": "[19:15]"}, syntax="{rd}, {rs1}")
I = Format(  # noqa: E741  # the specification's own letter
    {"rd": "[11:7]", "rs1": "[19:15]", "imm": "[31:20]"}, signed=12, syntax="{rd}, {rs1}, {imm}"
)
LOADS = Format(I.operands, signed=12, syntax="{rd}, {imm}({rs1})")
SHIFT6 = Format({"rd": "[11:7]", "rs1": "[19:15]", "imm": "[25:20]"}, syntax="{rd}, {rs1}, {imm}")
SHIFT5 = Format({"rd": "[11:7]", "rs1": "[19:15]", "imm": "[24:20]"}, syntax="{rd}, {rs1}, {imm}")
STORES = Format(
    {"rs1": "[19:15]", "rs2": "[24:20]", "imm": "[31:25]<<5|[11:7]"}, signed=12, syntax="{rs2}, {imm}({rs1})"
)
B = Format(
    {"rs1": "[19:15]", "rs2": "[24:20]", "imm": "[31]<<12|[7]<<11|[30:25]<<5|[11:8]<<1"},
    signed=13,
    syntax="{rs1}, {rs2}, {target}",
)
UPPER = Format({"rd": "[11:7]", "imm": "[31:12]<<12"}, signed=32, syntax="{rd}, {upper}")
J = Format({"rd": "[11:7]", "imm": "[31]<<20|[19:12]<<12|[20]<<11|[30:21]<<1"}, signed=21, syntax="{rd}, {target}")
NONE = Format({})
FENCE = Format({"imm": "[31:20]"}, syntax="{sets}")
CSR = Format({"rd": "[11:7]", "rs1": "[19:15]", "imm": "[31:20]"}, syntax="{rd}, {csr}, {rs1}")
CSRI = Format({"rd": "[11:7]", "rs1": "[19:15]", "imm": "[31:20]"}, syntax="{rd}, {csr}, {uimm}")
SFENCE = Format({"rs1": "[19:15]", "rs2": "[24:20]"}, syntax="{rs1}, {rs2}")
AMO = Format({"rd": "[11:7]", "rs1": "[19:15]", "rs2": "[24:20]"}, syntax="{rd}, {rs2}, ({rs1})")
LR = Format({"rd": "[11:7]", "rs1": "[19:15]"}, syntax="{rd}, ({rs1})")
# floating point: rounding mode and rs3 travel in the immediate
FR = Format({**R.operands, "imm": "[14:12]"}, syntax="{rd}, {rs1}, {rs2}{rm}")
FR2 = Format({**R2.operands, "imm": "[14:12]"}, syntax="{rd}, {rs1}{rm}")
FR2_EXACT = Format(FR2.operands, syntax="{rd}, {rs1}")  # conversions that never round
FLI = Format(R2.operands, syntax="{rd}, {constant}")
FCVTMOD = Format(R2.operands, syntax="{rd}, {rs1}, rtz")
FR4 = Format({**R.operands, "imm": "[31:27]<<3|[14:12]"}, syntax="{rd}, {rs1}, {rs2}, {rs3}{rm}")


@dataclass(frozen=True)
class Instruction:
    """One row: a 32-bit instruction."""

    name: str
    mask: int
    match: int
    format: Format
    kind: Kind
    semantics: Semantics
    extension: str  # as the specification spells it; several, with blanks between, where several have it
    width: int = 64  # of the memory access, in bits
    signed: bool = True
    result: str = "x"  # register file of rd: x, d (raw 64 bits), s or h (boxed single or half)
    precision: str = "d"  # of the floating operands: d, s or h
    files: str = "xxx"  # register files of rd, rs1, rs2 for the disassembler


@dataclass(frozen=True)
class Compressed:
    """One row: a 16-bit instruction, and what it expands to."""

    name: str
    mask: int
    match: int
    format: Format
    expands: str
    when: str = "True"


@dataclass
class Table:
    """All rows, in the order of their declaration; an instruction's number is its place."""

    instructions: list[Instruction] = field(default_factory=list)
    compressed: list[Compressed] = field(default_factory=list)

    def number(self, name: str) -> int:
        """Return the operation number of ``name``; 0 is "illegal"."""
        return 1 + next(i for i, row in enumerate(self.instructions) if row.name == name)


TABLE = Table()


def pattern(text: str, bits: int) -> tuple[int, int]:
    """Return (mask, match) of an encoding pattern: ``0``, ``1``, ``.`` for operand bits; blanks ignored."""
    text = text.replace(" ", "")
    if len(text) != bits or set(text) - set("01."):
        raise ValueError(f"pattern {text!r} is not {bits} of 0, 1 and .")
    mask = int("".join("0" if c == "." else "1" for c in text), 2)
    match = int("".join("1" if c == "1" else "0" for c in text), 2)
    return mask, match


def _extension(name: str, module: str) -> str:
    """Return the extension of a row that does not name it: its module says."""
    if module == "privileged":
        return "zicsr" if name.startswith("csr") else "zifencei" if name == "fence.i" else module
    return module.removeprefix("rv64")


def instruction(
    name: str, encoding: str, form: Format, kind: Kind = Kind.VALUE, **options: Any
) -> Callable[[Semantics], Semantics]:
    """Declare a 32-bit instruction; the decorated function is its semantics."""

    def declare(semantics: Semantics) -> Semantics:
        mask, match = pattern(encoding, 32)
        extension = options.pop("extension", None) or _extension(name, semantics.__module__.rsplit(".", 1)[-1])
        TABLE.instructions.append(Instruction(name, mask, match, form, kind, semantics, extension, **options))
        return semantics

    return declare


def compressed(
    name: str, encoding: str, expands: str, operands: dict[str, str], *, signed: int = 0, when: str = "True"
) -> None:
    """Declare a 16-bit instruction by its expansion; ``when`` is the condition for it not to be reserved."""
    mask, match = pattern(encoding, 16)
    TABLE.compressed.append(Compressed(name, mask, match, Format(operands, signed), expands, when))


_TERM = re.compile(r"\[(\d+)(?::(\d+))?\](?:<<(\d+))?\Z")


def extraction(fields: str, word: str = "i") -> str:
    """Return the expression that gathers ``fields`` (see ``Format``) out of the variable ``word``."""
    if fields.isdigit():
        return fields
    fields, plus, offset = fields.partition("+")
    terms = []
    for term in fields.split("|"):
        found = _TERM.match(term)
        if not found:
            raise ValueError(f"bad field {term!r}")
        high = int(found[1])
        low = int(found[2] or high)
        shift = int(found[3] or 0)
        taken = f"(({word} >> {low}) & {(1 << (high - low + 1)) - 1:#x})"
        terms.append(f"({taken} << {shift})" if shift else taken)
    gathered = " | ".join(terms)
    return f"({gathered}) + {offset}" if plus else f"({gathered})"
