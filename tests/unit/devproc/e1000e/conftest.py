"""Cards that are closed at the end of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.devproc.e1000e.driver import Nic


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    Nic.close_all()


@pytest.fixture
def nic() -> Nic:
    """Return a card with rings, MSI-X and a wire without offloads."""
    return Nic()
