"""A short run of strangers at an ivshmem server, and that the long one would notice."""

from __future__ import annotations

import pytest

from devproc.ivshmem.service import Service
from protocol.ivshmem_hello import Hello
from tests.fuzz import ivshmem


def test_nothing_that_strangers_say_does_harm(capfd: pytest.CaptureFixture[str]) -> None:
    figures = ivshmem.run(8000, 11)

    assert figures["said"] >= 8000, capfd.readouterr()
    assert min(figures[name] for name in ("joined", "away", "resumed", "refused", "dropped_input")) > 0


def test_what_is_left_behind_is_noticed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Hello, "close", lambda _self: None)

    assert ivshmem.main(["--messages", "2000"]) == 1

    assert "seed 1, episode " in capfd.readouterr().out


def test_a_server_that_forgets_somebody_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "_lifeline", lambda _self, _peer, _lifeline: None)

    assert ivshmem.main(["--messages", "20000"]) == 1
