"""Our hart against the vectors of Berkeley TestFloat, which is built elsewhere: its program ``testfloat_gen``.

SoftFloat and TestFloat 3 must be built with ``SPECIALIZE_TYPE=RISCV``, for our NaNs and saturating conversions.

    python -m tests.fuzz.testfloat --generator …/testfloat_gen
    testfloat_gen -rmin f64_mul | python -m tests.fuzz.testfloat --stdin fmul.d --rounding rdn
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import numpy as np

from cpu_proc.isa.table import FR, FR2, FR4, Instruction
from tests.fuzz.float_vectors import BATCH, ENGINES, Array, differences, hart, on_hart, rows
from tests.unit.cpu_proc.harness import Bench

ROUNDING = {"rne": "-rnear_even", "rtz": "-rminMag", "rdn": "-rmin", "rup": "-rmax", "rmm": "-rnear_maxMag"}
_TYPES = {"h": "f16", "s": "f32", "d": "f64", "w": "i32", "wu": "ui32", "l": "i64", "lu": "ui64"}
_BITS = {"f16": 16, "f32": 32, "f64": 64, "i32": 32, "ui32": 32, "i64": 64, "ui64": 64, "bool": 0}
_COMPARISONS = {"feq": "eq", "flt": "lt", "fle": "le", "fltq": "lt_quiet", "fleq": "le_quiet"}
_ARITHMETIC = {"fadd": "add", "fsub": "sub", "fmul": "mul", "fdiv": "div", "fsqrt": "sqrt"}
_FUSED = {"fmadd": (0, 0), "fmsub": (0, 1), "fnmsub": (1, 0), "fnmadd": (1, 1)}  # which of a and c change sign


def function(row: Instruction) -> tuple[str, list[str], str] | None:
    """Return TestFloat's name for an instruction, its option and the type of the result; ``None`` if it has none."""
    base, *types = row.name.split(".")
    if any(kind not in _TYPES for kind in types) or base == "fcvtmod":
        return None
    kinds = [_TYPES[kind] for kind in types]
    if base == "fcvt":
        return f"{kinds[1]}_to_{kinds[0]}", ["-exact"], kinds[0]
    if base in ("fround", "froundnx"):
        return f"{kinds[0]}_roundToInt", ["-exact" if base == "froundnx" else "-notexact"], kinds[0]
    if base in _COMPARISONS:
        return f"{kinds[0]}_{_COMPARISONS[base]}", [], "bool"
    if base in _FUSED:
        return f"{kinds[0]}_mulAdd", [], kinds[0]
    return (f"{kinds[0]}_{_ARITHMETIC[base]}", [], kinds[0]) if base in _ARITHMETIC else None


def _digits(text: Array) -> Array:
    """Return the numbers in columns of hexadecimal digits."""
    digits = np.where(text > ord("9"), (text | 0x20) - ord("a") + 10, text - ord("0")).astype(np.uint64)
    total = np.zeros(len(text), np.uint64)
    for column in range(text.shape[1]):
        total = total << np.uint64(4) | digits[:, column]
    return total


def _extended(kind: str, numbers: Array) -> Array:
    """Return what a register holds of a number: boxed, or sign-extended from 32 bits."""
    bits = _BITS[kind]
    if bits in (0, 64):
        return numbers
    upper = np.uint64((1 << 64) - (1 << bits))
    return numbers | (upper if kind[0] == "f" else np.where(numbers >> np.uint64(31) == 1, upper, np.uint64(0)))


def batches(stream: IO[bytes], row: Instruction, rm: int) -> Iterator[tuple[Array, Array]]:
    """Return (vectors, wanted results) out of lines ``operands result flags``."""
    found = function(row)
    assert found is not None
    name, _, result = found
    operand = name.split("_")[0]
    first = stream.readline()
    if not first:
        return
    widths = [len(part) for part in first.split()]
    size = len(first)
    data = first + stream.read(size * (BATCH - 1))
    while data:
        text = np.frombuffer(data, np.uint8).reshape(-1, size)
        starts = np.cumsum([0, *(part + 1 for part in widths)])
        columns = [_digits(text[:, at : at + part]) for at, part in zip(starts, widths, strict=False)]
        lines = np.zeros((len(text), 4), np.uint64)
        for place, numbers in enumerate(columns[:-2]):
            changes = row.name.split(".")[0] in _FUSED and place != 1 and _FUSED[row.name.split(".")[0]][place // 2]
            sign = np.uint64(1 << _BITS[operand] - 1) if changes else np.uint64(0)
            lines[:, place] = _extended(operand, numbers ^ sign)
        lines[:, 3] = rm << 5
        wanted = np.stack([_extended(result, columns[-2]), columns[-1] | np.uint64(rm << 5)], axis=1)
        yield lines, wanted
        data = stream.read(size * BATCH)


def compare(bench: Bench, stream: IO[bytes], row: Instruction, rm: int, show: int) -> tuple[int, int]:
    """Return how many vectors there were, and how many came out differently; print some of those."""
    count = different = 0
    for lines, wanted in batches(stream, row, rm):
        count += len(lines)
        for text in differences(row, lines, wanted, on_hart(bench, row, lines)):
            if different < show:
                print(text, flush=True)
            different += 1
    return count, different


def main(argv: list[str] | None = None) -> int:
    """Run what TestFloat generates; return 1 after a difference."""
    parser = argparse.ArgumentParser(prog="testfloat", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--generator", help="path of testfloat_gen")
    source.add_argument("--stdin", metavar="INSTRUCTION", help="read the vectors of one instruction from stdin")
    parser.add_argument("--rounding", choices=ROUNDING, nargs="*", default=list(ROUNDING))
    parser.add_argument("--only", nargs="*", help="instructions")
    parser.add_argument("--level", default="1", choices=("1", "2"))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--show", type=int, default=3, help="differences to show for each instruction")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    arguments = parser.parse_args(argv)
    bench = hart(arguments.engine)
    modes = list(ROUNDING)
    failed = total = 0
    if arguments.stdin:
        row = next(row for row in rows() if row.name == arguments.stdin)
        rm = modes.index(arguments.rounding[0])
        total, failed = compare(bench, sys.stdin.buffer, row, rm, arguments.show)
    else:
        for row in rows():
            found = function(row)
            if found is None or (arguments.only and row.name not in arguments.only):
                continue
            started = time.monotonic()
            counts = []
            for mode in arguments.rounding if row.format in (FR, FR2, FR4) else ["rne"]:
                options = ["-level", arguments.level, "-seed", arguments.seed, "-tininessafter", ROUNDING[mode]]
                command = [arguments.generator, *options, *found[1], found[0]]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as generator:
                    assert generator.stdout is not None
                    count, different = compare(bench, generator.stdout, row, modes.index(mode), arguments.show)
                counts.append(f"{mode} {count - different}/{count}")
                failed += different
                total += count
            print(f"{row.name:<12} {', '.join(counts)}, {time.monotonic() - started:.1f} s", flush=True)
    print(f"{total} vectors, {failed} different")
    bench.close()
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
