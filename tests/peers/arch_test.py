"""The architecture tests of RISC-V International: build them, let Spike say what is right, run them on a hart.

Neither the suite nor what is built is part of this repository; docs/testing.md says how to get the sources.

    python -m tests.peers.arch_test build SUITE MODEL BUILT [--match 'rv64i_m/B/*'] [--largest KIB]
    python -m tests.peers.arch_test run BUILT [--match 'rv64i_m-B-*']

``SUITE`` is the folder riscv-test-suite, ``MODEL`` the one with Spike's model_test.h and link.ld. Each program gets a
file beside it with its reference signature, the words between ``begin_signature`` and ``end_signature``.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.peers import assembler, isa_runner, spike
from tests.unit.cpu_proc.harness import MMIO, RAM, Bench

GCC = "riscv64-linux-gnu-gcc"
# what the conditions of a program ask about
ISA = "RV64IMAFDCSUZicbom_Zicboz_Zicsr_Zifencei_Zba_Zbb_Zbc_Zbkb_Zbs_Zfa_Zfh_Zicond_Svadu"
_MARCH = "rv64gc_zicbom_zicboz_zba_zbb_zbc_zbs_zbkb_zfh"  # for the assembler, which is too old for Zicond and Zfa
_SPIKE_ISA = "rv64gc_zicbom_zicboz_zba_zbb_zbc_zbs_zbkb_zicond_zfa_zfh_zicsr_zifencei_zicclsm_svadu"
_SUFFIX = ".signature"
_MACROS = {"Zicond": assembler.zicond, "F_Zfa": assembler.zfa, "D_Zfa": assembler.zfa}  # by folder
_RAM_SIZE = 64 << 20
_LIMIT = 50_000_000


def definitions(source: str) -> list[str]:
    """Return the macros under which a program has cases for this machine; none: it is not for us."""
    wanted: list[str] = []
    for condition in re.findall(r'RVTEST_CASE\(\s*\w+\s*,\s*"(.*?)"', source, re.DOTALL):
        regexes = re.findall(r"check ISA:=regex\((.*?)\)\s*(?:;|$)", condition)
        misaligned = re.search(r"hw_data_misaligned_support:=(\w+)", condition)
        if all(re.match(regex, ISA) for regex in regexes) and (misaligned is None or misaligned[1] == "True"):
            wanted += re.findall(r"def\s+(\w+\s*=\s*\w+)", condition)
    return sorted({word.replace(" ", "") for word in wanted})


def build(suite: Path, model: Path, built: Path, match: str, largest: int) -> int:
    """Build what matches, with reference signatures; return how many programs failed to build or to run on Spike."""
    built.mkdir(parents=True, exist_ok=True)
    failed = 0
    counted: Counter[str] = Counter()
    for source in sorted(suite.glob("rv*/**/*.S")):
        name = source.relative_to(suite)
        program = built / "-".join([*(part for part in name.parts[:-1] if part != "src"), source.stem])
        if not fnmatch.fnmatch(str(name), match) or program.with_name(program.name + _SUFFIX).exists():
            continue
        macros = definitions(source.read_text())
        if not macros:
            counted["for other machines"] += 1
        elif source.stat().st_size > largest << 10:
            counted["too large"] += 1
        elif complaint := _build(source, program, macros, [suite / "env", model]):
            failed += 1
            print(f"FAIL {name}: {complaint}", flush=True)
        else:
            counted["built"] += 1
    print(f"{dict(counted)}, {failed} failed")
    return failed


def _build(source: Path, program: Path, macros: list[str], includes: list[Path]) -> str:
    options = [
        "-static",
        "-mcmodel=medany",
        "-nostdlib",
        "-nostartfiles",
        "-no-pie",
        "-fno-pie",
        "-w",
        "-Wl,--build-id=none",
    ]
    command = [
        GCC, f"-march={_MARCH}", "-mabi=lp64d", *options, "-DXLEN=64", "-DFLEN=64", *(f"-D{macro}" for macro in macros),
        *(f"-I{folder}" for folder in includes), f"-T{includes[-1] / 'link.ld'}", "-o", str(program), str(source),
    ]  # fmt: skip
    for folder in set(_MACROS) & set(source.parts):
        prelude = program.with_name(f"{folder}.h")
        prelude.write_text(_MACROS[folder]())
        command[1:1] = ["-include", str(prelude)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return next((line for line in done.stderr.splitlines() if "rror" in line), done.stderr[:200])
    reference = program.with_name(program.name + _SUFFIX)
    command = [
        *spike.command(), f"--isa={_SPIKE_ISA}", "-m0x80000000:0x4000000", f"+signature={reference}",
        "+signature-granularity=4", str(program),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60
        )
    except subprocess.TimeoutExpired:
        return "no end on Spike"
    return "" if reference.exists() else f"no signature from Spike: {done.stderr[:200]}"


def run(bench: Bench, program: Path) -> str:
    """Return an empty string if the signature is the reference's, or what is wrong."""
    tohost = isa_runner.load(bench, program)
    first, end = (_symbol(program, name) for name in ("begin_signature", "end_signature"))
    spent = 0
    while not bench.load(tohost):
        if spent >= _LIMIT or (spent and bench["PC"] < RAM):  # the latter: a trap without a handler
            return f"no end, pc={bench['PC']:#x} mcause={bench['MCAUSE']:#x} mepc={bench['MEPC']:#x}"
        reason = bench.step(100_000)
        if reason == MMIO:
            isa_runner.refuse(bench)
        spent += 100_000
    theirs = [int(line, 16) for line in program.with_name(program.name + _SUFFIX).read_text().split()]
    ours = [bench.load(at, 4) for at in range(first, end, 4)]
    different = [n for n, (there, here) in enumerate(zip(theirs, ours, strict=False)) if there != here]
    if different:
        n = different[0]
        return f"{len(different)} of {len(ours)} words, first {n}: {theirs[n]:#010x} on Spike, {ours[n]:#010x} here"
    return "" if len(theirs) == len(ours) else f"{len(theirs)} words on Spike, {len(ours)} here"


