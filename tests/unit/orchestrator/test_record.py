"""plan.json: processes are found again, and a stranger is never taken for one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import record
from orchestrator.plan import Plan, Process
from orchestrator.record import Entry, Record
from protocol.names import Runtime


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = Runtime("v")
    found.folder.mkdir(parents=True)
    return found


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def entry_of(process: subprocess.Popen[bytes]) -> Entry:
    return Entry("p", record.RUNNING, process.pid, record.start_time(process.pid) or 0)


def make() -> Record:
    processes = (Process("bus", "bus", ("dbus-daemon",), "/tmp/bus.log"),)
    return Record.new(Plan("v", None, 1 << 20, "unix:path=/x", processes))


def test_a_record_is_read_as_it_was_written(runtime: Runtime) -> None:
    written = make()
    written.write(runtime)

    assert Record.read(runtime) == written


@pytest.mark.parametrize("change", [{"version": 0}, {"boot": "another"}, {"entries": 1}, {"plan": {}}])
def test_a_record_of_another_boot_or_version_is_none(runtime: Runtime, change: dict[str, object]) -> None:
    make().write(runtime)
    runtime.plan.write_text(json.dumps(json.loads(runtime.plan.read_text()) | change))

    assert Record.read(runtime) is None


def test_no_record_is_none(runtime: Runtime) -> None:
    assert Record.read(runtime) is None
    runtime.plan.write_text("{")
    assert Record.read(runtime) is None


def test_a_record_is_not_written_once_the_folder_is_gone(runtime: Runtime) -> None:
    runtime.folder.rmdir()

    make().write(runtime)

    assert not runtime.folder.exists()


def test_a_stranger_with_the_same_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    stranger = entry_of(sleeper)
    stranger.started -= 1

    assert not stranger.is_alive()
    assert not stranger.signal(signal.SIGKILL)
    record.end([stranger], grace_s=0.1)

    assert sleeper.poll() is None


def test_end_takes_a_stopped_process_down(sleeper: subprocess.Popen[bytes]) -> None:
    ours = entry_of(sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)

    record.end([ours], grace_s=5.0)

    assert sleeper.wait(1) == -signal.SIGTERM
    assert not ours.is_alive()


def test_end_kills_what_ignores_sigterm() -> None:
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; sleep 60 & wait; sleep 60"], start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()

        record.end([entry_of(process)], grace_s=0.2)

        assert process.wait(1) == -signal.SIGKILL
        assert process.stdout.read() == b"", "what it started holds the pipe no longer"


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    ours = entry_of(sleeper)
    fd = os.pidfd_open(sleeper.pid)
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
    os.close(fd)

    assert not ours.is_alive()
    assert ours.open() is None
    assert Entry("none").open() is None
