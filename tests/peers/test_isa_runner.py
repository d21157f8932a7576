"""The runner of bare-metal suites tells a pass from a failure, a hang and a file it cannot run.

Suites themselves live outside: ``BUSVM_ISA_TESTS`` may name a folder of built programs, ``BUSVM_ISA_EXPECTED`` those
that are known to fail, separated by blanks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.peers import isa_runner
from tests.unit.cpu_proc.harness import Bench

GCC = "riscv64-linux-gnu-gcc"
SUITE = os.environ.get("BUSVM_ISA_TESTS", "")
PROGRAM = """
    .globl _start, tohost
    .text
_start:
    li a0, {value}
    la a1, tohost
    {action}
1:  j 1b
    .data
    .balign 8
tohost: .dword 0
"""


@pytest.fixture(scope="module", params=[INTERPRETER, TRANSLATOR])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a hart with room for the programs."""
    bench = Bench(16 << 20, request.param)
    yield bench
    bench.close()


def assemble(folder: Path, name: str, *, value: int, action: str = "sd a0, 0(a1)", base: int = 0x8000_0000) -> Path:
    """Build a program that reports ``value``."""
    if shutil.which(GCC) is None:
        pytest.fail(f"{GCC} is missing: apt-get install gcc-riscv64-linux-gnu (.ci/run does)")
    source, built = folder / f"{name}.S", folder / name
    source.write_text(PROGRAM.format(value=value, action=action))
    options = ["-nostdlib", "-static", "-no-pie", "-mcmodel=medany", f"-Wl,-Ttext={base:#x}", "-Wl,-N,--build-id=none"]
    subprocess.run([GCC, *options, "-o", built, source], check=True)
    return built


def test_pass_and_failed_case(bench: Bench, tmp_path: Path) -> None:
    assert isa_runner.run(bench, assemble(tmp_path, "good", value=1)) == ""
    assert isa_runner.run(bench, assemble(tmp_path, "bad", value=5 << 1 | 1)).startswith("case 5,")


def test_silence_is_a_failure(bench: Bench, tmp_path: Path) -> None:
    silent = assemble(tmp_path, "silent", value=1, action="nop")
    assert isa_runner.run(bench, silent, limit=1000).startswith("no answer")


def test_program_elsewhere_is_unusable(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(isa_runner.Unusable, match="outside memory"):
        isa_runner.run(bench, assemble(tmp_path, "far", value=1, base=0x1_0000))


def test_command_counts_by_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "built"
    folder.mkdir()
    for name, value in (("suite-p-one", 1), ("suite-p-two", 7), ("other-p-one", 1)):
        assemble(tmp_path, name, value=value).rename(folder / name)
    (folder / "notes.txt").write_text("not a program")
    assert isa_runner.main([str(folder)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("FAIL suite-p-two: case 3,")
    assert shown[1:] == ["other-p: 1 of 1", "suite-p: 1 of 2"]
    assert isa_runner.main([str(folder), "--match", "other-*"]) == 0


@pytest.mark.peer
@pytest.mark.skipif(not SUITE, reason="BUSVM_ISA_TESTS names no folder of built programs")
def test_suite_passes(bench: Bench) -> None:
    known = set(os.environ.get("BUSVM_ISA_EXPECTED", "").split())
    failed = {path.name for path in isa_runner.programs(Path(SUITE), "*") if isa_runner.run(bench, path)}
    assert failed == known
