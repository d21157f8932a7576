"""Lock-step: short guests are alike on both engines, and what is made different is found where it was made."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import guest as embedded
from cpu_proc.boot.config import BootConfig
from cpu_proc.hart import TRANSLATOR
from tests.fuzz import lockstep, programs
from tests.fuzz.lockstep import Lockstep, maze_guest, program_guest, quanta
from tests.fuzz.twins import Guest, Side, Twins
from tests.unit.cpu_proc import clockwork

SPOILT_AT = 123_456


@pytest.mark.parametrize("group", ["", *programs.groups()])
def test_random_programs_are_alike(group: str, tmp_path: Path) -> None:
    guest = program_guest(7000, group, tmp_path, count=6, rounds=12)
    assert Lockstep(guest, tmp_path, seed=1, most=2000).run(1 << 40) == ""


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_mazes_are_alike(seed: int, paged: bool, tmp_path: Path) -> None:
    run = Lockstep(maze_guest(seed, paged, tmp_path), tmp_path, seed=seed, most=3000)
    assert run.run(200_000) == ""
    assert not run.ended


def test_a_maze_does_not_go_in_circles(tmp_path: Path) -> None:
    twins = Twins(maze_guest(3, True, tmp_path))
    twins.advance(300_000)
    hart = twins.other.hart
    assert hart["BLOCKS"] > 1000
    assert hart["TRAPS"] > 500
    assert hart["FETCH_MISSES"] > 1500  # pages were exchanged
    twins.close()


@pytest.mark.parametrize("interrupts", ["aia", "plic"])
def test_the_embedded_guest_is_alike(interrupts: str, tmp_path: Path) -> None:
    boot = BootConfig(embedded.elf_path(), cmdline="run=m;i;u;f;q 3")
    run = Lockstep(Guest(boot, 32 << 20, interrupts), tmp_path, seed=5, most=300, every=1_000_000)
    assert run.run(1 << 40) == ""
    assert run.ended == "power-off, exit status 3"
    assert "float: checksum=8622cd576fa5301b" in run.console


@pytest.fixture
def clock_guest(tmp_path: Path) -> Guest:
    """Return a guest with timer interrupts and sleep."""
    kernel = tmp_path / "clockwork"
    kernel.write_bytes(clockwork.program(20_000))
    return Guest(BootConfig(kernel), clockwork.MEMORY)


def test_time_and_sleep_are_alike(clock_guest: Guest, tmp_path: Path) -> None:
    run = Lockstep(clock_guest, tmp_path, seed=2, most=1000)
    assert run.run(1 << 40) == ""
    assert run.ended == "power-off, exit status 0"


class SpoilsRegister(Side):
    """A bit of s1 is different from one instruction on."""

    def advance(self, count: int) -> None:
        """Execute ``count`` instructions, and change the register in between."""
        left = SPOILT_AT - self.steps
        if 0 < left <= count:
            super().advance(left)
            self.hart.x[9] ^= 0x40
            count -= left
        if count:
            super().advance(count)


class SpoilsMemory(Side):
    """A word that nothing reads is different from one instruction on."""

    def advance(self, count: int) -> None:
        """Execute ``count`` instructions, and change memory in between."""
        super().advance(count)
        if self.steps >= SPOILT_AT:
            self.machine.ram.u64[0x10_0000 // 8] = 5


class Mistranslates(Side):
    """The addition of 1601 adds 1602 in translated code."""

    wrong = (1601).to_bytes(4, "little"), (1602).to_bytes(4, "little")

    def advance(self, count: int) -> None:
        """Execute ``count`` instructions, then look through the code for the constant."""
        super().advance(count)
        start, end = self.hart["CODE_START"], self.hart["EMIT"]
        at = ctypes.string_at(start, end - start).find(self.wrong[0])
        if at >= 0 and not self.ended:
            ctypes.memmove(start + at, self.wrong[1], 4)


def with_other(kind: type[Side]) -> type[Twins]:
    """Return twins of which the translator's is of this kind."""
    return type("OneIsSpoilt", (Twins,), {"kinds": (Side, kind)})


@pytest.mark.parametrize("every", [10_000, 1 << 30])
def test_a_spoilt_register_is_found_at_its_instruction(tmp_path: Path, every: int) -> None:
    guest = program_guest(1, "", tmp_path, count=20, rounds=40)
    found = Lockstep(guest, tmp_path, every=every, twins=with_other(SpoilsRegister)).run(1 << 40)
    assert f"first difference after instruction {SPOILT_AT}, " in found
    lines = found.splitlines()
    assert lines[1].startswith("  s1: 0x")
    assert int(lines[1].split()[1], 16) ^ int(lines[1].split()[5], 16) == 0x40
    assert lines[2] == "the last instructions, on the interpreter:"


def test_spoilt_memory_is_found_though_no_register_shows_it(tmp_path: Path) -> None:
    guest = program_guest(1, "", tmp_path, count=20, rounds=40)
    found = Lockstep(guest, tmp_path, most=500, every=50_000, twins=with_other(SpoilsMemory)).run(1 << 40)
    steps = 0
    for quantum in quanta(1, 500):
        steps += quantum
        if steps >= SPOILT_AT:
            break
    assert SPOILT_AT <= int(found.split("instruction ")[1].split(",")[0]) <= steps
    assert "  memory 0x80100000: 0x0 on the interpreter, 0x5 on the translator" in found


def test_a_wrong_translation_is_found_by_name(clock_guest: Guest, tmp_path: Path) -> None:
    run = Lockstep(clock_guest, tmp_path, seed=3, most=3000, every=40_000, twins=with_other(Mistranslates))
    found = run.run(1 << 40)
    assert run.steps < 20_000
    table, trace = found.split("the last instructions, on the interpreter:\n")
    assert "\n  t1: " in table
    marked = [line for line in trace.splitlines() if " t1 = " in line]
    assert "addi t1, t1, 1601" in marked[-1]


def test_a_difference_that_comes_but_once_is_told(clock_guest: Guest, tmp_path: Path) -> None:
    class Once(Side):
        happened = False

        def advance(self, count: int) -> None:
            super().advance(count)
            if self.steps > 5000 and not Once.happened:
                Once.happened = True
                self.hart.x[9] ^= 1

    found = Lockstep(clock_guest, tmp_path, every=2000, twins=with_other(Once)).run(1 << 40)
    assert found.startswith("different once, after ")
    assert "\n  s1: " in found


def test_quanta_are_of_all_magnitudes() -> None:
    chosen = [number for number, _ in zip(quanta(1, 10_000), range(4000), strict=False)]
    for least in (1, 10, 100, 1000):
        assert sum(least <= number < 10 * least for number in chosen) > 700
    assert max(chosen) <= 10_000


def test_the_command_says_what_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["boot", "--memory", "32M", "--cmdline", "run=i;q 0", "--seed", "4", "--instructions", "300k"]
    assert lockstep.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "seed 4\n" in shown
    assert "instructions alike" in shown


def test_the_other_one_translates(clock_guest: Guest) -> None:
    twins = Twins(clock_guest)
    twins.advance(5000)
    assert twins.other.hart.engine_name == TRANSLATOR
    assert twins.other.hart["BLOCKS"] > 0
    assert twins.one.hart["BLOCKS"] == 0
    twins.close()
