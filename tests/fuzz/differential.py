"""Random programs on our hart and on QEMU or Spike: registers, flags and memory must come out alike.

    python -m tests.fuzz.differential --group zbb --instructions 10000000 --peer qemu

Instructions are counted that belong to the group and that no branch may skip. A difference is traced to the first round
of the program in which it shows, by running the program alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpu_proc.engine.disassembler import disassemble
from tests.fuzz import programs
from tests.fuzz.image import BASE, CAUSES, FCSR, FLOATS, OUT, SAVED, SCRATCH, SCRATCH_END, SIZE, VALUES, build
from tests.fuzz.programs import LENGTH, Program
from tests.fuzz.runners import ENGINES, MEMORY, PEERS, missing, on_hart, on_peer
from tests.unit.cpu_proc.harness import Bench

BATCH = 100  # programs in one image
ROUNDS = 500  # of each


@dataclass(frozen=True)
class Comparison:
    """Where to run: our engine, the peer, the group that decides about the peer's options."""

    bench: Bench
    folder: Path
    peer: str = "qemu"
    engine: str = "interpreter"
    group: str = ""

    def run(self, chosen: list[Program], rounds: int) -> tuple[list[bytes], list[bytes]]:
        """Return the contexts, theirs and ours."""
        image = build(chosen, rounds)
        theirs = on_peer(self.peer, image, len(chosen), self.group, self.folder)
        ours = on_hart(self.bench, image, len(chosen))
        if len(theirs) != SIZE * len(chosen):
            raise RuntimeError(f"{self.peer} gave {len(theirs)} bytes for {len(chosen)} programs")
        return _split(theirs), _split(ours)

    def differences(self, chosen: list[Program], rounds: int) -> Iterator[str]:
        """Run the programs; give an explanation of each difference."""
        for program, there, here in zip(chosen, *self.run(chosen, rounds), strict=True):
            if there != here:
                yield self._trace(program, rounds)

    def _trace(self, program: Program, rounds: int) -> str:
        """Find the first round after which the states differ."""
        alike, different = 0, rounds
        while different - alike > 1:
            middle = (alike + different) // 2
            (there,), (here,) = self.run([program], middle)
            if there == here:
                alike = middle
            else:
                different = middle
        (there,), (here,) = self.run([program], different)
        if there == here:
            return f"seed {program.seed}: differs only among other programs"
        return explain(program, self.peer, different, there, here)


def _split(contexts: bytes) -> list[bytes]:
    """Return one context each, without what the handler saved."""
    cut = []
    for at in range(0, len(contexts), SIZE):
        context = bytearray(contexts[at : at + SIZE])
        context[SAVED : SAVED + 16] = bytes(16)
        cut.append(bytes(context))
    return cut


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


def explain(program: Program, peer: str, number: int, theirs: bytes, ours: bytes) -> str:
    """Return which registers differ after a round, what they were before, and the program."""

    def at(data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset : offset + 8], "little")

    lines = [f"seed {program.seed}, round {number}:"]
    for offset, name in _names():
        there, here = at(theirs, OUT + offset), at(ours, OUT + offset)
        if there != here:
            lines.append(f"  {name}: {there:#018x} on {peer}, {here:#018x} here")
    lines.append("  before:")
    for offset, name in _names():
        if offset <= FCSR:
            lines.append(f"    {name} {at(ours, offset):#x}")
    lines += [f"    {word:08x}  {disassemble(word)[1]}" for word in program.words]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Compare as many instructions as asked for; return 1 after a difference."""
    parser = argparse.ArgumentParser(prog="differential", description=__doc__.splitlines()[0])
    parser.add_argument("--group", choices=["all", *programs.groups()], default="all")
    parser.add_argument("--instructions", type=int, default=10_000_000, help="of each group")
    parser.add_argument("--peer", choices=PEERS, default="qemu")
    parser.add_argument("--engine", choices=ENGINES, default="interpreter")
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--length", type=int, default=LENGTH, help="instructions in a program")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of a program")
    parser.add_argument("--show", type=int, default=3, help="differences to explain")
    arguments = parser.parse_args(argv)
    if missing(arguments.peer):
        print(missing(arguments.peer), file=sys.stderr)
        return 2
    bench = Bench(MEMORY, arguments.engine)
    different = 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for group in programs.groups() if arguments.group == "all" else [arguments.group]:
            comparison = Comparison(bench, Path(folder), arguments.peer, arguments.engine, group)
            different += _group(comparison, arguments)
    return int(different != 0)


def _group(comparison: Comparison, arguments: argparse.Namespace) -> int:
    """Compare one group; return how many programs differed."""
    started = time.monotonic()
    counted = total = different = 0
    seed = arguments.seed
    while counted < arguments.instructions:
        chosen = [programs.generate(seed + n, comparison.group, arguments.length) for n in range(BATCH)]
        seed += BATCH
        for text in comparison.differences(chosen, arguments.rounds):
            different += 1
            print(text, flush=True)
            if different >= arguments.show:
                break
        counted += sum(program.prominent for program in chosen) * arguments.rounds
        total += sum(len(program.words) for program in chosen) * arguments.rounds
        if different >= arguments.show:
            break
    spent = time.monotonic() - started
    print(
        f"{comparison.group}: {counted} instructions of the group among {total}, {different} programs different, "
        f"{counted / spent / 1e6:.2f} million a second",
        flush=True,
    )
    return different


if __name__ == "__main__":
    sys.exit(main())
