"""A few hundred random programs, the same ones each time, come out of QEMU and of our hart alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import differential
from tests.unit.cpu_proc.harness import Bench

pytestmark = pytest.mark.peer
PROGRAMS = 400


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Return a hart with room for an image."""
    bench = Bench(differential.MEMORY)
    yield bench
    bench.close()


@pytest.mark.parametrize("first", range(0, PROGRAMS, differential.BATCH))
def test_programs_give_what_qemu_gives(bench: Bench, first: int, tmp_path: Path) -> None:
    if differential.missing():
        pytest.fail(differential.missing())
    different = differential.compare(bench, range(first, first + differential.BATCH), tmp_path)
    assert not different, "\n".join(different[:3])


def test_a_difference_is_explained(bench: Bench) -> None:
    program = differential.generate(1)
    ours = differential.on_hart(bench, differential.build([program]), 1)
    theirs = bytearray(ours)
    theirs[8 * 9] ^= 1  # x9
    text = differential.explain(1, program, bytes(theirs), ours)
    assert "x9: " in text
    assert len(text.splitlines()) == 3 + len(program.words)
