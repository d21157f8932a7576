"""Device processes as forks: like those started by a command, and started by one whenever the server is no good."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import forks, plan, spawn
from orchestrator.forks import Forks, ForkServer
from orchestrator.plan import Process
from orchestrator.spawn import Child

# Says all that a process has from who started it; the descriptor of --spare is the last word.
PROBE = """
import json, os, resource, signal, sys
import probed.part
if __name__ == "__main__":
    ends = sys.argv[1:2] == ["ends"]
    def links():
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[name] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
            except FileNotFoundError:
                pass  # of the listing itself
        return found
    said = {
        "argv": sys.argv[1:], "orig_argv": sys.orig_argv, "name": __name__, "path": sys.path, "cwd": os.getcwd(),
        "environ": dict(os.environ), "cmdline": open("/proc/self/cmdline").read(), "links": links(),
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "umask": os.umask(0), "leads": os.getsid(0) == os.getpgrp() == os.getpid(), "part": probed.part.VALUE,
        "main": sys.modules["__main__"].__spec__.name,
    }
    print(json.dumps(said))
    sys.stderr.write("and this\\n")
    sys.exit(int(sys.argv[2]) if ends else 0)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "path" / "probed"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "part.py").write_text("VALUE = 1\n")
    (folder / "__main__.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    monkeypatch.setenv("PROBED", "a\udcff=b")  # no UTF-8
    (tmp_path / "cwd").mkdir()
    return folder


@pytest.fixture
def server(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forks]:
    def begin(_modules: list[str], log: Path) -> ForkServer:
        return ForkServer(["probed"], log)

    monkeypatch.setattr(forks, "ForkServer", begin)
    found = Forks((), tmp_path / "forks.log")
    found.begin()
    yield found
    found.close()


def process(tmp_path: Path, *words: str, safe: bool = True, log: str = "log") -> Process:
    argv = (sys.executable, *(["-P"] if safe else []), "-m", "probed", *words)
    return Process("dev", "dev", argv, str(tmp_path / log), str(tmp_path / "cwd"), plan.environment())


def ended(child: Child) -> int | None:
    deadline = time.monotonic() + 30
    while not child.has_ended and time.monotonic() < deadline:
        time.sleep(0.01)
    child.reap()
    child.close()
    return child.status


def forked(child: Child) -> bool:
    return isinstance(child._started, forks.Fork)


def said(child: Child) -> dict[str, object]:
    assert ended(child) == 0
    line, last = spawn.tail(child)
    assert last == "and this"
    return dict(json.loads(line))


@pytest.mark.parametrize("safe", [True, False])
def test_a_fork_is_like_a_process_of_its_own(server: Forks, tmp_path: Path, *, safe: bool) -> None:
    wanted = process(tmp_path, "two words", "", "--x=ü", safe=safe)
    found = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = str(theirs.fileno())
        for way in (server, None):
            child = spawn.start(wanted, extra=(number,), pass_fds=(theirs.fileno(),), forks=way)
            assert forked(child) is (way is not None)
            found.append(said(child))

    assert found[0] == found[1]
    assert set(found[0]["links"]) >= {"0", "1", "2", number}  # type: ignore[call-overload]


def test_how_a_fork_ended_is_known(server: Forks, tmp_path: Path) -> None:
    assert ended(spawn.start(process(tmp_path, "ends", "7"), forks=server)) == 7
    asleep = Process("dev", "dev", (sys.executable, "-P", "-m", "pydoc", "-p", "0"), str(tmp_path / "log"))
    child = spawn.start(asleep, forks=server)
    os.kill(child.entry.pid, signal.SIGKILL)
    assert forked(child)
    assert ended(child) == -signal.SIGKILL


def test_what_was_edited_is_what_runs(server: Forks, package: Path, tmp_path: Path) -> None:
    before = spawn.start(process(tmp_path, log="before"), forks=server)
    assert forked(before)
    (package / "part.py").write_text("VALUE = 22\n")

    at_once, next_one = (spawn.start(process(tmp_path, log=name), forks=server) for name in ("at once", "next"))

    assert (forked(at_once), forked(next_one)) == (False, True)
    assert (said(at_once)["part"], said(next_one)["part"]) == (22, 22)
    assert said(before)["part"] == 1  # whose server is there until then


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_died_or_hangs_is_replaced(
    server: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(forks, "_ANSWER_S", 1.0)
    before = spawn.start(process(tmp_path), forks=server)
    os.kill(server._servers[-1]._popen.pid, number)

    at_once, next_one = (spawn.start(process(tmp_path), forks=server) for _ in range(2))

    assert [forked(child) for child in (before, at_once, next_one)] == [True, False, True]
    assert [ended(child) for child in (before, at_once, next_one)] == [None, 0, 0]


def test_a_server_that_does_not_load_is_not_tried_again(server: Forks, package: Path, tmp_path: Path) -> None:
    broken = package / "part.py"
    broken.write_text("raise SystemExit('broken')")
    server.close()
    server.begin()

    first = spawn.start(process(tmp_path), forks=server)
    assert (forked(first), ended(first)) == (False, 1)
    broken.write_text("VALUE = 1")
    second = spawn.start(process(tmp_path), forks=server)
    assert (forked(second), ended(second)) == (False, 0)


def test_who_is_never_told_to_begin_does_not(server: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks.forks, "GO", b"")  # as if the orchestrator died before it could say so

    child = spawn.start(process(tmp_path), forks=server)

    assert ended(child) == 0
    assert spawn.tail(child) == []


def test_what_cannot_be_started_is_said_as_ever(server: Forks, tmp_path: Path) -> None:
    wanted = process(tmp_path)
    (tmp_path / "cwd").rmdir()

    with pytest.raises(spawn.HostError, match=r"cannot start dev: .*cwd: No such file or directory"):
        spawn.start(wanted, forks=server)
    (tmp_path / "cwd").mkdir()
    child = spawn.start(wanted, forks=server)
    assert forked(child)
    said(child)


def test_only_python_that_is_a_device_is_forked(server: Forks, tmp_path: Path) -> None:
    def module(*argv: str, kind: str = "virtio-blk") -> str:
        return Process("x", kind, argv, "").module

    assert module(sys.executable, "-P", "-m", "devproc.virtio_blk", "-P") == "devproc.virtio_blk"
    assert module(sys.executable, "-m", "mine", kind="python:mine") == "mine"
    assert module(sys.executable, "-P", "-m", "cpu_proc", kind=plan.CPU) == ""
    assert module(sys.executable, "-P", "-m", "devproc.virtio_blk", kind=plan.BACK_END_TYPE) == ""
    assert module(sys.executable, "mine.py", "-m") == ""
    assert module("dbus-daemon", kind=plan.BUS) == ""
    child = spawn.start(Process("x", "x", (sys.executable, "-c", "pass"), str(tmp_path / "log")), forks=server)
    assert not forked(child)
    assert ended(child) == 0
