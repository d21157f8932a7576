"""Some thousand vectors for each floating-point instruction, the same ones each time, give what they must."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpu_proc.isa.table import Instruction
from tests.fuzz import float_vectors, testfloat
from tests.unit.cpu_proc.harness import Bench

ROWS = {row.name: row for row in float_vectors.rows()}
EXACTLY, ON_QEMU = 600, 20_000  # vectors for an instruction


@pytest.fixture(scope="module", params=float_vectors.ENGINES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a hart of each engine, with room for the vectors."""
    bench = float_vectors.hart(request.param)
    yield bench
    bench.close()


def check(row: Instruction, lines: np.ndarray, wanted: np.ndarray, got: np.ndarray) -> None:
    """Fail with the first few differences."""
    different = list(float_vectors.differences(row, lines, wanted, got))
    assert not different, "\n".join(different[:5])


@pytest.mark.parametrize("name", ROWS)
def test_vectors_give_what_exact_arithmetic_gives(bench: Bench, name: str) -> None:
    row = ROWS[name]
    lines = float_vectors.vectors(row, EXACTLY)
    check(row, lines, float_vectors.exactly(row, lines), float_vectors.on_hart(bench, row, lines))


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("fli.")])
def test_all_constants(bench: Bench, name: str) -> None:
    row, lines = ROWS[name], float_vectors.vectors(ROWS[name], 1)
    for index in range(32):
        wanted = float_vectors.exactly(row, lines, index)
        check(row, lines, wanted, float_vectors.on_hart(bench, row, lines, index))


@pytest.mark.peer
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.extension != "zfa"])
def test_vectors_give_what_qemu_gives(bench: Bench, name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    command = float_vectors.qemu(row)
    if not command:
        pytest.fail(f"{float_vectors.QEMU} is missing: apt-get install qemu-system-misc")
    lines = float_vectors.vectors(row, ON_QEMU, 2)
    wanted = float_vectors.on_qemu(command, row, lines, tmp_path)
    check(row, lines, wanted, float_vectors.on_hart(bench, row, lines))


@pytest.mark.parametrize(
    ("name", "rm", "lines", "different"),
    [
        ("fadd.h", 0, "3C00 3C00 4000 00\n0001 8400 83FF 00\n", 0),
        ("fcvt.wu.s", 1, "BF800000 00000000 10\n4F800000 FFFFFFFF 10\n", 0),
        ("fmsub.d", 0, "3FF0000000000000 3FF0000000000000 3FF0000000000000 4000000000000000 00\n", 0),
        ("fadd.h", 0, "3C00 3C00 4000 01\n", 1),
    ],
)
def test_lines_of_testfloat_are_read(bench: Bench, name: str, rm: int, lines: str, different: int) -> None:
    stream = io.BytesIO(lines.encode())
    assert testfloat.compare(bench, stream, ROWS[name], rm, 0) == (lines.count("\n"), different)