def _symbol(program: Path, name: str) -> int:
    with program.open("rb") as file:
        elf: Any = ELFFile(file)
        found = elf.get_section_by_name(".symtab").get_symbol_by_name(name)
    if not found or not RAM <= found[0]["st_value"] <= RAM + _RAM_SIZE:
        raise isa_runner.Unusable(f"no symbol {name} in memory")
    return int(found[0]["st_value"])


def run_all(built: Path, match: str, engine: str) -> int:
    """Run a folder and count by suite; return how many failed."""
    bench = Bench(_RAM_SIZE, engine)
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for program in isa_runner.programs(built, match):
        if not program.with_name(program.name + _SUFFIX).exists():
            continue
        suite = "-".join(program.name.split("-")[:2])
        complaint = run(bench, program)
        total[suite] += 1
        passed[suite] += not complaint
        if complaint:
            print(f"FAIL {program.name}: {complaint}", flush=True)
    for suite in total:
        print(f"{suite}: {passed[suite]} of {total[suite]}")
    return total.total() - passed.total() + (not total)


def main(argv: list[str] | None = None) -> int:
    """Build or run; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="arch_test", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="build programs and reference signatures")
    for name in ("suite", "model", "built"):
        making.add_argument(name, type=Path)
    making.add_argument("--largest", type=int, default=4096, metavar="KIB", help="leave out larger sources")
    running = commands.add_parser("run", help="run built programs")
    running.add_argument("built", type=Path)
    running.add_argument("--engine", choices=(INTERPRETER, TRANSLATOR), default=INTERPRETER)
    for command in (making, running):
        command.add_argument("--match", default="*", help="names, with wildcards")
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        return int(run_all(arguments.built, arguments.match, arguments.engine) != 0)
    if not spike.command():
        print("Spike is missing: docs/testing.md says how to build it", file=sys.stderr)
        return 2
    suite, model, built = (path.resolve() for path in (arguments.suite, arguments.model, arguments.built))
    return int(build(suite, model, built, arguments.match, arguments.largest) != 0)


if __name__ == "__main__":
    sys.exit(main())
