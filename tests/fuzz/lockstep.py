"""A guest on the interpreter and on the translator in lock-step: registers after each quantum, memory now and then.

    python -m tests.fuzz.lockstep boot --kernel vmlinuz --initrd initrd.img --until "busvm initramfs: up"
    python -m tests.fuzz.lockstep programs --instructions 1G
    python -m tests.fuzz.lockstep mazes --instructions 1G

A quantum is from 1 to ``--most`` instructions, small ones as often as large ones: after small ones little is hidden by
what follows, large ones let blocks run on from one to the next. A difference is chased down to the instruction after
which it is first there: from the last state in which all was alike if it shows itself again from there, otherwise
from the start. A block may have executed a few instructions more by then than the one that is wrong, so those before
are printed too, with what they changed.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import guest as embedded
from cpu_proc import saving
from cpu_proc.boot.config import BootConfig, Load
from cpu_proc.engine import state as st
from cpu_proc.engine.disassembler import disassemble
from cpu_proc.hart import Hart
from protocol.sizes import parse_size
from tests.fuzz import image, mazes, programs
from tests.fuzz.runners import MEMORY
from tests.fuzz.twins import Guest, Side, Twins
from tests.unit.cpu_proc.harness import RAM

MOST = 20_000  # instructions in a quantum
EVERY = 50_000_000  # instructions between two comparisons of memory
SHOWN_BEFORE = 64  # instructions: more than a block has
PROGRAMS, ROUNDS = 40, 100
MAZE = 1_000_000  # instructions in each
_MASK = (1 << 64) - 1
_SAY_EVERY_S = 10


def quanta(seed: int, most: int) -> Iterator[int]:
    """Return numbers of instructions without end, of all magnitudes alike."""
    chosen = random.Random(seed)
    while True:
        yield max(1, int(most ** chosen.random()))


class Lockstep:
    """One guest in lock-step, ``run`` once."""

    def __init__(
        self,
        guest: Guest,
        folder: Path,
        *,
        seed: int = 1,
        most: int = MOST,
        every: int = EVERY,
        twins: type[Twins] = Twins,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Prepare; states are kept in ``folder``."""
        self.steps = 0
        self.console = ""
        self.ended = ""
        self._guest = guest
        self._folder = folder
        self._seed, self._most = seed, most
        self._every = every
        self._twins = twins
        self._say = say
        self._mark: tuple[Path | None, int] = (None, 0)  # where all was alike: a state, and the steps up to there
        self._since: list[int] = []  # quanta

    def run(self, limit: int, until: str = "") -> str:
        """Go on to ``limit`` instructions, the text ``until`` on the console, or the guest's end.

        Returns what differs, or an empty string.
        """
        twins = self._twins(self._guest)
        try:
            seen = self._go(twins, limit, until.encode())
            self.ended = twins.ended
            self.console = twins.one.console.decode(errors="replace")
        finally:
            twins.close()
        return self._chase(seen) if seen else ""

    def _go(self, twins: Twins, limit: int, until: bytes) -> list[tuple[str, int, int]]:
        """Go on to the end or the first difference, and return what differs."""
        next_said = time.monotonic() + _SAY_EVERY_S
        for quantum in quanta(self._seed, self._most):
            twins.advance(quantum)
            self._since.append(quantum)
            self.steps += quantum
            over = twins.ended or self.steps >= limit or (until and until in twins.one.console)
            due = self.steps - self._mark[1] >= self._every
            if not twins.alike() or ((over or due) and not twins.same()):
                return twins.differences()
            if over:
                break
            if due:
                self._set_mark(twins.one)
            if time.monotonic() > next_said:
                next_said += _SAY_EVERY_S
                self._say(f"{self.steps / 1e6:.0f} million instructions alike")
        return []

    def _set_mark(self, side: Side) -> None:
        folder = self._folder / "alike"
        saving.save(side.machine, folder)
        self._mark = folder, self.steps
        self._since.clear()

    # what differs, and where

    def _chase(self, seen: Sequence[tuple[str, int, int]]) -> str:
        steps = self.steps
        self._say(f"different after {steps} instructions; looking for the first")
        origins: list[tuple[tuple[Path | None, int], list[int]]] = [(self._mark, self._since)]
        if self._mark[0]:
            origins.append(((None, 0), _up_to(quanta(self._seed, self._most), steps)))
        for mark, chosen in origins:
            found = _Chase(self._guest, self._twins, mark, chosen).explain()
            if found:
                return found
            self._say(f"not seen again from instruction {mark[1]} on")
        return "\n".join([f"different once, after {steps} instructions, and not again:", *_table(seen)])


