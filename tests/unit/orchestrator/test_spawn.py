"""Processes of a VM: whom the end of one concerns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import spawn
from orchestrator.plan import Process
from orchestrator.record import Entry

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


@pytest.mark.parametrize("more", [(), ("--spare=7",), ("--beside=7",)])
def test_who_was_started_but_not_recorded_is_found_by_its_command(tmp_path: Path, more: tuple[str, ...]) -> None:
    process = Process("dev", "dev", (sys.executable, "-c", "input()", str(tmp_path)), str(tmp_path / "log"))
    last = Entry("dev", pid=0, restarts=4)

    with (
        subprocess.Popen([*process.argv, *more], stdin=subprocess.PIPE) as child,
        subprocess.Popen([*process.argv, "other"], stdin=subprocess.PIPE) as other,
    ):
        found = spawn.unrecorded(process, last)
        child.communicate(b"\n")
        nobody = spawn.unrecorded(process, last)
        other.communicate(b"\n")

    assert (found.pid, found.restarts) == (child.pid, 5)
    assert nobody is last
