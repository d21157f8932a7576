"""``cpu_proc --check-translator``: what ``doctor`` asks."""

from __future__ import annotations

import pytest

from cpu_proc import __main__ as cpu
from cpu_proc import translation_buffer


def test_what_is_missing_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(translation_buffer, "missing", lambda: "the host's CPU has no BMI2")
    assert cpu.main(["--check-translator"]) == 1
    assert capsys.readouterr().out == "the host's CPU has no BMI2"


def test_nothing_missing_is_status_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(translation_buffer, "missing", lambda: None)
    assert cpu.main(["--check-translator"]) == 0
    assert capsys.readouterr().out == ""
