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

from orchestrator.forks import Fork, Forks
from orchestrator.plan import Process
from orchestrator.record import RUNNING, Entry, start_time
from protocol.errors import HostError
from protocol.memory import SHM

_READY_S = 10.0
KILL_S = 3.0  # from SIGTERM to SIGKILL
_POLL_S = 0.02
_ROOM_LEAST = 1 << 20
_SANDBOX = ", for it made a system call that its sandbox forbids (docs/security.md)"

Started = subprocess.Popen[bytes] | Fork


class Child:
    """A running process, ours or adopted from an orchestrator that died."""

    def __init__(self, process: Process, entry: Entry, started: Started | None, log_from: int) -> None:
        self.process = process
        self.entry = entry
        self.log_from = log_from
        """Where in the log file this incarnation's lines begin."""
        self.began = time.monotonic()
        self.status: int | None = None
        self._started = started
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
        another parent, which is told its status, and so has a fork whose server is gone; ``status`` stays ``None``.
        """
        started, self._started = self._started, None
        if started is None or (isinstance(started, Fork) and not started.is_kept):
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(started.pid, signal.SIGKILL)
        self.status = started.wait()

    def close(self) -> None:
        """Forget it."""
        with suppress(RuntimeError):  # its event loop has ended
            self._unwatch()
        os.close(self._pidfd)


def start(
    process: Process, *, extra: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (), forks: Forks | None = None
) -> Child:
    """Start ``process``, as a fork if it can be one.

    Raises:
        HostError: its program or its log file cannot be used.
    """
    log = Path(process.log)
    try:
        with log.open("ab") as file:
            log_from = file.tell()
            argv, env = [*process.argv, *extra], environment(process)
            started: Started | None = None
            if forks is not None:
                started = forks.start(process, argv, file.fileno(), env, pass_fds)
            if started is None:
                started = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=process.cwd,
                    env=env,
                    pass_fds=pass_fds,
                    start_new_session=True,
                )
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else process.argv[0]
        raise HostError(f"cannot start {process.id}: {what}: {error.strerror}") from error
    entry = Entry(process.id, RUNNING, started.pid, start_time(started.pid) or 0)
    return Child(process, entry, started, log_from)


async def end(child: Child) -> None:
    """End a process for good, by SIGKILL if it does not follow SIGTERM soon, and forget it."""
    import asyncio

    child.entry.signal(signal.SIGTERM)
    deadline = time.monotonic() + KILL_S
    while not child.has_ended and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
    child.entry.signal(signal.SIGKILL)
    child.reap()
    child.close()


def environment(process: Process) -> dict[str, str]:
    """Return the environment of a process of the plan."""
    return {**os.environ, **process.env}


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


def unrecorded(process: Process, last: Entry) -> Entry:
    """Return the entry of a process that was started by an orchestrator that died before it could record that.

    It is known by its command, of which the address of the VM's bus is a part. Without one, ``last`` is returned.
    """
    wanted = [os.fsencode(word) for word in process.argv]
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == last.pid:
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")[:-1]
            is_ours = words[: len(wanted)] == wanted and os.stat(f"/proc/{name}").st_uid == os.getuid()
        except OSError:
            continue
        more = words[len(wanted) :]
        started = start_time(int(name))
        if (
            is_ours
            and started
            and all(word.startswith((b"--spare=", b"--beside=", b"--print-address=")) for word in more)
        ):
            return Entry(process.id, RUNNING, int(name), started, last.restarts + 1)
    return last


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


def _shortage() -> str:
    """Say what a process lacked that touched a page for which the host had no memory, if it was that."""
    room = os.statvfs(SHM)
    return f": {SHM} is full, see vm.prealloc" if room.f_bavail * room.f_frsize < _ROOM_LEAST else ""


def status_text(status: int | None) -> str:
    """Say how a process ended."""
    if status is None:
        return "ended"
    if status < 0:
        try:
            name = signal.Signals(-status).name
            why = _SANDBOX if -status == signal.SIGSYS else _shortage() if -status == signal.SIGBUS else ""
            return f"was killed by {name}{why}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"