def _up_to(numbers: Iterator[int], total: int) -> list[int]:
    """Return the first of the numbers, as many as make up ``total``."""
    found = []
    while total > 0:
        found.append(next(numbers))
        total -= found[-1]
    return found


class _Chase:
    """Looks for the instruction after which the twins first differ, by running them again and again from a mark."""

    def __init__(self, guest: Guest, twins: type[Twins], mark: tuple[Path | None, int], chosen: Sequence[int]) -> None:
        self._guest = guest
        self._kind = twins
        self._mark = mark
        self._chosen = chosen

    def explain(self) -> str:
        """Return what differs first, or an empty string if nothing does."""
        if not self._differs(len(self._chosen), 0):
            return ""
        whole = _least(len(self._chosen), lambda count: self._differs(count, 0)) - 1
        part = _least(self._chosen[whole], lambda count: self._differs(whole, count))
        twins = self._at(whole, part)
        differences = twins.differences()
        twins.close()
        lines = [
            f"first difference after instruction {self._mark[1] + sum(self._chosen[:whole]) + part}, which is number "
            f"{part} of a quantum of {self._chosen[whole]}:",
            *_table(differences),
            "the last instructions, on the interpreter:",
            *self._trace(whole, part, {name for name, _, _ in differences}),
        ]
        return "\n".join(lines)

    def _at(self, whole: int, part: int) -> Twins:
        """Return twins that have executed some quanta and a part of the next one."""
        twins = self._kind(self._guest, *self._mark)
        for quantum in self._chosen[:whole]:
            twins.advance(quantum)
        if part:
            twins.advance(part)
        return twins

    def _differs(self, whole: int, part: int) -> bool:
        twins = self._at(whole, part)
        different = not twins.same()
        twins.close()
        return different

    def _trace(self, whole: int, part: int, names: set[str]) -> Iterator[str]:
        """Give the instructions up to there; those that change what differs are marked."""
        twins = self._at(whole, max(0, part - SHOWN_BEFORE))
        side = twins.one
        side.hart["STEPPING"] = st.HOLD_INTERRUPTS  # the quantum had none but between its slices
        for _ in range(min(part, SHOWN_BEFORE)):
            before, line = side.registers(), _line(side.hart)
            side.advance(1)
            after = side.registers()
            changes = [f"{name} = {after[name]:#x}" for name in after if name in names and after[name] != before[name]]
            yield "  " + (f"{line:60} {', '.join(changes)}" if changes else line)
        twins.close()


def _least(top: int, holds: Callable[[int], bool]) -> int:
    """Return the least number of 1 … ``top`` for which something holds that holds for ``top``."""
    below = 0
    while top - below > 1:
        middle = (below + top) // 2
        if holds(middle):
            top = middle
        else:
            below = middle
    return top


def _line(hart: Hart) -> str:
    pc = hart["PC"] & _MASK
    word = hart.fetch(pc)
    if word is None:
        return f"{pc:#x}  (no memory)"
    size, text = disassemble(word, pc)
    return f"{pc:#x}  {word & (1 << 8 * size) - 1:08x}  {text}"


def _table(differences: Sequence[tuple[str, int, int]]) -> list[str]:
    return [f"  {name}: {one:#x} on the interpreter, {other:#x} on the translator" for name, one, other in differences]


def program_guest(seed: int, group: str, folder: Path, count: int = PROGRAMS, rounds: int = ROUNDS) -> Guest:
    """Return random programs in straight lines as a guest."""
    chosen = [programs.generate(seed + number, group) for number in range(count)]
    return Guest(_bare(image.build(chosen, rounds), folder), MEMORY, bare=True)


def maze_guest(seed: int, paged: bool, folder: Path) -> Guest:
    """Return a random program that jumps about for ever."""
    return Guest(_bare(mazes.build(seed, paged), folder), mazes.MEMORY)


def _bare(data: bytes, folder: Path) -> BootConfig:
    path = folder / "image"
    path.write_bytes(data)
    return BootConfig(None, loads=(Load("image", RAM, path, force_raw=True),))


