"""What a VM uses, process by process: memory, descriptors, threads; its shared memory and its files.

Processes are found by what they were started with, so that those that stand by, and any that should have ended, are
seen as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.record import Record, start_time
from protocol.memory import SHM, shm_name
from protocol.names import Runtime

_FIELDS = {"RssAnon": "own", "VmRSS": "resident", "Threads": "threads"}


@dataclass(frozen=True)
class Process:
    """One process; memory in KiB, ``own`` what is neither a file's nor shared."""

    role: str
    """Its name in ``orchestrator ps``; with ``.spare`` behind it, it stands by."""
    pid: int
    own: int
    resident: int
    proportional: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Usage:
    """All of one VM."""

    processes: tuple[Process, ...]
    shm_kib: int
    """Shared memory beside the guest's, which fills as the guest fills it."""
    shm_names: int
    files: int
    """In its runtime folder: sockets, mostly."""
    log_kib: int


def usage(vm: str) -> Usage:
    """Return what ``vm`` uses now."""
    runtime = Runtime(vm)
    shared = [path.stat().st_blocks // 2 for path in SHM.glob(f"{shm_name(vm, '')}*") if path.suffix != ".ram"]
    logs = [path.stat().st_size // 1024 for path in runtime.logs.glob("*.log")]
    files = len(os.listdir(runtime.folder)) if runtime.folder.is_dir() else 0
    return Usage(tuple(processes(vm)), sum(shared), len(shared), files, sum(logs))


def processes(vm: str) -> Iterator[Process]:
    """Yield the processes of ``vm``."""
    for pid, role in roles(vm).items():
        with suppress(OSError):  # it has ended meanwhile
            yield _process(pid, role)


def roles(vm: str) -> dict[int, str]:
    """Return the pids of ``vm``, each with its role."""
    runtime = Runtime(vm)
    record = Record.read(runtime)
    if record is None:
        return {}
    known = {entry.pid: name for name, entry in record.entries.items()} | {record.orchestrator.pid: "orchestrator"}
    address, own_bus = runtime.bus_address, f"--config-file={runtime.folder}/bus.conf"
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            pid = int(path.parent.name)
            if pid == record.orchestrator.pid:
                found[pid] = "orchestrator"
            elif address in words or own_bus in words:
                found[pid] = known.get(pid) or _of_nobody(words)
    return found


def _of_nobody(words: list[str]) -> str:
    """Return the role of a process that is not recorded."""
    name = words[words.index("--id") + 1] if "--id" in words else words[0]
    return f"{name}.spare" if any(word.startswith("--spare=") for word in words) else f"{name}.unknown"


def _process(pid: int, role: str) -> Process:
    folder = Path(f"/proc/{pid}")
    values = {"own": 0, "resident": 0, "threads": 0}
    for name, value in re.findall(r"^(\w+):\s+(\d+)", (folder / "status").read_text(), re.MULTILINE):
        if name in _FIELDS:
            values[_FIELDS[name]] = int(value)
    descriptors = len(os.listdir(folder / "fd"))
    return Process(role, pid, proportional=pss_kib(pid), descriptors=descriptors, **values)


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process, so that what several share is counted once."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def ran_s(pid: int) -> float:
    """Return for how many seconds the threads of a process have run."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def runs(pid: int) -> bool:
    """Tell whether a process runs."""
    return start_time(pid) is not None
