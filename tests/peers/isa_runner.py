"""Run bare-metal RISC-V test programs on a hart, in M mode from their entry, and count what passes.

The programs are not part of this repository: build any suite that reports through a ``tohost`` symbol (a one for a
pass, an odd number above it for the failed case) and name its folder:

    python -m tests.peers.isa_runner FOLDER [--match 'rv64ui-*']
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.unit.cpu_proc.harness import BUDGET, MMIO, RAM, Bench

_RAM_SIZE = 16 << 20
_SLICE = 100_000
_LIMIT = 20_000_000
_CONSOLE = 0x0101  # device 1, command 1 of the host interface: print one character


class Unusable(Exception):
    """Not a program this runner can run."""


def programs(folder: Path, match: str) -> Iterator[Path]:
    """Return the ELF files of ``folder`` whose names match."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and fnmatch.fnmatch(path.name, match):
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def load(bench: Bench, path: Path) -> int:
    """Put a program into memory and point the hart at it; return the address of ``tohost``.

    Raises:
        Unusable: it has no ``tohost``, or lies outside memory.
    """
    bench.reset()
    with path.open("rb") as file:
        try:
            elf: Any = ELFFile(file)
            symbols = elf.get_section_by_name(".symtab")
            found = symbols.get_symbol_by_name("tohost") if symbols else None
            segments = [(s["p_paddr"], s.data()) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
            entry = elf.header["e_entry"]
        except ELFError as error:
            raise Unusable(f"broken ELF file: {error}") from error
    if not found:
        raise Unusable("no symbol tohost")
    for address, data in segments:
        if address < RAM or address + len(data) > RAM + bench.ram.size:
            raise Unusable(f"segment at {address:#x} is outside memory")
        bench.bytes(address, data)
    bench["PC"] = entry
    return int(found[0]["st_value"])


def run(bench: Bench, path: Path, limit: int = _LIMIT) -> str:
    """Return an empty string for a pass, or what went wrong."""
    tohost = load(bench, path)
    spent = 0
    while spent < limit:
        reason = bench.step(_SLICE)
        if reason == MMIO:
            refuse(bench)
        spent += _SLICE - max(0, bench.hart["BUDGET"]) if reason != BUDGET else _SLICE
        value = bench.load(tohost)
        if value >> 48 == _CONSOLE:
            bench.store(tohost, 0)
        elif value == 1:
            return ""
        elif value:
            where = f"pc={bench['PC']:#x} mcause={bench['MCAUSE']:#x} mepc={bench['MEPC']:#x} mtval={bench['MTVAL']:#x}"
            return f"case {value >> 1}, {where}"
    return f"no answer in {spent} instructions, pc={bench['PC']:#x}"


def refuse(bench: Bench) -> None:
    """Answer an access outside memory: there are no devices."""
    bench["MMIO_VALUE"] = -1
    bench["MMIO_DONE"] = 1


def main(argv: list[str] | None = None) -> int:
    """Run a folder; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="isa_runner", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", default="*", help="names to run, with wildcards")
    parser.add_argument("--limit", type=int, default=_LIMIT, help="instructions until a program counts as hung")
    parser.add_argument("--engine", choices=(INTERPRETER, TRANSLATOR), default=INTERPRETER)
    arguments = parser.parse_args(argv)
    bench = Bench(_RAM_SIZE, arguments.engine)
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for path in programs(arguments.folder, arguments.match):
        suite = "-".join(path.name.split("-")[:2])
        try:
            complaint = run(bench, path, arguments.limit)
        except Unusable as error:
            print(f"skip {path.name}: {error}")
            continue
        total[suite] += 1
        passed[suite] += not complaint
        if complaint:
            print(f"FAIL {path.name}: {complaint}", flush=True)
    for suite in total:
        print(f"{suite}: {passed[suite]} of {total[suite]}")
    return int(passed != total or not total)


if __name__ == "__main__":
    sys.exit(main())