# the command


def _number(text: str) -> int:
    """Return a number of instructions: 2G are 2 · 10⁹."""
    factor = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1], 0)
    return int(float(text[:-1]) * factor) if factor else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lockstep", description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    boot = what.add_parser("boot", help="a kernel, or without one the embedded guest")
    boot.add_argument("--kernel", type=Path)
    boot.add_argument("--initrd", type=Path)
    boot.add_argument("--firmware", type=Path)
    boot.add_argument("--cmdline", default="")
    boot.add_argument("--memory", default="256M")
    boot.add_argument("--interrupts", choices=("aia", "plic"), default="aia")
    boot.add_argument("--until", default="", metavar="TEXT", help="end when this is on the console")
    boot.add_argument("--echo", action="store_true", help="print the console at the end")
    straight = what.add_parser("programs", help="random programs in straight lines, by extension")
    straight.add_argument("--group", choices=["all", *programs.groups()], default="all")
    jumping = what.add_parser("mazes", help="random programs that jump about, with and without paging")
    for each in (boot, straight, jumping):
        each.add_argument("--instructions", type=_number, default=10**9, help="such as 500M or 2G")
        each.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
        each.add_argument("--most", type=int, default=MOST, help="instructions in a quantum")
        each.add_argument("--every", type=_number, default=EVERY, help="instructions between comparisons of memory")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; return 1 after a difference."""
    arguments = _parser().parse_args(argv)
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lockstep") as name:
        run = {"boot": _boot, "programs": _programs, "mazes": _mazes}[arguments.what]
        steps, found = run(arguments, Path(name))
    spent = time.monotonic() - started
    print(found or f"{steps} instructions alike, {steps / spent / 1e6:.1f} million a second", flush=True)
    return int(bool(found))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _lockstep(guest: Guest, arguments: argparse.Namespace, folder: Path) -> Lockstep:
    return Lockstep(guest, folder, seed=arguments.seed, most=arguments.most, every=arguments.every, say=_say)


def _boot(arguments: argparse.Namespace, folder: Path) -> tuple[int, str]:
    kernel = arguments.kernel or (None if arguments.firmware else embedded.elf_path())
    boot = BootConfig(kernel, arguments.initrd, arguments.cmdline, arguments.firmware)
    guest = Guest(boot, parse_size(arguments.memory), arguments.interrupts)
    lockstep = _lockstep(guest, arguments, folder)
    found = lockstep.run(arguments.instructions, arguments.until)
    if arguments.echo:
        print(lockstep.console)
    print(f"ended: {lockstep.ended or 'no'}")
    return lockstep.steps, found


def _programs(arguments: argparse.Namespace, folder: Path) -> tuple[int, str]:
    groups = ["", *programs.groups()] if arguments.group == "all" else [arguments.group]
    guests = (
        (f"programs of {group or 'all groups'}, first seed {seed}", program_guest(seed, group, folder), 1 << 62)
        for seed, group in zip(itertools.count(arguments.seed, PROGRAMS), itertools.cycle(groups), strict=False)
    )
    return _many(guests, arguments, folder)


def _mazes(arguments: argparse.Namespace, folder: Path) -> tuple[int, str]:
    guests = (
        (f"maze of seed {seed}, {'paged' if paged else 'not paged'}", maze_guest(seed, paged, folder), MAZE)
        for seed in itertools.count(arguments.seed)
        for paged in (False, True)
    )
    return _many(guests, arguments, folder)


def _many(guests: Iterator[tuple[str, Guest, int]], arguments: argparse.Namespace, folder: Path) -> tuple[int, str]:
    """Run guest after guest; each comes with its name and how many instructions it may take."""
    steps, next_said = 0, time.monotonic() + _SAY_EVERY_S
    for name, guest, limit in guests:
        lockstep = _lockstep(guest, arguments, folder)
        found = lockstep.run(limit)
        steps += lockstep.steps
        if found or steps >= arguments.instructions:
            return steps, f"{name}: {found}" if found else ""
        if time.monotonic() > next_said:
            next_said += _SAY_EVERY_S
            _say(f"{steps / 1e6:.0f} million instructions alike, the last of {name}")
    raise AssertionError("guests have no end")


if __name__ == "__main__":
    sys.exit(main())
