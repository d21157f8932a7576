"""One hart of each engine for all tests, as it is after power-on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.unit.cpu_proc.harness import Bench


@pytest.fixture(scope="session", params=[INTERPRETER, TRANSLATOR])
def _one_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(engine_name=request.param)
    yield bench
    bench.close()


@pytest.fixture
def bench(_one_bench: Bench) -> Bench:
    """Return the hart in M mode at the start of empty memory."""
    _one_bench.reset()
    return _one_bench
