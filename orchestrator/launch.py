"""Brings the processes of a VM up, or finds those that an orchestrator which died has left running.

Without an event loop, so that the machine is on its way before the orchestrator has loaded the rest of itself.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from orchestrator import bus_daemon, leftovers, record, sandboxes, spawn
from orchestrator.forks import Forks
from orchestrator.lock import CALL, Lock
from orchestrator.plan import BUS, CPU, Plan, Process
from orchestrator.record import BY_HAND, RUNNING, UNPLUGGED, Entry, Record
from orchestrator.spawn import Child
from protocol.errors import HostError
from protocol.memory import SHM
from protocol.names import Runtime
from protocol.sizes import format_size

logger = logging.getLogger(__name__)

SERVICE_S = 5.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAVE_S = 1.0


@dataclass
class Running:
    """A VM that this process supervises."""

    plan: Plan
    runtime: Runtime
    lock: Lock
    record: Record
    children: dict[str, Child] = field(default_factory=dict)
    adopted: bool = False
    forks: Forks | None = None
    unsaved: str = ""
    """Why the record on disk is older than this one."""
    _retries: bool = False

    def save(self) -> None:
        """Write the record; what a full disk does not take stops nobody, and is written as soon as it does."""
        try:
            self.record.write(self.runtime)
        except OSError as error:
            if not self.unsaved:
                logger.warning("cannot write %s: %s", self.runtime.plan, error.strerror)
            self.unsaved = error.strerror or type(error).__name__
            self._save_later()
        else:
            self.unsaved = ""

    def _save_later(self) -> None:
        import asyncio

        if not self._retries:
            with suppress(RuntimeError):  # no event loop yet: `fresh` fails, and whoever takes over changes more
                asyncio.get_running_loop().call_later(_SAVE_S, self._save_again)
                self._retries = True

    def _save_again(self) -> None:
        self._retries = False
        if self.unsaved:
            self.save()

    def start(self, name: str, standing_by: Child | None = None) -> Child:
        """Start the process ``name`` of the plan, if it does not stand by already, and record it."""
        process = self.plan.process(name)
        if name == BUS:
            bus_daemon.prepare(self.runtime, monitor=self.plan.monitor)
        with _unwinding:
            child = standing_by or (spawn.start_bus(process) if name == BUS else spawn.start(process, forks=self.forks))
            child.entry.restarts = self.record.entries[name].restarts
            self.keep(child)
        if name == BUS:
            self.runtime.bus_socket.chmod(0o600)  # dbus-daemon opens it to all and trusts its own check alone
        logger.info("started %s, pid %d: %s", name, child.entry.pid, process.command)
        return child

    def fork(self) -> None:
        """Have device processes be forks from here on, if that is wanted."""
        if self.plan.forks:
            self.forks = Forks(self.plan.restartable, self.runtime.logs / "forks.log")
            self.forks.begin()

    def keep(self, child: Child) -> None:
        """Record a process that runs."""
        self.children[child.process.id] = child
        self.record.entries[child.process.id] = child.entry
        self.save()

    def note(self, name: str, state: str, note: str = "") -> None:
        """Record what became of a process."""
        entry = self.record.entries[name]
        entry.state, entry.note = state, note
        if state != RUNNING:
            entry.pid = 0
        self.save()

    def add(self, processes: Collection[Process]) -> None:
        """Take the processes of one more device into the plan; none of them runs yet."""
        self.plan = self.record.plan = self.plan.with_added(processes)
        for process in processes:
            self.record.entries[process.id] = Entry(process.id, UNPLUGGED)
        self.save()

    def exchange(self, process: Process, back_ends: Collection[Process]) -> None:
        """Have a device be served by another process of the plan, with these back-ends."""
        self.plan = self.record.plan = self.plan.with_exchanged(process, back_ends)
        for back_end in back_ends:
            self.record.entries[back_end.id] = Entry(back_end.id)
        self.save()

    def remove(self, names: Collection[str]) -> None:
        """Forget processes, which have ended."""
        for path in sandboxes.abandoned(s for p in self.plan.processes if p.id in names for s in p.sockets):
            path.unlink(missing_ok=True)
        self.plan = self.record.plan = self.plan.without(names)
        for name in names:
            del self.record.entries[name]
        self.save()

    def end(self) -> None:
        """End every process, the bus last, and take away everything but the logs; nothing interrupts this."""
        for number in (*ENDING_SIGNALS, CALL):
            signal.signal(number, signal.SIG_IGN)
        leftovers.end_processes(self.runtime, self.record.entries.values())
        for child in self.children.values():
            child.reap()
            child.close()
        if self.forks is not None:
            self.forks.close()
        leftovers.remove_files(self.runtime, self.record.sockets)
        self.lock.release()


class _Unwinding:
    """Ends this process by an exception when a signal comes, but never between starting a process and recording it."""

    def __init__(self) -> None:
        self._held = 0
        self._pending = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self._pending = number
        if not self._held:
            raise SystemExit(128 + number)

    def __enter__(self) -> None:
        self._held += 1

    def __exit__(self, *_exception: object) -> None:
        self._held -= 1
        if self._pending and not self._held:
            raise SystemExit(128 + self._pending)


_unwinding = _Unwinding()


def unwind_on_signals() -> None:
    """Make a signal unwind this process from here on, so that what it has started is taken down."""
    for number in ENDING_SIGNALS:
        signal.signal(number, _unwinding)


def check_room(plan: Plan) -> None:
    """Check that RAM fits into /dev/shm, before anything is started.

    Raises:
        HostError: it does not.
    """
    room = os.statvfs(SHM)
    free = room.f_bavail * room.f_frsize
    if free < plan.memory:
        raise HostError(
            f"no space in {SHM}: the VM's memory is {format_size(plan.memory)}, {free >> 20} MiB are free",
            hint="lower vm.memory, or enlarge it: mount -o remount,size=… " + str(SHM),
        )


def rotate_logs(plan: Plan) -> None:
    """Keep the logs of the run before as ``*.log.1``, so that a log is of one run."""
    if not plan.processes:
        return
    folder = os.path.dirname(plan.processes[0].log)
    for name in os.listdir(folder):
        if name.endswith(".log"):
            os.replace(f"{folder}/{name}", f"{folder}/{name}.1")


def fresh(plan: Plan, runtime: Runtime, lock: Lock) -> Running:
    """Start all processes; whatever goes wrong, none stays.

    Raises:
        HostError: the host lacks something.
    """
    running = Running(plan, runtime, lock, Record.new(plan))
    try:
        check_room(plan)
        running.record.write(runtime)
        running.fork()
        running.start(BUS)
        running.start(CPU)
        waited = False
        for device in plan.restartable:
            if not device.plugged:
                running.note(device.id, UNPLUGGED)
            elif device.start == "attach":
                running.note(device.id, BY_HAND)
            else:
                if device.slot is not None and not waited:
                    waited = True
                    _await_services(running)
                running.start(device.id)
        if running.unsaved:
            raise HostError(f"cannot write {runtime.plan}: {running.unsaved}")
    except BaseException:
        running.end()
        raise
    return running


def _await_services(running: Running) -> None:
    """Wait until devices can join what is to serve them: a device that comes first would have to be started again."""
    deadline = time.monotonic() + SERVICE_S
    for process in running.plan.processes:
        while process.listens is not None and not os.path.exists(process.listens):
            if time.monotonic() > deadline or not running.record.entries[process.id].is_alive():
                return  # its log says why; the devices say that they miss it
            time.sleep(0.01)


def found(earlier: Record, runtime: Runtime, lock: Lock) -> Running | None:
    """Take over what ``earlier`` says, if its machine still runs."""
    running = Running(earlier.plan, runtime, lock, earlier, adopted=True)
    earlier.orchestrator = record.ourselves()
    for process in earlier.plan.processes:
        entry = earlier.entries[process.id]
        child = spawn.adopt(process, entry)
        if child is None and entry.state not in (BY_HAND, UNPLUGGED):
            child = spawn.adopt(process, spawn.unrecorded(process, entry))
        if child is not None:
            earlier.entries[process.id] = child.entry
            running.children[process.id] = child
    if CPU not in running.children:
        for child in running.children.values():
            child.close()
        return None
    running.save()
    return running
