"""What every test has: folders of its own instead of the user's, and a check that nothing is left behind.

Sockets need short paths, so the runtime folder is in /tmp. Compiled engines are shared with the user's cache: they
are named by what they were made of.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol import log

ROOT = Path(__file__).parent.parent
_SHM = Path("/dev/shm")
_SETTLE_S = 5.0
VM = f"t{os.getpid()}"
"""Name for the VM of a test: names in /dev/shm are the host's, and another session may run there."""


def _numba_folder() -> Path:
    """Return a cache folder for what tests compile directly; Numba does not see changes in imported files."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted((ROOT / "cpu_proc").rglob("*.py")):
        digest.update(path.read_bytes())
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "busvm" / "tests"
    folder = cache / digest.hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in cache.iterdir():
        if old != folder and time.time() - old.stat().st_mtime > 86400:
            shutil.rmtree(old, ignore_errors=True)
    return folder


_home = tempfile.TemporaryDirectory(prefix="bv", dir="/tmp")
os.environ["NUMBA_CACHE_DIR"] = str(_numba_folder())
os.environ["XDG_RUNTIME_DIR"] = f"{_home.name}/run"
os.environ["XDG_STATE_HOME"] = f"{_home.name}/state"
for _folder in ("run", "state"):
    Path(_home.name, _folder).mkdir(mode=0o700)


def _ours() -> list[psutil.Process]:
    """Return the processes that have this session's runtime folder, but for this one and what it runs in."""
    found = []
    keep = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in keep or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("XDG_RUNTIME_DIR") == os.environ["XDG_RUNTIME_DIR"]:
                found.append(process)
    return found


def _abandoned_shm(before: set[str]) -> list[str]:
    """Return new names in /dev/shm that no process has open: others may run VMs here at the same time."""
    fresh = {path.name for path in _SHM.glob("busvm-*")} - before
    for links in Path("/proc").glob("[0-9]*/fd") if fresh else ():
        with suppress(OSError):
            for link in links.iterdir():
                with suppress(OSError):
                    fresh.discard(os.readlink(link).removeprefix("/dev/shm/"))
    return sorted(fresh)


def _descriptors() -> list[str]:
    """Return this process's descriptors of the kinds that a VM hands out."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = os.readlink(link)
            if "pidfd" in target or target.startswith("/dev/shm/busvm."):
                found.append(target)
    return sorted(found)


_MACHINES = {"tests/guest/": "guests", "tests/peers/": "peers", "tests/integration/": "peers"}
"""Folders whose tests start machines, by the group of which one at a time does."""


def _group(nodeid: str) -> str:
    folder = "/".join(nodeid.split("/")[:2]) + "/"
    return _MACHINES.get(folder, nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start machines, which take longest."""
    groups = list(_MACHINES.values())
    items.sort(key=lambda item: groups.index(group) if (group := _group(item.nodeid)) in groups else len(groups))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have one worker run each group of tests that start machines, and then what there is beside, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _logging_is_not_handed_on() -> Iterator[None]:
    """Take back what a program that a test has run in its own process did to all logging."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, log.Formatter)]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    shared, descriptors = {path.name for path in _SHM.glob("busvm-*")}, _descriptors()
    yield
    deadline = time.monotonic() + _SETTLE_S
    while (left := _ours()) and time.monotonic() < deadline:
        time.sleep(0.1)
    faults = [f"process {p.pid}: {' '.join(p.cmdline())}" for p in left if p.is_running()]
    faults += [f"/dev/shm/{name}" for name in _abandoned_shm(shared)]
    faults += [f"descriptor of {target}" for target in _descriptors() if target not in descriptors]
    runtime = Path(os.environ["XDG_RUNTIME_DIR"], "busvm")
    faults += [f"runtime folder {path}" for path in runtime.iterdir()] if runtime.is_dir() else []
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    assert not faults, "left behind:\n" + "\n".join(faults)


class Cli:
    """The ``orchestrator`` command in a folder of its own; what it starts in the background ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = dict(os.environ)
        self.started: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "orchestrator", *arguments]

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command with pipes."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def write(self, name: str, lines: Sequence[str] | str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(lines if isinstance(lines, str) else "\n".join(lines) + "\n")
        return path

    def disk(self, name: str = "disk.img", size: int = 1 << 20) -> Path:
        """Make an empty disk image in the folder."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def close(self) -> None:
        """End whatever is left."""
        self.run("down", "--all", "-t", "0")
        for process in self.started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """Return the command line in an empty folder."""
    cli = Cli(tmp_path)
    yield cli
    cli.close()
