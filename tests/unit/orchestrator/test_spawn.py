"""Processes of a VM: whom the end of one concerns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from orchestrator import spawn
from orchestrator.plan import Process
child = spawn.start(Process("dev", "dev", (sys.executable, "-c", "pass"), sys.argv[1]))
child.entry.pid = 0  # as it is recorded of a process that has ended
child.reap()
child.reap()
print("still here", child.status)
"""


def test_an_ended_process_takes_nobody_with_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "log")],
        start_new_session=True,  # so that a mistake does not end the tests
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("still here "), (done.returncode, done.stderr)
