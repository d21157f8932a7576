"""Linters are tests, so that one command tells everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "--no-fix"], ["ruff", "format", "--check"], ["mypy"]],
    ids=["ruff-check", "ruff-format", "mypy"],
)
def test_the_linter_has_nothing_to_say(command: list[str]) -> None:
    arguments = (
        []
        if command[0] == "mypy"
        else ["orchestrator", "cpu_proc", "devproc", "protocol", "guest", "benchmarks", "tests"]
    )
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
