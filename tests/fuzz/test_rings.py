"""A short run of the guest that lies about its rings, and that the long one would notice and say."""

from __future__ import annotations

import pytest

from devproc.virtqueue import Virtqueue
from tests.fuzz import rings


def test_nothing_a_guest_writes_into_its_rings_does_harm(capfd: pytest.CaptureFixture[str]) -> None:
    status = rings.main(["--requests", "25000", "--seed", "11"])

    assert status == 0, capfd.readouterr()


def test_a_missing_check_is_found_and_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    checked = Virtqueue.__init__

    def careless(self: Virtqueue, *arguments: object) -> None:
        checked(self, *arguments)  # type: ignore[arg-type]
        self._ram_size += 1 << 40

    monkeypatch.setattr(Virtqueue, "__init__", careless)

    assert rings.main(["--requests", "20000", "--seed", "11"]) == 1

    told = capfd.readouterr().out
    assert "seed 11, episode " in told


def test_an_episode_follows_from_its_number() -> None:
    assert rings.episode(4, 7, "pci") == rings.episode(4, 7, "pci")
    assert rings.episode(4, 7, "pci") != rings.episode(4, 8, "pci")


def test_a_failing_episode_is_made_shorter() -> None:
    plan = rings.episode(1, 1, "mmio")
    wanted = plan.actions[5], plan.actions[60]

    short = rings.shorter(plan, lambda less: all(action in less.actions for action in wanted))

    assert set(short.actions) == set(wanted)
