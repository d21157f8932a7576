"""A VM whose processes somebody else starts, in any order, with an attendant in the place of the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from guest import elf_path
from orchestrator.lock import holder
from orchestrator.record import Record
from protocol.names import Runtime
from protocol.staying import WAIT_VARIABLE
from tests.conftest import VM, Cli

NAME = f"{VM}attend"
RUNTIME = Runtime(NAME)
_STATUS = 3
_WAIT_S = 180.0  # the first test of a fresh clone compiles the engine, beside others that do


class Engine:
    """Starts processes as a container engine does: all at once, each again if it fails."""

    def __init__(self, disk: Path) -> None:
        bus = RUNTIME.bus_address
        self.commands = {
            "disk0": ["devproc.virtio_blk", "--bus", bus, "--id", "disk0", f"--image={disk}", "--sandbox"],
            "cpu": ["cpu_proc", "--vm", NAME, "--bus", bus, "--memory", "64M", "--kernel", str(elf_path()),
                    "--device", "disk0=1"],
            "companion": ["orchestrator.companion", "--vm", NAME, "--", "sleep", "1000"],
            "bus": ["orchestrator.attend", "--vm", NAME],
        }  # fmt: skip
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a process."""
        command = [sys.executable, "-m", *self.commands[name]]
        env = {**os.environ, WAIT_VARIABLE: str(int(_WAIT_S))}
        self.running[name] = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ended(self, name: str) -> int:
        """Return the status of a process that ends by itself."""
        return self.running[name].wait(_WAIT_S)

    def close(self) -> None:
        """End what is left."""
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def engine(cli: Cli) -> Iterator[Engine]:
    """Return an engine whose VM has a disk."""
    engine = Engine(cli.disk())
    yield engine
    engine.close()


def until(condition: object) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + _WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def epoch(cli: Cli, name: str) -> int:
    """Return the epoch of a device that is attached, else 0."""
    done = cli.run("ps", NAME, "--json")
    shown = {p["id"]: p for p in json.loads(done.stdout)["processes"]} if done.returncode == 0 else {}
    return shown[name]["epoch"] if shown.get(name, {}).get("state") == "attached" else 0


def kill_daemon() -> None:
    """Kill the dbus-daemon."""
    record = Record.read(RUNTIME)
    assert record is not None
    assert record.entries["bus"].signal(signal.SIGKILL)


def test_processes_wait_die_and_end_with_the_machine(cli: Cli, engine: Engine) -> None:
    for name in engine.commands:  # the bus last
        engine.start(name)
    until(lambda: epoch(cli, "disk0") == 1)

    kill_daemon()  # which the attendant starts again
    engine.running["disk0"].kill()
    assert engine.ended("disk0") == -signal.SIGKILL
    engine.start("disk0")
    until(lambda: epoch(cli, "disk0") == 2)

    engine.running["bus"].kill()  # the attendant itself, which leaves a VM that runs on; in a container its bus dies
    engine.ended("bus")
    assert holder(RUNTIME) is None
    engine.start("bus")
    until(lambda: holder(RUNTIME))
    refused = cli.run("attach", NAME, "more", "--type", "virtio-rng")
    assert "nobody here can attach" in refused.stderr
    assert epoch(cli, "disk0") == 2

    (program,) = psutil.Process(engine.running["companion"].pid).children()
    engine.running["companion"].kill()
    assert engine.ended("companion") == -signal.SIGKILL
    until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)  # whoever reaps orphans here
    engine.start("companion")
    until(lambda: psutil.Process(engine.running["companion"].pid).children())

    console = engine.running["console"] = cli.start("console", NAME)
    assert console.stdin is not None
    console.stdin.write(f"q {_STATUS}\n".encode())
    console.stdin.flush()
    assert engine.ended("cpu") == _STATUS
    assert engine.ended("bus") == _STATUS
    assert engine.ended("disk0") == 0
    assert engine.ended("companion") == 0
    assert not RUNTIME.folder.exists()


def test_after_a_failure_all_fail_if_they_are_told_so(engine: Engine) -> None:
    engine.commands["bus"].append("--fail-together")
    for name in ("bus", "disk0", "cpu"):
        engine.start(name)
    until(lambda: (found := Record.read(RUNTIME)) is not None and {"cpu", "disk0"} <= set(found.entries))

    engine.running["cpu"].kill()

    assert engine.ended("disk0") == -signal.SIGKILL
    assert engine.ended("bus") == 1
    assert not RUNTIME.folder.exists()
