"""The short form of ``python -m benchmarks kills``: a few kills under fio and iperf3; times are not judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kills, loaded

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

KILLS = 15


def test_a_disk_and_a_card_are_killed_while_fio_verifies_and_iperf3_sends(
    other_debian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := loaded.missing():
        pytest.skip(reason)
    monkeypatch.setattr(kills, "KILLS", KILLS)
    monkeypatch.setenv("BUSVM_WORKLOADS", str(tmp_path))  # for the console

    figures = {figure.name: figure for figure in kills.measure(other_debian)}

    for load in ("fio --verify", "iperf3"):
        assert figures[f"kills survived under {load}"].value == KILLS
        assert figures[f"errors under {load}"].value == 0
