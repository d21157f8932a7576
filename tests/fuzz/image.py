"""Many programs in one bare-metal image; each runs for many rounds with registers that the guest itself makes up.

The image is entered at the start of RAM in M mode. A program has a page of context: the registers of the round, what
they were afterwards, its scratch memory, and a hash over the latter two of all rounds so far. A trap handler notes
cause and value and steps over what trapped. At the end the contexts go to the UART, and ``tohost`` says so.
"""

from __future__ import annotations

import random
import struct

from tests.fuzz.programs import Program, floating, integer
from tests.unit.cpu_proc.harness import (
    MRET,
    RAM,
    addi,
    b_type,
    csrrs,
    csrrw,
    i_type,
    jal,
    jalr,
    li,
    load,
    r_type,
    s_type,
    store,
)

UART, FINISHER = 0x1000_0000, 0x10_0000
ENTRIES = 256  # of a table of operands
TABLES = RAM + (7 << 20)  # integers, floats, fcsr
TOHOST = TABLES + 0x8000
CONTEXTS = RAM + (8 << 20)

# A context: x31 points at it while the program runs
FLOATS, FCSR = 256, 512  # after the 32 integer registers
STATE, ROUNDS, HASH = 528, 536, 544
OUT = 1024  # where the registers go afterwards, laid out like the ones before
CAUSES, VALUES = OUT + 528, OUT + 536  # running sums over the traps
SAVED = OUT + 544  # by the handler
SCRATCH, SCRATCH_END = 2048, 3072
BASE = 2560  # x2, x8 and x30 point here
SIZE = SCRATCH_END  # of what is compared

_LCG = 6364136223846793005
_MIX = 0x9E37_79B9_7F4A_7C15


def _tables() -> bytes:
    chosen = random.Random(1)
    integers = [integer(chosen) for _ in range(ENTRIES)]
    floats = [floating(chosen) for _ in range(ENTRIES)]
    rounding = [chosen.choice((0, 0, 0, 1, 2, 3, 4, 4, 5)) << 5 | chosen.choice((0, 1, 31)) for _ in range(ENTRIES)]
    return struct.pack(f"<{3 * ENTRIES}Q", *integers, *floats, *rounding)


class Code:
    """Code under construction, at the start of RAM."""

    def __init__(self) -> None:
        self.code = bytearray()

    @property
    def here(self) -> int:
        """Return the address of what comes next."""
        return RAM + len(self.code)

    def add(self, *words: int) -> None:
        """Append instruction words, of 16 or 32 bits each."""
        for word in words:
            self.code += word.to_bytes(4 if word & 3 == 3 else 2, "little")

    def align(self) -> None:
        """Go on at a word."""
        while len(self.code) & 3:
            self.add(0x0001)

    def call(self, target: int) -> None:
        """Append a call."""
        self.add(jal(1, target - self.here))


def _handler(image: Code) -> int:
    start = image.here
    image.add(
        store("d", 29, 31, SAVED),
        store("d", 28, 31, SAVED + 8),
        csrrs(29, "mcause"),
        load("d", 28, 31, CAUSES),
        r_type(0x33, 0, 0, 28, 28, 29),
        store("d", 28, 31, CAUSES),
        csrrs(29, "mtval"),
        load("d", 28, 31, VALUES),
        i_type(0x13, 1, 28, 28, 1),
        r_type(0x33, 0, 0, 28, 28, 29),
        store("d", 28, 31, VALUES),
        csrrs(29, "mepc"),
        load("hu", 28, 29),
        i_type(0x13, 7, 28, 28, 3),
        addi(28, 28, -3),
        addi(29, 29, 2),
        b_type(1, 28, 0, 8),
        addi(29, 29, 2),
        csrrw(0, "mepc", 29),
        load("d", 28, 31, SAVED + 8),
        load("d", 29, 31, SAVED),
        MRET,
    )
    return start


def _refill(image: Code) -> int:
    """Append the routine that makes up the registers: entries of a table, half of them with random bits over them."""
    start = image.here
    image.add(load("d", 5, 31, STATE), *li(6, _LCG))
    parts = ((0, FLOATS, (1 << 64) - 1), (FLOATS, FCSR, (1 << 22) - 1), (FCSR, FCSR + 8, 0))
    for table, (first, end, mask) in enumerate(parts):
        image.add(*li(7, TABLES + 8 * ENTRIES * table), *li(13, mask), addi(8, 31, first), addi(9, 31, end))
        image.add(
            r_type(0x33, 0, 1, 5, 5, 6),  # x5 = x5 * x6 + 1001
            addi(5, 5, 1001),
            i_type(0x13, 5, 10, 5, 56),  # its upper 8 bits choose an entry
            i_type(0x13, 1, 10, 10, 3),
            r_type(0x33, 0, 0, 10, 10, 7),
            load("d", 11, 10),
            i_type(0x13, 1, 12, 5, 8),  # the next one decides about random bits
            i_type(0x13, 5, 12, 12, 0x400 | 63),
            r_type(0x33, 7, 0, 12, 12, 13),
            i_type(0x13, 5, 14, 5, 32),
            r_type(0x33, 4, 0, 14, 14, 5),
            r_type(0x33, 7, 0, 14, 14, 12),
            r_type(0x33, 4, 0, 11, 11, 14),
            store("d", 11, 8),
            addi(8, 8, 8),
            b_type(1, 8, 9, -60),
        )
    image.add(store("d", 5, 31, STATE), *li(10, BASE), r_type(0x33, 0, 0, 10, 10, 31))
    image.add(*(store("d", 10, 31, 8 * number) for number in (2, 8, 30)), csrrw(0, "mscratch", 0), jalr(0, 1))
    return start


