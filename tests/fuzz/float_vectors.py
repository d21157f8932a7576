"""Floating-point instructions over vectors of operands, after Berkeley TestFloat: here, exactly, and on QEMU.

Operands are all combinations of the exponents and fractions where rounding changes, and random ones; each comes with
a rounding mode and with flags set before. A guest program loads them, executes one instruction and stores result and
flags; the same image runs on our hart and on QEMU.

    python -m tests.fuzz.float_vectors --count 1000000 --peer qemu
    python -m tests.fuzz.float_vectors --count 20000 --peer exact --only fmadd.h
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cpu_proc.engine import numbering  # noqa: F401  # declares the rows
from cpu_proc.hart import INTERPRETER, TRANSLATOR
from cpu_proc.isa.table import FR, FR2, FR2_EXACT, FR4, TABLE, Instruction, Kind
from tests.fuzz.float_reference import EXPONENT_BITS, FRACTION_BITS, reference, width
from tests.peers import newer_qemu
from tests.unit.cpu_proc.harness import MMIO, RAM, Bench, addi, b_type, csrrs, csrrw, i_type, li, load, s_type, store

Array = np.ndarray
QEMU = "qemu-system-riscv64"
ENGINES = (INTERPRETER, TRANSLATOR)
MEMORY = 64 << 20
AT = RAM + (1 << 16)  # where the vectors lie: three operands and fcsr each; the results come after all of them
BATCH = 1 << 20
_FINISHER = 0x10_0000
_CODE_WORDS = (AT - RAM) // 4


def rows() -> list[Instruction]:
    """Return the floating-point instructions."""
    return [row for row in TABLE.instructions if row.kind is Kind.FLOAT]


def hart(engine: str) -> Bench:
    """Return a hart on which ``engine`` executes."""
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}; there is {', '.join(ENGINES)}")
    return Bench(MEMORY, engine)


# Operands


def numbers(m: int) -> list[int]:
    """Return the patterns of a format where things change: all signs, exponents and fractions of interest."""
    top = (1 << EXPONENT_BITS[m]) - 1
    bias = top >> 1
    near = (-m - 2, -m - 1, -m, -2, -1, 0, 1, 2, m - 1, m, m + 1, m + 2, 15, 16, 31, 32, 63, 64)
    exponents = sorted({0, 1, 2, top - 2, top - 1, top} | {bias + n for n in near if 0 < bias + n < top})
    half = 1 << m - 1
    fractions = (0, 1, half - 1, half, half + 1, 2 * half - 2, 2 * half - 1)
    return [
        sign << width(m) - 1 | exponent << m | fraction
        for sign in (0, 1)
        for exponent in exponents
        for fraction in fractions
    ]


def integers() -> list[int]:
    """Return integers around every power of two, of both signs."""
    near = {(1 << bit) + n for bit in range(65) for n in (-1, 0, 1)} | {3 << bit for bit in range(63)}
    return sorted({n & (1 << 64) - 1 for n in near} | {-n & (1 << 64) - 1 for n in near})


def _random_numbers(m: int, count: int, chosen: np.random.Generator) -> Array:
    """Return numbers with a random exponent, most of them near one, and a fraction of runs or of random bits."""
    top = (1 << EXPONENT_BITS[m]) - 1
    anywhere = chosen.integers(0, top + 1, count)
    near = np.clip((top >> 1) + chosen.integers(-m - 3, m + 4, count), 0, top)
    exponent = np.where(chosen.random(count) < 0.5, near, anywhere).astype(np.uint64)
    fraction = chosen.integers(0, 1 << m, count, dtype=np.uint64)
    cut = chosen.integers(0, m, count, dtype=np.uint64)
    fraction = np.where(chosen.random(count) < 0.5, fraction >> cut << cut, fraction)
    fraction = np.where(chosen.random(count) < 0.2, fraction | (np.uint64(1) << cut) - np.uint64(1), fraction)
    sign = chosen.integers(0, 2, count, dtype=np.uint64)
    return sign << np.uint64(width(m) - 1) | exponent << np.uint64(m) | fraction


def _boxed(m: int, patterns: Array, chosen: np.random.Generator) -> Array:
    """Put numbers into registers; one of 64 is not boxed as it should be."""
    if m == 52:
        return patterns
    upper = np.uint64((1 << 64) - (1 << width(m)))
    wrong = chosen.integers(0, 1 << 64, len(patterns), dtype=np.uint64) & upper
    return patterns | np.where(chosen.random(len(patterns)) < 1 / 64, wrong, upper)


def vectors(row: Instruction, count: int, seed: int = 1) -> Array:
    """Return ``count`` lines of three registers and fcsr: structured combinations first, random ones in the rest.

    Where there are more combinations than half of ``count``, a random choice of them.
    """
    chosen = np.random.default_rng([seed, *row.name.encode()])
    m = FRACTION_BITS[row.precision]
    places = 3 if row.format is FR4 else row.files[1:].count("f") or 1
    from_integer = row.files[1] == "x"
    pool = np.array(integers() if from_integer else numbers(m), np.uint64)
    if not from_integer and m == 10 and places == 1:
        pool = np.arange(1 << 16, dtype=np.uint64)
    modes = 5 if row.format in (FR, FR2, FR4) else 1
    total = len(pool) ** places * modes
    structured = min(count // 2, total)
    picks = np.arange(total) if structured == total else chosen.integers(0, total, structured)
    lines = np.empty((count, 4), np.uint64)
    rest = count - structured
    mode = np.concatenate([picks % modes, chosen.integers(0, modes, rest)]).astype(np.uint64)
    picks = picks // modes
    for place in range(3):
        some = pool[picks % len(pool)]
        picks = picks // len(pool) if place < places - 1 else picks
        more = (
            chosen.integers(0, 1 << 64, rest, dtype=np.uint64) >> chosen.integers(0, 64, rest, dtype=np.uint64)
            if from_integer
            else _random_numbers(m, rest, chosen)
        )
        both = np.concatenate([some, more])
        lines[:, place] = both if from_integer else _boxed(m, both, chosen)
    before = np.array([0, 1, 0, 31, 1, 0], np.uint64)
    lines[:, 3] = mode << np.uint64(5) | before[np.arange(count) % len(before)]
    return lines


# The guest program


def word(row: Instruction, rd: int = 4, rs1: int = 1, rs2: int = 2, rs3: int = 3) -> int:
    """Return the instruction with these registers where it has them, and with the dynamic rounding mode."""
    fields = rd << 7 | rs1 << 15 | rs2 << 20 | rs3 << 27
    if row.format in (FR, FR2, FR2_EXACT, FR4):
        fields = fields & ~(7 << 12) | 7 << 12
    return row.match | fields & ~row.mask & 0xFFFF_FFFF


def program(row: Instruction, count: int, field1: int = 1) -> list[int]:
    """Return the loop over ``count`` lines: x10 at the line, x11 at its result, x12 at the end of the lines."""
    operand = load("d", 1, 10) if row.files[1] == "x" else i_type(0x07, 3, 1, 10, 0)
    result = store("d", 4, 11) if row.files[0] == "x" else s_type(0x27, 3, 11, 4, 0)
    loop = [
        operand,
        i_type(0x07, 3, 2, 10, 8),
        i_type(0x07, 3, 3, 10, 16),
        load("d", 5, 10, 24),
        csrrw(0, "fcsr", 5),
        word(row, rs1=field1),
        csrrs(5, "fcsr"),
        result,
        store("d", 5, 11, 8),
        addi(10, 10, 32),
        addi(11, 11, 16),
    ]
    end = AT + 32 * count
    return [
        *li(5, 1 << 13), csrrs(0, "mstatus", 5), *li(10, AT), *li(11, end), *li(12, end),
        *loop, b_type(1, 10, 12, -4 * len(loop)),
        *li(9, _FINISHER), *li(10, 0x5555), store("w", 10, 9),
    ]  # fmt: skip


def on_hart(bench: Bench, row: Instruction, lines: Array, field1: int = 1) -> Array:
    """Return (result, fcsr) of each line."""
    bench.hart.reset()
    bench.hart["PC"] = RAM
    count = len(lines)
    at = AT - RAM
    bench.ram.u8[at : at + 32 * count] = np.ascontiguousarray(lines).tobytes()
    bench.words(RAM, *program(row, count, field1))
    bench.hart["GENERATION"] += 1
    bench.hart.flush_translations()
    reason = bench.step(1 << 40)
    if reason != MMIO or bench["MMIO_ADDRESS"] != _FINISHER:
        raise RuntimeError(f"{row.name} ended by {reason} at {bench['PC']:#x}, mcause={bench['MCAUSE']}")
    at += 32 * count
    return np.frombuffer(bytes(bench.ram.u8[at : at + 16 * count]), np.uint64).reshape(-1, 2)


def on_qemu(command: list[str], row: Instruction, lines: Array, folder: Path) -> Array:
    """Return the same from QEMU, whose memory is a file."""
    count = len(lines)
    words = np.array(program(row, count), np.uint32)
    path = folder / "memory"
    with path.open("wb") as file:
        file.write(words.tobytes().ljust(AT - RAM, b"\0"))
        file.write(np.ascontiguousarray(lines).tobytes())
        file.truncate(MEMORY)
    options = [
        "-M", "virt,memory-backend=ram", "-m", str(MEMORY >> 20), "-bios", "none", "-display", "none",
        "-monitor", "none", "-net", "none", "-serial", "none",
        "-object", f"memory-backend-file,id=ram,share=on,mem-path={path},size={MEMORY >> 20}M",
    ]  # fmt: skip
    subprocess.run([*command, *options], check=True, timeout=300, stdin=subprocess.DEVNULL)
    with path.open("rb") as file:
        file.seek(AT - RAM + 32 * count)
        return np.frombuffer(file.read(16 * count), np.uint64).reshape(-1, 2)


def exactly(row: Instruction, lines: Array, field1: int = 1) -> Array:
    """Return the same by rational arithmetic."""
    wanted = np.empty((len(lines), 2), np.uint64)
    for index, (a, b, c, fcsr) in enumerate(lines.tolist()):
        got, flags = reference(row.name, (a, b, c), fcsr >> 5, field1)
        wanted[index] = got, fcsr | flags
    return wanted


def differences(row: Instruction, lines: Array, wanted: Array, got: Array) -> Iterator[str]:
    """Return a line of text for each line that came out differently."""
    for index in np.flatnonzero((wanted != got).any(axis=1)).tolist():
        a, b, c, fcsr = (f"{int(n):#x}" for n in lines[index])
        there, here = (f"{int(pair[0]):#x} fcsr {int(pair[1]):#x}" for pair in (wanted[index], got[index]))
        yield f"{row.name} {a} {b} {c} fcsr {fcsr}: {there} wanted, {here} here"


def qemu(row: Instruction) -> list[str]:
    """Return the command of a QEMU that has this instruction: for Zfa, a newer one than the system's."""
    if row.extension == "zfa":
        return [*newer_qemu.command(), "-cpu", "rv64,zfh=on,zfa=on"]
    if not shutil.which(QEMU):
        return []
    return [QEMU, "-cpu", "rv64,Zfh=on"] if row.extension == "zfh" else [QEMU]


