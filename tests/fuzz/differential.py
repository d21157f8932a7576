"""Random straight-line programs on QEMU and on our hart: registers, flags and memory must come out alike.

Many programs go into one bare-metal image for QEMU's ``virt``. Each loads all registers, runs its instructions in M
mode with floating point on, and stores all registers; a trap handler notes cause and value and steps over what
trapped.
QEMU writes the results to its UART; ours are read out of memory at the first access to the UART.

    python -m tests.fuzz.differential --programs 20000 --seed 7
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cpu_proc.engine.disassembler import disassemble, match, operands
from cpu_proc.isa.table import FR, FR2, FR4, TABLE, Instruction, Kind
from tests.unit.cpu_proc.harness import (
    MMIO,
    MRET,
    RAM,
    Bench,
    addi,
    b_type,
    csrrs,
    csrrw,
    i_type,
    jal,
    li,
    load,
    r_type,
    s_type,
    store,
)

QEMU = "qemu-system-riscv64"
UART, FINISHER = 0x1000_0000, 0x10_0000
BATCH = 100  # programs in one image
LENGTH = 48  # instructions in one program
MEMORY = 16 << 20

# One page of context per program; x31 points at it while the program runs
CONTEXTS = RAM + (8 << 20)
FLOATS, FCSR = 256, 512  # after the 32 integer registers
OUT = 1024  # where the registers go afterwards, laid out like the ones before
CAUSES, VALUES = OUT + 528, OUT + 536  # running sums over the traps
SAVED = OUT + 544
SCRATCH, SCRATCH_END = 2048, 3072
BASE = 2560  # x2, x8 and x30 point here
RESERVED = (2, 8, 30, 31)
DUMPED = range(OUT, SCRATCH_END)

EDGES = (0, 1, 2, 31, 32, 63, 64, 0x7F, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_SHORT = re.split(
    " ",
    "c.addi4spn c.fld c.lw c.ld c.fsd c.sw c.sd c.addi c.addiw c.li c.lui c.srli c.srai c.andi c.sub c.xor c.or c.and "
    "c.subw c.addw c.slli c.fldsp c.lwsp c.ldsp c.mv c.add c.fsdsp c.swsp c.sdsp",
)
_STRAIGHT = {"fence", "fence.i"}  # the system instructions that fit into a straight line
_FLOAT_CSRS = (1, 2, 3, 0x340)


@dataclass
class Program:
    """One program: what the registers hold before, and the instruction words."""

    x: list[int]
    f: list[int]
    fcsr: int
    words: list[int] = field(default_factory=list)

    def context(self, at: int) -> bytes:
        """Return the page with the registers, for the address it will have."""
        x = list(self.x)
        for number in (2, 8, 30):
            x[number] = at + BASE
        x[31] = at
        page = struct.pack("<65Q", *x, *self.f, self.fcsr)
        scratch = random.Random(self.fcsr ^ self.x[1]).randbytes(SCRATCH_END - SCRATCH)
        return page.ljust(SCRATCH, b"\0") + scratch + bytes(4096 - SCRATCH_END)


def integer(chosen: random.Random) -> int:
    """Return an operand: an edge, something near one, or anything."""
    kind = chosen.randrange(4)
    if kind == 0:
        return chosen.choice(EDGES)
    if kind == 1:
        return chosen.choice(EDGES) + chosen.randint(-2, 2) & (1 << 64) - 1
    return chosen.getrandbits(64) >> chosen.choice((0, 0, 32, 48))


def floating(chosen: random.Random) -> int:
    """Return a floating register: a number of either precision near where rounding is hard, or any bits."""
    if chosen.randrange(8) == 0:
        return chosen.getrandbits(64)
    single = chosen.random() < 0.5
    exponent_bits, fraction_bits = (8, 23) if single else (11, 52)
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
            chosen.getrandbits(12) << fraction_bits - 12,
        )
    )
    bits = chosen.getrandbits(1) << exponent_bits + fraction_bits | min(exponent, top) << fraction_bits | fraction
    return bits | 0xFFFF_FFFF << 32 if single else bits


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


def generate(seed: int, length: int = LENGTH) -> Program:
    """Return the program of ``seed``."""
    chosen = random.Random(seed)
    rounding = chosen.choice((0, 0, 0, 1, 2, 3, 4, 4, 5))
    program = Program(
        [integer(chosen) for _ in range(32)],
        [floating(chosen) for _ in range(32)],
        rounding << 5 | chosen.choice((0, 1, 31)),
    )
    rows = [row for row in TABLE.instructions if row.kind in (Kind.VALUE, Kind.LOAD, Kind.STORE, Kind.AMO)]
    rows += [row for row in TABLE.instructions if row.name in _STRAIGHT]
    floats = [row for row in TABLE.instructions if row.kind is Kind.FLOAT]
    branches = [row for row in TABLE.instructions if row.kind is Kind.BRANCH]
    words = program.words
    while len(words) < length:
        kind = chosen.randrange(20)
        if kind < 8:
            words.append(_long(chosen, chosen.choice(floats)))
        elif kind < 14:
            words.append(_long(chosen, chosen.choice(rows)))
        elif kind < 17:
            words.append(_short(chosen))
        elif kind == 17:  # over the next instruction, or not
            skipped = _long(chosen, chosen.choice(floats))
            if chosen.random() < 0.2:
                words += [jal(_free_register(chosen), 8), skipped]
            else:
                funct3 = chosen.choice(branches).match >> 12 & 7
                words += [b_type(funct3, chosen.randrange(32), chosen.randrange(32), 8), skipped]
        elif kind == 18:
            width = chosen.choice((2, 3)) << 12
            between = _long(chosen, next(row for row in rows if row.name == "addi"))
            base = chosen.choice((2, 8, 30)) << 15
            words.append(0x1000_002F | width | base | _free_register(chosen) << 7)
            words.append(between)
            words.append(0x1800_002F | width | base | chosen.randrange(32) << 20 | _free_register(chosen) << 7)
        else:
            number = chosen.choice(_FLOAT_CSRS)
            operation = chosen.choice((1, 2, 3, 5, 6, 7))
            words.append(i_type(0x73, operation, _free_register(chosen), chosen.randrange(32), number))
    return program


class _Image:
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


def _handler(image: _Image) -> None:
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


def build(programs: list[Program]) -> bytes:
    """Return the image of ``programs``, to be loaded at the start of RAM and entered there."""
    image = _Image()
    image.add(jal(0, 4 + 22 * 4))
    handler = image.here
    _handler(image)
    assert image.here == handler + 22 * 4
    image.add(*li(5, handler), csrrw(0, "mtvec", 5), *li(5, 1 << 13), csrrs(0, "mstatus", 5))
    for index, program in enumerate(programs):
        image.align()
        image.add(*li(31, CONTEXTS + 4096 * index), load("d", 1, 31, FCSR), csrrw(0, "fcsr", 1))
        image.add(*(i_type(0x07, 3, number, 31, FLOATS + 8 * number) for number in range(32)))
        image.add(*(load("d", number, 31, 8 * number) for number in range(1, 31)))
        image.add(*program.words)
        image.align()
        image.add(*(store("d", number, 31, OUT + 8 * number) for number in range(1, 31)))
        image.add(*(s_type(0x27, 3, 31, number, OUT + FLOATS + 8 * number) for number in range(32)))
        image.add(csrrs(1, "fcsr"), store("d", 1, 31, OUT + FCSR))
    image.align()
    # x5 … x8: context, byte, end of the bytes, end of the contexts
    image.add(*li(5, CONTEXTS), *li(8, CONTEXTS + 4096 * len(programs)), *li(9, UART))
    image.add(*li(12, OUT), *li(13, SCRATCH_END))
    image.add(
        r_type(0x33, 0, 0, 6, 5, 12),
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
    if len(image.code) > CONTEXTS - RAM:
        raise ValueError(f"{len(programs)} programs do not fit")
    contexts = b"".join(program.context(CONTEXTS + 4096 * i) for i, program in enumerate(programs))
    return bytes(image.code).ljust(CONTEXTS - RAM, b"\0") + contexts


def on_qemu(image: bytes, folder: Path) -> bytes:
    """Return what the image writes to the UART of QEMU."""
    source, output = folder / "image.bin", folder / "uart.bin"
    source.write_bytes(image)
    command = [
        QEMU, "-M", "virt", "-m", "64M", "-bios", "none", "-display", "none", "-monitor", "none", "-net", "none",
        "-serial", f"file:{output}", "-device", f"loader,file={source},addr={RAM:#x},force-raw=on",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=120, stdin=subprocess.DEVNULL)
    return output.read_bytes()


def on_hart(bench: Bench, image: bytes, count: int) -> bytes:
    """Return what the image would write to the UART."""
    bench.reset()
    bench.bytes(RAM, image)
    reason = bench.step(50_000_000)
    if reason != MMIO or bench["MMIO_ADDRESS"] != UART:
        raise RuntimeError(
            f"ended by {reason} at pc={bench['PC']:#x}, mcause={bench['MCAUSE']}, mepc={bench['MEPC']:#x}"
        )
    pages = (CONTEXTS - RAM + 4096 * index for index in range(count))
    return b"".join(bytes(bench.ram.u8[page + DUMPED.start : page + DUMPED.stop]) for page in pages)


def _names() -> Iterator[tuple[int, str]]:
    for number in range(32):
        yield 8 * number, f"x{number}"
    for number in range(32):
        yield FLOATS + 8 * number, f"f{number}"
    yield FCSR, "fcsr"
    yield CAUSES - OUT, "sum of causes"
    yield VALUES - OUT, "sum of trap values"
    for offset in range(SCRATCH, SCRATCH_END, 8):
        yield offset - OUT, f"memory {offset - BASE:+d}"


def explain(seed: int, program: Program, theirs: bytes, ours: bytes) -> str:
    """Return which registers differ, and the program."""
    lines = [f"seed {seed}:"]
    for offset, name in _names():
        there, here = (int.from_bytes(data[offset : offset + 8], "little") for data in (theirs, ours))
        if there != here:
            lines.append(f"  {name}: {there:#018x} on QEMU, {here:#018x} here")
    lines.append("  fcsr before: " + hex(program.fcsr))
    lines += [f"    {word:08x}  {disassemble(word)[1]}" for word in program.words]
    return "\n".join(lines)


def compare(bench: Bench, seeds: range, folder: Path, length: int = LENGTH) -> list[str]:
    """Run the programs of ``seeds`` on both; return an explanation of each difference."""
    programs = [generate(seed, length) for seed in seeds]
    image = build(programs)
    theirs, ours = on_qemu(image, folder), on_hart(bench, image, len(programs))
    size = len(DUMPED)
    if len(theirs) != size * len(programs):
        return [f"QEMU wrote {len(theirs)} bytes for {len(programs)} programs"]
    skipped = range(SAVED - OUT, SCRATCH - OUT)  # the handler's own
    different = []
    for index, (seed, program) in enumerate(zip(seeds, programs, strict=True)):
        there, here = (bytearray(data[size * index : size * (index + 1)]) for data in (theirs, ours))
        for data in (there, here):
            data[skipped.start : skipped.stop] = bytes(len(skipped))
        if there != here:
            different.append(explain(seed, program, bytes(there), bytes(here)))
    return different


def missing() -> str:
    """Return what keeps the comparison from running, or an empty string."""
    return "" if shutil.which(QEMU) else f"{QEMU} is missing: apt-get install qemu-system-misc"


def main(argv: list[str] | None = None) -> int:
    """Compare as many programs as asked for; return 1 after a difference."""
    parser = argparse.ArgumentParser(prog="differential", description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--length", type=int, default=LENGTH, help="instructions in a program")
    parser.add_argument("--show", type=int, default=3, help="differences to explain")
    arguments = parser.parse_args(argv)
    if missing():
        print(missing(), file=sys.stderr)
        return 2
    bench = Bench(MEMORY)
    shown = different = 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for first in range(arguments.seed, arguments.seed + arguments.programs, BATCH):
            seeds = range(first, min(first + BATCH, arguments.seed + arguments.programs))
            for text in compare(bench, seeds, Path(folder), arguments.length):
                different += 1
                if shown < arguments.show:
                    shown += 1
                    print(text, flush=True)
    print(f"{arguments.programs} programs, {different} different")
    return int(different != 0)


if __name__ == "__main__":
    sys.exit(main())
