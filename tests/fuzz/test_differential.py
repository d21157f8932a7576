"""A few random programs of each extension, the same ones each time, come out of QEMU and of our hart alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.fuzz import differential, programs, runners
from tests.fuzz.image import OUT
from tests.unit.cpu_proc.harness import Bench

pytestmark = pytest.mark.peer
PROGRAMS, ROUNDS = 25, 40


@pytest.fixture(scope="module", params=[INTERPRETER, TRANSLATOR])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a hart with room for an image."""
    bench = Bench(runners.MEMORY, request.param)
    yield bench
    bench.close()


@pytest.mark.parametrize("group", ["", *programs.groups()])
def test_programs_give_what_qemu_gives(bench: Bench, group: str, tmp_path: Path) -> None:
    if runners.missing("qemu"):
        pytest.fail(runners.missing("qemu"))
    comparison = differential.Comparison(bench, tmp_path, group=group)
    chosen = [programs.generate(seed, group) for seed in range(PROGRAMS)]
    different = list(comparison.differences(chosen, ROUNDS))
    assert not different, "\n".join(different[:3])


def test_all_extensions_with_results_are_groups() -> None:
    assert programs.groups()[:6] == ["i", "m", "a", "c", "f", "d"]
    assert {"zba", "zbb", "zbc", "zbs", "zbkb", "zicond"} <= set(programs.groups())


@pytest.mark.parametrize("group", programs.groups())
def test_the_group_is_prominent(group: str) -> None:
    program = programs.generate(3, group)
    assert program.prominent > len(program.words) * 0.4


def test_a_difference_is_traced_to_its_round(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that spoils x9 from the 7th round on is found out."""

    def spoilt(_peer: str, image: bytes, count: int, _group: str, _folder: Path) -> bytes:
        contexts = bytearray(runners.on_hart(bench, image, count))
        if rounds[0] >= 7:
            contexts[OUT + 8 * 9] ^= 1
        return bytes(contexts)

    def build(chosen: list[programs.Program], count: int) -> bytes:
        rounds[0] = count
        return original(chosen, count)

    rounds, original = [0], differential.build
    monkeypatch.setattr(differential, "on_peer", spoilt)
    monkeypatch.setattr(differential, "build", build)
    program = programs.generate(1)
    (text,) = differential.Comparison(bench, tmp_path).differences([program], 20)
    assert text.startswith("seed 1, round 7:\n  x9: ")
    assert text.count("\n") == 2 + 65 + len(program.words)
