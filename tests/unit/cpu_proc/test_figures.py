"""What is told of an engine: the translator's counters, and how fast it is."""

from __future__ import annotations

import pytest

from cpu_proc import figures
from cpu_proc.hart import INTERPRETER
from tests.unit.cpu_proc.harness import RAM, Bench, addi, jal

SECOND = 10**9


def loop(bench: Bench, turns: int) -> None:
    """Execute a loop of two instructions."""
    bench.words(RAM, addi(5, 5, 1), jal(0, -4))
    bench["PC"] = RAM
    bench.step(2 * turns)


def test_the_translator_counts_and_the_interpreter_has_nothing_to_tell(bench: Bench) -> None:
    before = figures.translator(bench.hart)  # other tests have used the hart
    loop(bench, 1000)
    told = figures.translator(bench.hart)
    if bench.hart.engine_name == INTERPRETER:
        assert told == {}
        return
    told = {name: value if name == "code_bytes" else value - before[name] for name, value in told.items()}
    assert told["blocks"] > 0
    assert 0 < told["code_bytes"] < bench["CODE_LIMIT"] - bench["CODE_START"]
    assert told["flushes"] == 0
    assert told["chains"] > 0
    assert 0 < told["entries"] < 100
    assert told["interpreted"] < 1000


def test_speed_is_since_the_last_look(bench: Bench) -> None:
    now, began = [10 * SECOND], [0]
    speed = figures.Speed(bench.hart, lambda: began[0], lambda: now[0])
    assert speed.mips() == 0  # nothing executes yet
    began[0] = 10 * SECOND
    loop(bench, 2_000_000)
    now[0] += 2 * SECOND
    assert speed.mips() == pytest.approx(2.0)
    loop(bench, 50_000)
    now[0] += SECOND // 10
    assert speed.mips() == pytest.approx(2.0)  # too soon: the same again
    now[0] += SECOND - SECOND // 10
    assert speed.mips() == pytest.approx(0.1)
    now[0] += SECOND
    assert speed.mips() == 0
    bench.hart.reset()
    now[0] += SECOND
    assert speed.mips() == 0
