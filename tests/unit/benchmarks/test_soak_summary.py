"""What a soak says of its lines: what grows, what is flat, and how long successors took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak_summary import figures, read, slope


def test_a_process_that_lives_grows_at_its_own_rate_and_successors_begin_at_their_own_level() -> None:
    one = [(1, float(t), 100 + t / 360) for t in range(0, 3600, 30)]  # 10 an hour
    other = [(2, 3600.0 + t, 5 + t / 360) for t in range(0, 3600, 30)]

    assert slope(one) == pytest.approx(10)
    assert slope(one + other) == pytest.approx(10)
    settling = [(3, 7200.0 + t, 40 + min(t, 500) / 5) for t in range(0, 2400, 30)]
    assert slope(one[:1] + settling) == pytest.approx(0)


def test_short_lives_are_fitted_one_after_the_other() -> None:
    assert slope([(pid, pid * 30.0, 20 + pid / 12) for pid in range(120)]) == pytest.approx(10)
    assert slope([(pid, pid * 30.0, 20.0) for pid in range(120)]) == 0
    assert slope([(1, 0.0, 7.0)]) == 0


def soak(growth: float) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"kind": "start", "t": 0.0, "seed": 7}]
    for t in range(0, 7200, 30):
        process = {"role": "cpu", "pid": 1, "own": 1024 * (200 + growth * t / 3600), "descriptors": 50}
        sample = {"shm_kib": 600, "log_kib": t, "shm_names": 9, "files": 12, "processes": [process]}
        events.append({"kind": "sample", "t": float(t), **sample})
    for number in range(100):
        death = {"device": "data", "of": "disk", "what": "killed", "way": "spare", "seconds": 0.04}
        events.append({"kind": "death", "t": 70.0 * number, **death})
    seen = {"rounds": {"data": 9}, "failed": [], "errors": 0, "said": ""}
    return [*events, {"kind": "guest", "t": 7200.0, **seen}]


def test_what_grows_misses_its_goal_and_what_is_flat_meets_it() -> None:
    flat = {figure.name: figure for figure in figures(soak(0.5))}
    grows = {figure.name: figure for figure in figures(soak(5.0))}

    assert all(figure.met is not False for figure in flat.values())
    assert [name for name, figure in grows.items() if figure.met is False] == ["memory of cpu"]
    assert flat["data: killed"].value == 100
    assert flat["to first request, disk with a spare, p50"].value == 0.04


def test_errors_and_troubles_are_missed_goals() -> None:
    seen = {"rounds": {}, "failed": ["data"], "errors": 2, "said": "I/O error"}
    events = [*soak(0.0), {"kind": "guest", "t": 7201.0, **seen}, {"kind": "trouble", "t": 7202.0, "text": "stuck"}]

    missed = [figure.name for figure in figures(events) if figure.met is False]

    assert missed == ["loads that failed", "errors of the guest's kernel", "troubles"]


def test_a_file_that_was_cut_off_tells_of_its_last_soak(tmp_path: Path) -> None:
    path = tmp_path / "soak.jsonl"
    lines = [json.dumps(event) for event in [{"kind": "start", "t": 0.0, "seed": 1}, *soak(0.0)]]
    path.write_text("\n".join(lines)[:-20])

    events = read(path)

    assert events[0]["seed"] == 7
    assert len(events) == len(lines) - 2
