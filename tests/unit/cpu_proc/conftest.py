"""One hart for all tests, as it is after power-on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cpu_proc.harness import Bench


@pytest.fixture(scope="session")
def _one_bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def bench(_one_bench: Bench) -> Bench:
    """Return the hart in M mode at the start of empty memory."""
    _one_bench.reset()
    return _one_bench
