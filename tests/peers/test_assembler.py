"""The macros for Zicond and Zfa give the words that the instruction table declares."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cpu_proc.engine.disassembler import disassemble
from cpu_proc.engine.float_constants import NAMES
from tests.peers import assembler
from tests.unit.cpu_proc.isa.test_decoding import tool


def assemble(lines: list[str], folder: Path) -> list[int]:
    """Return the words of the lines."""
    source, built, raw = folder / "lines.s", folder / "lines.o", folder / "lines.bin"
    source.write_text("\n".join([assembler.zicond(), assembler.zfa(), ".text", *lines, ""]))
    subprocess.run([tool("as"), "-march=rv64g", "-o", built, source], check=True)
    subprocess.run([tool("objcopy"), "-O", "binary", built, raw], check=True)
    data = raw.read_bytes()
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def test_macros_are_what_the_table_says(tmp_path: Path) -> None:
    lines = ["czero.eqz a0, a1, a2", "czero.nez a0, a1, a2", "fcvtmod.w.d a0, fa1, rtz"]
    for letter in "sd":
        lines += [f"{name}.{letter} fa0, fa1, fa2" for name in ("fminm", "fmaxm")]
        lines += [f"{name}.{letter} a0, fa1, fa2" for name in ("fleq", "fltq")]
        lines += [f"{name}.{letter} fa0, fa1{rm}" for name in ("fround", "froundnx") for rm in ("", ", rdn", ", rmm")]
    assert [disassemble(word)[1] for word in assemble(lines, tmp_path)] == lines


def test_constants_are_spelled_as_the_architecture_tests_do(tmp_path: Path) -> None:
    spelled = ["-0x1p+0", "min", "0x1p-16", "0x1.4p-2", "0x1p0", "0x1p+0", "0x1.cp+0", "0x1p+15", "inf", "nan"]
    named = ["-1.0", "min", "1.52587890625e-05", "0.3125", "1.0", "1.0", "1.75", "32768.0", "inf", "nan"]
    assert set(named) <= set(NAMES)
    words = assemble([f"fli.d ft3, {text}" for text in spelled], tmp_path)
    assert [disassemble(word)[1] for word in words] == [f"fli.d ft3, {name}" for name in named]
