"""Where doors are tried: folders of its own, and processes, which are ended at the end and must not end before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

from protocol.memory import SHM, shm_name

PATIENCE_S = 60.0


class Place:
    """A folder, an environment, and what runs there."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bv", dir="/tmp")
        self.folder = Path(self._folder.name)
        self.vm = f"door{os.getpid()}"
        self._outer = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
        for name in self._outer:
            os.environ[name] = str(self.folder / name)
            (self.folder / name).mkdir(mode=0o700)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start ``python -m command``; what it logs is kept."""
        with (self.folder / f"{name}.log").open("wb") as log:
            environment = os.environ | {"PYTHONPATH": f"{self.folder}:{Path(__file__).parents[3]}"}
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                **{"stdin": subprocess.DEVNULL, "stderr": log, "env": environment} | options,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        """Return what a process has logged last."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def logs(self) -> str:
        """Return the ends of all logs, those of a VM's processes too."""
        found = [*self.folder.glob("*.log"), *self.folder.glob("XDG_STATE_HOME/busvm/*/*.log")]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in found)

    def check(self) -> None:
        """See that all processes run."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended with {process.returncode}: {self.log(name)}"

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self.check()
            assert time.monotonic() < deadline, {name: self.log(name) for name in self.processes}
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        for name, value in self._outer.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        self._folder.cleanup()
        left = list(SHM.glob(shm_name(self.vm, "*")))
        assert not left, f"left behind: {left}"


def sizes(place: Place) -> dict[str, tuple[int, int]]:
    """Return KiB in memory and descriptors of all processes, those of a VM too."""
    found = {}
    for started in place.processes.values():
        ours = psutil.Process(started.pid)
        for process in (ours, *ours.children(recursive=True)):
            words = process.cmdline()
            flag = next((flag for flag in ("--id", "-m") if flag in words), None)
            name = words[words.index(flag) + 1] if flag else Path(words[0]).name
            found[name] = process.memory_info().rss >> 10, process.num_fds()
    return found
