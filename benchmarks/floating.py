"""Speed of floating point: small loops in M mode without a machine around them, here and on QEMU."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, median
from benchmarks.machines import QEMU, qemu_available
from cpu_proc.engine import generate  # noqa: F401  # declares the rows
from cpu_proc.hart import INTERPRETER, TRANSLATOR
from cpu_proc.isa.table import TABLE
from tests.unit.cpu_proc.harness import MMIO, RAM, Bench, addi, b_type, csrrs, li, store

_ROUNDS = 3
_OURS, _THEIRS = 400_000, 8_000_000  # iterations
_FINISHER = 0x10_0000
_CONSTANTS = {1: 1.0, 2: 0.3, 3: 3.9, 4: 2.0, 5: 0.0, 6: 0.999}


@dataclass(frozen=True)
class Loop:
    """One loop; its instructions are ``name rd rs1 rs2 rs3``, all floating registers but for conversions."""

    name: str
    body: tuple[str, ...]

    def words(self, iterations: int) -> list[int]:
        """Return the program: constants, the loop, the end of the machine."""
        words = [*li(5, 1 << 13), csrrs(0, "mstatus", 5)]
        for register, constant in _CONSTANTS.items():
            words += [*li(6, struct.unpack("<q", struct.pack("<d", constant))[0]), _word(f"fmv.d.x {register} 6")]
        words += li(7, iterations)
        body = [_word(text) for text in self.body]
        words += [*body, addi(7, 7, -1), b_type(1, 7, 0, -4 * (len(body) + 1))]
        return [*words, *li(9, _FINISHER), *li(10, 0x5555), store("w", 10, 9)]

    def count(self, iterations: int) -> int:
        """Return how many instructions the loop itself is."""
        return (len(self.body) + 2) * iterations


LOOPS = (
    Loop("inexact sums and products", ("fsub.d 7 1 2", "fmul.d 2 2 7", "fmul.d 2 2 3", "fadd.d 5 5 2")),
    Loop("exact sums and products", ("fadd.d 5 5 1", "fmul.d 7 5 4", "fsub.d 8 7 5", "fadd.d 9 8 1")),
    Loop("fused, inexact", ("fmadd.d 2 2 6 1", "fmsub.d 7 2 3 1", "fmadd.d 8 7 3 2", "fnmadd.d 9 8 3 2")),
    Loop("fused, exact", ("fmadd.d 5 1 1 5", "fmsub.d 7 5 4 1", "fmadd.d 8 7 4 1", "fnmadd.d 9 8 1 1")),
    Loop("quotients and roots", ("fadd.d 5 5 1", "fdiv.d 7 5 3", "fsqrt.d 8 7 0", "fadd.d 9 8 7")),
    Loop("single precision", ("fcvt.s.d 7 2 7", "fmul.s 8 7 7", "fadd.s 8 8 7", "fcvt.d.s 9 8 0")),
    Loop("conversions and comparisons", ("fcvt.d.l 7 7 7", "flt.d 8 7 3", "fcvt.l.d 8 7 1", "fle.d 8 3 7")),
)


def _word(text: str) -> int:
    """Return the word of an instruction; a third number of one with two operands is its rounding mode."""
    name, *numbers = text.split()
    row = next(row for row in TABLE.instructions if row.name == name)
    fields = [int(number) << shift for number, shift in zip(numbers, (7, 15, 20, 27), strict=False)]
    if row.mask >> 20 & 31 and len(fields) == 3:
        fields[2] = int(numbers[2]) << 12
    elif row.mask & 0x7000 == 0:
        fields.append(7 << 12)  # the dynamic mode
    return row.match | sum(fields)


def measure() -> list[Figure]:
    """Return millions of instructions a second for each loop, interpreted and translated."""
    figures = []
    for loop in LOOPS:
        theirs = 0.0
        if qemu_available():
            empty = median(_there(loop, 1) for _ in range(_ROUNDS))
            theirs = loop.count(_THEIRS) / 1e6 / (median(_there(loop, _THEIRS) for _ in range(_ROUNDS)) - empty)
        for engine in (INTERPRETER, TRANSLATOR):
            bench = Bench(engine_name=engine)
            ours = median(_here(bench, loop) for _ in range(_ROUNDS))
            bench.close()
            peer = f"QEMU TCG {theirs:.0f} MIPS, {theirs / ours:.2f} times ours" if theirs else "QEMU is not installed"
            figures.append(Figure(f"{loop.name}, {engine}", ours, "MIPS", peer=peer))
    return figures


def _here(bench: Bench, loop: Loop) -> float:
    bench.reset()
    bench.words(RAM, *loop.words(_OURS))
    started = time.perf_counter()
    reason = bench.step(1 << 40)
    seconds = time.perf_counter() - started
    assert reason == MMIO
    return loop.count(_OURS) / 1e6 / seconds


def _there(loop: Loop, iterations: int) -> float:
    """Return the seconds QEMU takes, its start included."""
    with tempfile.TemporaryDirectory(prefix="bvf") as folder:
        image = Path(folder, "image.bin")
        image.write_bytes(struct.pack(f"<{len(loop.words(1))}I", *loop.words(iterations)))
        command = [
            QEMU, "-M", "virt", "-m", "64M", "-bios", "none", "-display", "none", "-monitor", "none", "-net", "none",
            "-serial", "none", "-device", f"loader,file={image},addr={RAM:#x},force-raw=on",
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run(command, check=True, timeout=120, stdin=subprocess.DEVNULL)
        return time.perf_counter() - started