def _digest(image: Code) -> int:
    """Append the routine that hashes what came out and leaves the number of rounds to go in x10."""
    start = image.here
    image.add(load("d", 5, 31, HASH), *li(6, _MIX))
    for first, end in ((OUT, SAVED), (SCRATCH, SCRATCH_END)):
        image.add(*li(8, first), r_type(0x33, 0, 0, 8, 8, 31), *li(9, end), r_type(0x33, 0, 0, 9, 9, 31))
        image.add(
            load("d", 7, 8),
            r_type(0x33, 4, 0, 5, 5, 7),
            r_type(0x33, 0, 1, 5, 5, 6),  # x5 = (x5 ^ x7) * x6
            i_type(0x13, 5, 7, 5, 29),
            r_type(0x33, 4, 0, 5, 5, 7),  # x5 ^= x5 >> 29
            addi(8, 8, 8),
            b_type(1, 8, 9, -24),
        )
    image.add(store("d", 5, 31, HASH), load("d", 10, 31, ROUNDS), addi(10, 10, -1), store("d", 10, 31, ROUNDS))
    image.add(jalr(0, 1))
    return start


def _finish(image: Code, count: int) -> None:
    """Append the end: say so in ``tohost``, write the contexts to the UART, power off."""
    image.add(*li(10, 1), *li(9, TOHOST), store("d", 10, 9))
    # x5 … x8: context, byte, end of the bytes, end of the contexts
    image.add(*li(5, CONTEXTS), *li(8, CONTEXTS + 4096 * count), *li(9, UART), *li(13, SIZE))
    image.add(
        addi(6, 5, 0),
        r_type(0x33, 0, 0, 7, 5, 13),
        load("bu", 10, 6),
        store("b", 10, 9),
        addi(6, 6, 1),
        b_type(1, 6, 7, -12),
        *li(11, 4096),
        r_type(0x33, 0, 0, 5, 5, 11),
        b_type(1, 5, 8, -4 * (7 + 11)),
        *li(9, FINISHER),
        *li(10, 0x5555),
        store("w", 10, 9),
        jal(0, 0),
    )


def build(programs: list[Program], rounds: int) -> bytes:
    """Return the image of ``programs``, to be loaded at the start of RAM and entered there."""
    image = Code()
    image.add(jal(0, 0))
    handler, refill, digest = _handler(image), _refill(image), _digest(image)
    image.code[:4] = jal(0, image.here - RAM).to_bytes(4, "little")
    image.add(*li(5, handler), csrrw(0, "mtvec", 5), *li(5, 1 << 13), csrrs(0, "mstatus", 5))
    for index, program in enumerate(programs):
        image.align()
        image.add(*li(31, CONTEXTS + 4096 * index))
        again = image.here
        image.call(refill)
        image.add(load("d", 1, 31, FCSR), csrrw(0, "fcsr", 1))
        image.add(*(i_type(0x07, 3, number, 31, FLOATS + 8 * number) for number in range(32)))
        image.add(*(load("d", number, 31, 8 * number) for number in range(1, 31)))
        image.add(*program.words)
        image.align()
        image.add(*(store("d", number, 31, OUT + 8 * number) for number in range(1, 31)))
        image.add(*(s_type(0x27, 3, 31, number, OUT + FLOATS + 8 * number) for number in range(32)))
        image.add(csrrs(1, "fcsr"), store("d", 1, 31, OUT + FCSR))
        image.call(digest)
        image.add(b_type(0, 10, 0, 8), jal(0, again - image.here - 4))
    image.align()
    _finish(image, len(programs))
    if len(image.code) > TABLES - RAM:
        raise ValueError(f"{len(programs)} programs do not fit")
    code = bytes(image.code).ljust(TABLES - RAM, b"\0") + _tables()
    return code.ljust(CONTEXTS - RAM, b"\0") + b"".join(_context(program, rounds) for program in programs)


def _context(program: Program, rounds: int) -> bytes:
    page = bytearray(4096)
    struct.pack_into("<3Q", page, STATE, program.seed * _MIX & (1 << 64) - 1, rounds, 0)
    page[SCRATCH:SCRATCH_END] = program.scratch(SCRATCH_END - SCRATCH)
    return bytes(page)


def elf(image: bytes, count: int) -> bytes:
    """Return the image as an ELF file with the symbols by which Spike finds ``tohost`` and the contexts."""
    symbols = {"tohost": TOHOST, "fromhost": TOHOST + 8, "begin_signature": CONTEXTS}
    symbols["end_signature"] = CONTEXTS + 4096 * count
    names, table = b"\0.symtab\0.strtab\0", bytes(24)
    for name, value in symbols.items():
        table += struct.pack("<IBBHQQ", len(names), 0x10, 0, 0xFFF1, value, 0)  # global, absolute
        names += name.encode() + b"\0"
    at = 64 + 56
    tables = at + len(image)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 243, 1, RAM, 64, tables + len(table) + len(names),
        5, 64, 56, 1, 64, 3, 2,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 7, at, RAM, RAM, len(image), len(image), 1)
    section = struct.Struct("<IIQQQQIIQQ")
    sections = bytes(64)
    sections += section.pack(1, 2, 0, 0, tables, len(table), 2, 1, 8, 24)
    sections += section.pack(9, 3, 0, 0, tables + len(table), len(names), 0, 0, 1, 0)
    return header + segment + image + table + names + sections
