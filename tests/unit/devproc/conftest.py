"""A back-end in a thread and a guest for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.front_end import Guest
from tests.unit.devproc.vhost_rig import Rig, open_fds


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Return a server that leaves no descriptor open; its lines go to no stream of an earlier test."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    before = open_fds()
    rig = Rig(tmp_path)
    yield rig
    rig.close()
    assert open_fds() == before


@pytest.fixture
def guest() -> Iterator[Guest]:
    """Return guest memory with a queue."""
    with Guest() as guest:
        yield guest
