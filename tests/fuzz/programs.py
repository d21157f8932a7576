"""Random straight-line programs, in which the instructions of one extension are prominent."""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass, field

from cpu_proc.engine.disassembler import match, operands
from cpu_proc.isa.table import FR, FR2, FR4, TABLE, Instruction, Kind
from tests.unit.cpu_proc.harness import addi, b_type, i_type, jal, s_type

LENGTH = 96  # instructions in one program
RESERVED = (2, 8, 30, 31)  # x31 points at the context, the others into scratch memory

EDGES = (0, 1, 2, 31, 32, 63, 64, 0x7F, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_SHORT = re.split(
    " ",
    "c.addi4spn c.fld c.lw c.ld c.fsd c.sw c.sd c.addi c.addiw c.li c.lui c.srli c.srai c.andi c.sub c.xor c.or c.and "
    "c.subw c.addw c.slli c.fldsp c.lwsp c.ldsp c.mv c.add c.fsdsp c.swsp c.sdsp",
)
_STRAIGHT = {"fence", "fence.i", "pause"}  # the system instructions that fit into a straight line
_FLOAT_CSRS = (1, 2, 3, 0x340)
BASE_EXTENSIONS = ("i", "m", "a", "f", "d")  # with c, what is mixed in everywhere
# mixed in, or nothing to compare in a straight line
_NO_GROUPS = {"zicsr", "zifencei", "zihintpause", "zawrs", "privileged", "svinval", "zicbom", "zicboz"}


def groups() -> list[str]:
    """Return the extensions of the table that can be asked for."""
    named = dict.fromkeys(extension for row in TABLE.instructions for extension in row.extension.split())
    rest = sorted(set(named) - {*BASE_EXTENSIONS, *_NO_GROUPS})
    return ["i", "m", "a", "c", "f", "d", *rest]


@dataclass
class Program:
    """One program: its instruction words, and how many of them count."""

    seed: int
    words: list[int] = field(default_factory=list)
    prominent: int = 0  # those of the extension asked for, without what a branch may skip

    def scratch(self, size: int) -> bytes:
        """Return what its scratch memory holds at first."""
        return random.Random(self.seed).randbytes(size)


def integer(chosen: random.Random) -> int:
    """Return an operand: an edge, something near one, or anything."""
    kind = chosen.randrange(4)
    if kind == 0:
        return chosen.choice(EDGES)
    if kind == 1:
        return chosen.choice(EDGES) + chosen.randint(-2, 2) & (1 << 64) - 1
    return chosen.getrandbits(64) >> chosen.choice((0, 0, 32, 48))


_WIDTHS = ((5, 10), (8, 23), (11, 52))  # exponent and fraction of half, single and double precision


def floating(chosen: random.Random) -> int:
    """Return a floating register: a number of any precision near where rounding is hard, or any bits."""
    if chosen.randrange(8) == 0:
        return chosen.getrandbits(64)
    exponent_bits, fraction_bits = chosen.choice(_WIDTHS)
    size = 1 + exponent_bits + fraction_bits
    top = (1 << exponent_bits) - 1
    bias = top >> 1
    exponent = chosen.choice((0, 1, top, top - 1, bias, bias + chosen.randint(-30, 70), chosen.randint(0, top)))
    fraction = chosen.choice(
        (
            0,
            1,
            (1 << fraction_bits) - 1,
            1 << fraction_bits - 1,
            chosen.getrandbits(fraction_bits),
            chosen.getrandbits(8) << fraction_bits - 8,
        )
    )
    exponent = max(0, min(exponent, top))
    return (-1 << size | chosen.getrandbits(1) << size - 1 | exponent << fraction_bits | fraction) & (1 << 64) - 1


def _free_register(chosen: random.Random) -> int:
    return chosen.choice([number for number in range(32) if number not in RESERVED])


def _long(chosen: random.Random, row: Instruction) -> int:
    """Return a word of ``row`` that stays in its line and in its scratch memory."""
    word = row.match | chosen.getrandbits(32) & ~row.mask & 0xFFFF_FFFF
    form = row.format.operands
    if "rd" in form and row.files[0] == "x":
        word = word & ~(31 << 7) | _free_register(chosen) << 7
    if row.kind in (Kind.LOAD, Kind.STORE, Kind.AMO):
        word = word & ~(31 << 15) | chosen.choice((2, 8, 30)) << 15
    if row.kind is Kind.LOAD:
        word = word & 0xF_FFFF | (chosen.randint(-256, 247) & 0xFFF) << 20
    elif row.kind is Kind.STORE:
        offset = chosen.randint(-256, 247)
        word = word & ~(0x7F << 25 | 31 << 7) | (offset >> 5 & 0x7F) << 25 | (offset & 31) << 7
    if row.format in (FR, FR2, FR4):
        word = word & ~(7 << 12) | chosen.choice((0, 1, 2, 3, 4, 7, 7, 7, 7, 7, 7, 5)) << 12
    return word


def _used(row: Instruction, word: int) -> list[int]:
    """Return the word, and after a rounding to an integer a store of its result.

    QEMU (up to 11.1 at least) declares fround and froundnx free of side effects, and leaves one out whose result the
    same block overwrites unread: the flags it would have set are missing then.
    """
    if not row.name.startswith(("fround.", "froundnx.")):
        return [word]
    return [word, s_type(0x27, 3, 8, word >> 7 & 31, 8 * (word >> 7 & 31) - 128)]


def _short(chosen: random.Random) -> int:
    """Return a 16-bit word that stays in its scratch memory and leaves the reserved registers alone."""
    rows = [row for row in TABLE.compressed if row.name in _SHORT]
    while True:
        row = chosen.choice(rows)
        word = row.match | chosen.getrandbits(16) & ~row.mask & 0xFFFF
        found = match(word)
        if found is None:
            return word  # a reserved encoding: it traps
        target, matched = found
        values = operands(matched.format, word)
        if target.kind in (Kind.LOAD, Kind.STORE) and values["rs1"] not in (2, 8):
            continue
        if target.kind in (Kind.JUMP, Kind.BRANCH, Kind.SYSTEM):
            continue
        if target.kind is Kind.STORE or target.files[0] == "f" or values["rd"] not in RESERVED:
            return word


def _over_the_next(chosen: random.Random, skipped: int) -> list[int]:
    """Return a jump or branch, and the instruction that it may skip."""
    if chosen.random() < 0.2:
        return [jal(_free_register(chosen), 8), skipped]
    branches = [row for row in TABLE.instructions if row.kind is Kind.BRANCH]
    funct3 = chosen.choice(branches).match >> 12 & 7
    return [b_type(funct3, chosen.randrange(32), chosen.randrange(32), 8), skipped]


def _reserved_pair(chosen: random.Random) -> list[int]:
    """Return a load-reserved, something between, the store-conditional that goes with it, and a way to try again.

    A store-conditional may fail for no reason, and on Spike does; so a second try must give what the first would have.
    """
    width = chosen.choice((2, 3)) << 12
    base = chosen.choice((2, 8, 30)) << 15
    status = chosen.choice([number for number in range(1, 32) if number not in RESERVED])
    others = [number for number in range(32) if number != status]
    destination = chosen.choice([number for number in others if number not in RESERVED])
    return [
        0x1000_002F | width | base | _free_register(chosen) << 7,
        addi(destination, chosen.choice([n for n in others if n != destination]), chosen.randint(-2048, 2047)),
        0x1800_002F | width | base | chosen.choice(others) << 20 | status << 7,
        b_type(1, status, 0, -12),
    ]


@functools.cache
def _base() -> tuple[list[Instruction], list[Instruction]]:
    """Return what is mixed in everywhere, without and with floating point."""
    base = [row for row in TABLE.instructions if set(row.extension.split()) & {*BASE_EXTENSIONS, "zicsr"}]
    rows = [row for row in base if row.kind in (Kind.VALUE, Kind.LOAD, Kind.STORE, Kind.AMO)]
    rows += [row for row in TABLE.instructions if row.name in _STRAIGHT]
    return rows, [row for row in base if row.kind is Kind.FLOAT]


def value(chosen: random.Random) -> int:
    """Return an instruction that only computes."""
    return _long(chosen, chosen.choice([row for row in TABLE.instructions if row.kind is Kind.VALUE]))


def mixed(chosen: random.Random) -> list[int]:
    """Return an instruction of any kind."""
    rows, floats = _base()
    kind = chosen.randrange(20)
    if kind < 6:
        return [_long(chosen, chosen.choice(floats))]
    if kind < 14:
        return [_long(chosen, chosen.choice(rows))]
    if kind < 17:
        return [_short(chosen)]
    if kind == 17:
        return _over_the_next(chosen, _long(chosen, chosen.choice(floats)))
    if kind == 18:
        return _reserved_pair(chosen)
    operation = chosen.choice((1, 2, 3, 5, 6, 7))
    number = chosen.choice(_FLOAT_CSRS)
    return [i_type(0x73, operation, _free_register(chosen), chosen.randrange(32), number)]


def generate(seed: int, group: str = "", length: int = LENGTH) -> Program:
    """Return the program of ``seed``; without a group everything in it is mixed."""
    chosen = random.Random(f"{seed} {group}")
    program = Program(seed)
    words = program.words
    own = [row for row in TABLE.instructions if group in row.extension.split()]
    while len(words) < length:
        if not group or chosen.random() < 0.3:
            words += mixed(chosen)
            continue
        row = chosen.choice(own) if own else None
        if row is None:  # c
            words.append(_short(chosen))
            program.prominent += 1
        elif row.kind in (Kind.BRANCH, Kind.JUMP):
            words += _over_the_next(chosen, _long(chosen, next(r for r in own if r.kind is Kind.VALUE)))
            program.prominent += 1
        elif row.kind is Kind.SYSTEM and group == "a":
            words += _reserved_pair(chosen)
            program.prominent += 2
        elif row.kind is not Kind.SYSTEM or row.name in _STRAIGHT:
            words += _used(row, _long(chosen, row))
            program.prominent += 1
    return program