def main(argv: list[str] | None = None) -> int:
    """Compare all instructions; return 1 after a difference."""
    parser = argparse.ArgumentParser(prog="float_vectors", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=BATCH, help="vectors for each instruction")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--peer", choices=("qemu", "exact"), default="qemu")
    parser.add_argument("--only", nargs="*", help="instructions")
    parser.add_argument("--show", type=int, default=3, help="differences to show for each instruction")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    arguments = parser.parse_args(argv)
    bench = hart(arguments.engine)
    print(f"seed {arguments.seed}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for row in rows():
            if arguments.only and row.name not in arguments.only:
                continue
            command = qemu(row)
            if arguments.peer == "qemu" and not command:
                print(f"{row.name:<12} no QEMU here has it")
                continue
            started, different = time.monotonic(), 0
            lines = vectors(row, arguments.count, arguments.seed)
            for at in range(0, len(lines), BATCH):
                some = lines[at : at + BATCH]
                got = on_hart(bench, row, some)
                peer = arguments.peer == "qemu"
                wanted = on_qemu(command, row, some, Path(folder)) if peer else exactly(row, some)
                for text in differences(row, some, wanted, got):
                    if different < arguments.show:
                        print(text, flush=True)
                    different += 1
            failed += different
            seconds = time.monotonic() - started
            print(f"{row.name:<12} {len(lines):>9} vectors, {different} different, {seconds:.1f} s", flush=True)
    bench.close()
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
