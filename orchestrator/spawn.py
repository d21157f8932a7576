"""Starts a process of the plan: own session and process group, output to its log file, known by a pidfd."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.plan import Process
from orchestrator.record import RUNNING, Entry, start_time
from protocol.errors import HostError

_READY_S = 10.0
_SANDBOX = ", for it made a system call that its sandbox forbids (docs/security.md)"


class Child:
    """A running process, ours or adopted from an orchestrator that died."""

    def __init__(self, process: Process, entry: Entry, popen: subprocess.Popen[bytes] | None, log_from: int) -> None:
        self.process = process
        self.entry = entry
        self.log_from = log_from
        """Where in the log file this incarnation's lines begin."""
        self.began = time.monotonic()
        self.status: int | None = None
        self._popen = popen
        self._pidfd = os.pidfd_open(entry.pid)
        self._unwatch: Callable[[], object] = lambda: None

    @property
    def has_ended(self) -> bool:
        """Tell whether it has ended."""
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def watch(self, on_end: Callable[[Child], None]) -> None:
        """Call ``on_end`` once from the event loop when it has ended."""
        import asyncio

        loop = asyncio.get_running_loop()

        def ended() -> None:
            self._unwatch()
            self.reap()
            on_end(self)

        loop.add_reader(self._pidfd, ended)
        self._unwatch = lambda: loop.remove_reader(self._pidfd)

    def reap(self) -> None:
        """Take the status of an ended process, and end what it left in its group.

        Until the status is taken the pid cannot be a stranger's; afterwards nothing is signalled any more. The pid
        is not asked of the entry, where an ended process has 0: group 0 would be our own. An adopted process has
        another parent, which is told its status; ``status`` stays ``None``.
        """
        if self._popen is not None and self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self.status = self._popen.wait()

    def close(self) -> None:
        """Forget it."""
        with suppress(RuntimeError):  # its event loop has ended
            self._unwatch()
        os.close(self._pidfd)


def start(process: Process, *, extra: tuple[str, ...] = (), pass_fds: tuple[int, ...] = ()) -> Child:
    """Start ``process``.

    Raises:
        HostError: its program or its log file cannot be used.
    """
    log = Path(process.log)
    try:
        with log.open("ab") as file:
            log_from = file.tell()
            popen = subprocess.Popen(
                [*process.argv, *extra],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=process.cwd,
                env={**os.environ, **process.env},
                pass_fds=pass_fds,
                start_new_session=True,
            )
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else process.argv[0]
        raise HostError(f"cannot start {process.id}: {what}: {error.strerror}") from error
    entry = Entry(process.id, RUNNING, popen.pid, start_time(popen.pid) or 0)
    return Child(process, entry, popen, log_from)


def start_bus(process: Process) -> Child:
    """Start the dbus-daemon and return when it listens.

    Raises:
        HostError: it ended, or said nothing.
    """
    reader, writer = os.pipe()
    try:
        try:
            child = start(process, extra=(f"--print-address={writer}",), pass_fds=(writer,))
        finally:
            os.close(writer)
        if select.select([reader], [], [], _READY_S)[0] and os.read(reader, 4096):
            return child
    finally:
        os.close(reader)
    child.entry.signal(signal.SIGKILL)
    child.reap()
    child.close()
    raise HostError(f"the bus did not start: {last_line(child) or 'it said nothing'}")


def adopt(process: Process, entry: Entry) -> Child | None:
    """Watch a process that another orchestrator started; ``None`` if it is gone."""
    if not entry.is_alive():
        return None
    try:
        child = Child(process, entry, None, 0)
    except ProcessLookupError:
        return None
    if not entry.is_alive():
        child.close()
        return None
    return child


def tail(child: Child, most: int = 65536) -> list[str]:
    """Return the last lines that this incarnation wrote."""
    try:
        with Path(child.process.log).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(child.log_from, size - most))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def last_line(child: Child) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(tail(child)) if line.strip()), "")


def status_text(status: int | None) -> str:
    """Say how a process ended."""
    if status is None:
        return "ended"
    if status < 0:
        try:
            name = signal.Signals(-status).name
            return f"was killed by {name}{_SANDBOX if -status == signal.SIGSYS else ''}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"
