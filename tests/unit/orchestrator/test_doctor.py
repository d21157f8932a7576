"""``doctor`` on what the CPU process says of this host."""

from __future__ import annotations

import subprocess

import pytest

from orchestrator.commands import doctor


@pytest.mark.parametrize(
    ("status", "output", "error", "level", "text"),
    [
        (0, "", "", "ok", 'vm.engine = "translate" or "auto"'),
        (1, "an x86-64 host", "", "missing", 'for vm.engine = "translate": an x86-64 host'),
        (70, "", "Traceback\nValueError: x", "error", "ValueError: x"),
        (-9, "", "", "error", "it ended without a word"),
    ],
)
def test_the_translator_is_there_or_missing_for_a_reason(
    monkeypatch: pytest.MonkeyPatch, status: int, output: str, error: str, level: str, text: str
) -> None:
    done = subprocess.CompletedProcess([], status, output, error)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_args, **_options: done)
    checks = {check.name: check for check in doctor.look()}
    assert (checks["translator"].level, checks["translator"].text) == (level, text)
