"""``python -m orchestrator.attend --vm NAME``: the bus, the record and the end of a VM whose processes others start.

In containers the engine starts and restarts the processes; somebody has to do the rest of what a supervisor does. This
takes away what an earlier machine left, keeps the dbus-daemon running, writes down who is there, so that the commands
of ``orchestrator`` find the VM, and ends the others when the machine has ended. It knows no vm.toml: who is on the bus
is the VM. Killed, it leaves a VM that runs on; the next one takes that over.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress

from orchestrator import launch, leftovers, orders, output, plan, requests, spawn
from orchestrator.launch import ENDING_SIGNALS, Running
from orchestrator.lock import CALL, Lock
from orchestrator.plan import BUS, CPU, Plan, Process
from orchestrator.record import ENDED, RUNNING, Entry, Record, start_time
from orchestrator.restart import Again, Policy
from orchestrator.spawn import Child
from protocol import log, names
from protocol.bus import Bus
from protocol.errors import BusvmError
from protocol.memory import SHM
from protocol.names import Runtime
from protocol.staying import stay
from protocol.tasks import Tasks

logger = logging.getLogger(__name__)

_KINDS = {
    names.DEVICE_NAME_PREFIX: "device",
    names.HUB_NAME_PREFIX: "hub",
    names.IVSHMEM_NAME_PREFIX: "service",
}
_REAP_S = 1.0


class Attendant:
    """Attends one VM; belongs to one event loop."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._bus: Bus | None = None
        self._policy = Policy("always")
        self._tasks = Tasks()
        self._machine = -1  # pidfd

    async def run(self) -> int | None:
        """Attend until the machine has ended, and return its status; ``None`` if it left none."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int | None] = loop.create_future()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self._finish, 0)
        loop.add_signal_handler(CALL, self._serve_requests)
        self._running.children[BUS].watch(self._bus_ended)
        if os.getpid() == 1:  # of a container: orphans of all are its children
            self._tasks.start(self._reap())
        try:
            self._watch_machine()
            self._bus = await Bus.connect(self._running.runtime.bus_address)
            await self._bus.watch_names(self._on_name)
            await self._greet()
            self._tasks.start(stay(self._bus, back=self._greet))
            self._serve_requests()
            return await self._ended
        finally:
            self._tasks.cancel()
            if self._machine >= 0:
                loop.remove_reader(self._machine)
                os.close(self._machine)
            if self._bus is not None:
                self._bus.close()

    def _finish(self, status: int | None) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    # who is there

    async def _greet(self) -> None:
        assert self._bus is not None
        async for name, owner in self._bus.owned(lambda name: _part(name)[1]):
            await self._learn(name, owner)

    def _on_name(self, name: str, _old: str, new: str) -> None:
        part = _part(name)[1]
        if part and new:
            self._tasks.start(self._learn(name, new))
        elif part:
            self._missing(part)

    async def _learn(self, name: str, owner: str) -> None:
        kind, part = _part(name)
        assert self._bus is not None
        try:
            pid = await self._bus.peer_pid(owner)
        except (BusvmError, TimeoutError):
            return  # gone again
        entries, started = self._running.record.entries, start_time(pid)
        known = entries.get(part)
        if started is None or (known is not None and (known.pid, known.started) == (pid, started)):
            return
        if known is None:
            self._running.record.plan = self._running.plan = self._running.plan.with_added([_process(part, kind)])
        entries[part] = Entry(part, RUNNING, pid, started, known.restarts + 1 if known else 0)
        self._running.save()
        logger.info("%s is here, pid %d", part, pid)
        if part == CPU:
            self._watch_machine()

    def _missing(self, part: str) -> None:
        entry = self._running.record.entries.get(part)
        if entry is not None and not entry.is_alive():
            logger.info("%s has ended", part)
            self._running.note(part, ENDED)

    # what ends

    def _watch_machine(self) -> None:
        machine = self._running.record.entries.get(CPU)
        fd = machine.open() if machine is not None else None
        if fd is None:
            return
        if self._machine >= 0:
            os.close(fd)
            return
        self._machine = fd
        asyncio.get_running_loop().add_reader(fd, self._machine_ended)

    def _machine_ended(self) -> None:
        try:
            status: int | None = int(self._running.runtime.status.read_text())
        except (OSError, ValueError):
            status = None
        logger.info("the machine has ended %s", "without a word" if status is None else f"with status {status}")
        self._finish(status)

    def _bus_ended(self, child: Child) -> None:
        decision = self._policy.ended(child.status, time.monotonic() - child.began)
        assert isinstance(decision, Again)
        logger.warning("the bus %s; starting it again", spawn.status_text(child.status))
        child.close()
        self._tasks.start(self._bus_again(decision.delay_s))

    async def _bus_again(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._running.record.entries[BUS].restarts += 1
        try:
            self._running.start(BUS).watch(self._bus_ended)
        except BusvmError as error:
            logger.error("%s", error.message)
            self._finish(None)

    async def _reap(self) -> None:
        bus = self._running.children
        while True:
            await asyncio.sleep(_REAP_S)
            with suppress(ChildProcessError):
                while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    if found.si_pid == bus[BUS].entry.pid:
                        break  # whoever watches it takes its status
                    os.waitpid(found.si_pid, os.WNOHANG)

    def _serve_requests(self) -> None:
        """Kill what ``orchestrator restart`` wants anew, so that the engine starts it; nothing else is done here."""
        for order in orders.take(self._running.runtime):
            order.answer(BusvmError(f"nobody here can {order.verb}", hint="a device that runs plugs itself in: --bus"))
        for name in requests.take(self._running.runtime):
            entry = self._running.record.entries.get(name)
            if entry is not None and name not in (BUS, CPU):
                entry.signal(signal.SIGKILL)

    def end_others(self, *, failed: bool) -> None:
        """End who is left; ``failed``: as after a failure, so that an engine starts them all again."""
        if failed:
            for entry in self._running.record.entries.values():
                if entry.id != BUS:
                    entry.signal(signal.SIGKILL)
        self._running.end()


def _part(name: str) -> tuple[str, str]:
    """Return kind and id of the part of a VM that has a bus name; both are empty of other names."""
    if name == names.MACHINE_NAME:
        return CPU, CPU
    kind = next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), "")
    return (kind, name.rpartition(".")[2]) if kind else ("", "")


def _process(part: str, kind: str) -> Process:
    """Return the entry in the plan of what somebody else has started."""
    slot, serves = ("", None) if kind == "device" else (None, None if kind == CPU else kind)
    return Process(part, "" if kind == "device" else kind, (), "", restart="always", slot=slot, serves=serves)


def _begin(runtime: Runtime, held: Lock, *, monitor: bool) -> Running:
    """Start the bus of a new VM, or of one whose machine runs."""
    bus = Process(BUS, BUS, plan.bus_command(runtime), str(runtime.logs / "bus.log"))
    earlier = Record.read(runtime)
    if earlier is not None and CPU in earlier.entries and earlier.entries[CPU].is_alive():
        running = launch.found(earlier, runtime, held)
        assert running is not None
        logger.info("the machine runs already; its bus is started again")
    else:
        removed = leftovers.clean(runtime, earlier)
        if removed:
            logger.warning("removed what an earlier machine had left: %s", ", ".join(removed))
        planned = Plan(runtime.vm, None, 0, runtime.bus_address, (bus,), monitor=monitor)
        running = Running(planned, runtime, held, Record.new(planned))
    if BUS not in running.children:
        running.start(BUS)
    return running


def main(arguments: list[str] | None = None) -> int:
    """Attend a VM; return the machine's exit status, 1 if it left none."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.attend", description="Attend a VM in containers.")
    parser.add_argument("--vm", metavar="NAME", required=True, help="name of the VM")
    parser.add_argument("--monitor", action="store_true", help="let everybody on its bus listen (vm.bus-monitor)")
    parser.add_argument(
        "--fail-together",
        action="store_true",
        help="when the machine fails have all others fail, so that an engine starts the whole VM again",
    )
    options = parser.parse_args(arguments)
    runtime = output.runtime_of(parser, options.vm)
    log.setup(vm=options.vm, dev="-", epoch=0)
    os.umask(0o077)
    launch.unwind_on_signals()
    try:
        if not SHM.is_dir():
            names.private_folder(SHM)
        held = Lock.take(runtime)
        attendant = Attendant(_begin(runtime, held, monitor=options.monitor))
        status = asyncio.run(attendant.run())
        attendant.end_others(failed=options.fail_together and status != 0)
    except BusvmError as error:
        return output.failed(error)
    return 1 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
