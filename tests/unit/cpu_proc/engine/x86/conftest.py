"""A hart of each engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cpu_proc.engine.x86.pair import Pair


@pytest.fixture(scope="session")
def _one_pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def pair(_one_pair: Pair) -> Pair:
    """Return both, reset."""
    _one_pair.reset()
    return _one_pair
