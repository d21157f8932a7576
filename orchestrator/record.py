"""What runs, on disk: plan.json in the VM's folder, by which a later command finds the processes again.

A process is known by its pid, its start time in ticks since boot, and the boot: a pid that a stranger has now is
never taken for ours, and never signalled.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import folder
from orchestrator.plan import Plan
from protocol.names import Runtime

RUNNING, RESTARTING, ENDED, FAILED, BY_HAND = "running", "restarting", "ended", "failed", "by-hand"
UNPLUGGED = "unplugged"
_VERSION = 1


def boot_id() -> str:
    """Return the host's identifier of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when process ``pid`` started, in ticks since boot; ``None`` if it is gone or has ended unreaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


@dataclass
class Entry:
    """One process as it is now; ``pid`` 0 is none."""

    id: str
    state: str = ENDED
    pid: int = 0
    started: int = 0
    restarts: int = 0
    note: str = ""

    def is_alive(self) -> bool:
        """Tell whether that very process runs."""
        return self.pid > 0 and start_time(self.pid) == self.started

    def open(self) -> int | None:
        """Return a pidfd of that very process, or ``None`` if it is gone."""
        if self.pid <= 0:
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):
                return None
            raise
        if self.is_alive():  # looked at after the opening: the descriptor is of this process
            return fd
        os.close(fd)
        return None

    def signal(self, number: int) -> bool:
        """Send a signal to that very process; tell whether it was there."""
        fd = self.open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except (ProcessLookupError, PermissionError):
            return False
        finally:
            os.close(fd)
        return True


@dataclass
class Record:
    """The plan and the processes; written whole at every change."""

    plan: Plan
    orchestrator: Entry
    entries: dict[str, Entry] = field(default_factory=dict)
    boot: str = ""

    @classmethod
    def new(cls, plan: Plan) -> Record:
        """Return the record of a VM of which nothing runs yet."""
        return cls(plan, ourselves(), {p.id: Entry(p.id) for p in plan.processes}, boot_id())

    @classmethod
    def read(cls, runtime: Runtime) -> Record | None:
        """Return the record of a VM; ``None`` if there is none of this boot and of this version."""
        try:
            value = json.loads(runtime.plan.read_text())
            if value["version"] != _VERSION or value["boot"] != boot_id():
                return None
            entries = {e["id"]: Entry(**e) for e in value["entries"]}
            return cls(Plan.from_json(value["plan"]), Entry(**value["orchestrator"]), entries, value["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, runtime: Runtime) -> None:
        """Replace plan.json.

        Raises:
            OSError: that does not go; it is as it was.
        """
        value: dict[str, Any] = {
            "version": _VERSION,
            "boot": self.boot,
            "plan": self.plan.to_json(),
            "orchestrator": asdict(self.orchestrator),
            "entries": [asdict(entry) for entry in self.entries.values()],
        }
        with suppress(FileNotFoundError):  # the folder goes away at the end of the VM
            folder.put(runtime.plan, json.dumps(value, indent=1))

    @property
    def sockets(self) -> list[str]:
        """Where its processes listen, outside of the VM's folder."""
        return [path for process in self.plan.processes for path in process.sockets]

    def alive(self) -> list[Entry]:
        """Return the entries whose process runs."""
        return [entry for entry in self.entries.values() if entry.is_alive()]


def ourselves() -> Entry:
    """Return the entry of this process."""
    return Entry("orchestrator", RUNNING, os.getpid(), start_time(os.getpid()) or 0)


def end(entries: Iterable[Entry], *, grace_s: float) -> None:
    """End processes: SIGTERM, then after ``grace_s`` SIGKILL, to them and whatever they started; returns when gone.

    Each process leads a group. The group is signalled while its leader is known to be there, so never a stranger's.
    """
    opened = [(entry, fd) for entry in entries if (fd := entry.open()) is not None]
    try:
        for entry, _ in opened:
            entry.signal(signal.SIGTERM)
            entry.signal(signal.SIGCONT)  # one that a debugger or Ctrl-Z has stopped has to hear it
        left = _wait(opened, grace_s)
        for entry, _ in left:
            if entry.is_alive():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(entry.pid, signal.SIGKILL)
                entry.signal(signal.SIGKILL)
        _wait(left, 5.0)
    finally:
        for _, fd in opened:
            os.close(fd)


def _wait(opened: list[tuple[Entry, int]], timeout_s: float) -> list[tuple[Entry, int]]:
    """Return those that still run after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    left = list(opened)
    while left:
        poll = select.poll()
        for _, fd in left:
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))}
        left = [(entry, fd) for entry, fd in left if fd not in ready]
        if not ready and time.monotonic() >= deadline:
            break
    return left
