"""Processes that stand by for devices: started and imported, without a name, a lock or a page, they wait at a socket.

One byte lets such a process become the device; that the socket is closed ends it, so that none outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time

from orchestrator import faults, spawn
from orchestrator.launch import Running
from orchestrator.record import UNPLUGGED
from orchestrator.spawn import Child
from protocol.errors import BusvmError, HostError

logger = logging.getLogger(__name__)


class Spares:
    """The processes that stand by in one VM, by the device they wait for."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._waiting: dict[str, tuple[Child, socket.socket]] = {}

    def start(self, name: str, *, anyway: bool = False) -> None:
        """Have a process stand by for ``name``, if that is wanted and none does; without one all goes on, slower."""
        entry = self._running.record.entries.get(name)
        if name in self._waiting or entry is None or entry.state == UNPLUGGED:
            return
        process = self._running.plan.process(name)
        if not (process.spare or anyway):
            return
        ours, theirs = socket.socketpair()
        try:
            extra, forks = (f"--spare={theirs.fileno()}",), self._running.forks
            child = spawn.start(process, extra=extra, pass_fds=(theirs.fileno(),), forks=forks)
        except HostError as error:
            logger.warning("nobody stands by for %s: %s", name, error.message)
            ours.close()
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._waiting[name] = child, ours
        logger.info("%s has pid %d standing by", name, child.entry.pid)

    def take(self, name: str) -> Child | None:
        """Let the process that stands by for ``name`` go to work, and return it; ``None`` if there is none."""
        if name not in self._waiting:
            return None
        child, ours = self._waiting[name]
        if child.has_ended:
            self.forget(name)
            return None
        del self._waiting[name]
        ours.send(b"\n")
        ours.close()
        child.began = time.monotonic()
        return child

    async def loaded(self, name: str, timeout_s: float) -> None:
        """Return when the process that stands by for ``name`` has loaded everything.

        Raises:
            BusvmError: there is none, or it ended, or takes too long.
        """
        if name not in self._waiting:
            raise BusvmError(f"no process can be started for {name}")
        child, ours = self._waiting[name]
        try:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1), timeout_s)
        except TimeoutError:
            said = b""
        if not said:
            words = faults.reason(spawn.tail(child))
            self.forget(name)
            raise BusvmError(f"the new process does not load: {words}")

    def forget(self, name: str) -> None:
        """End the process that stands by for ``name``, if one does."""
        if name in self._waiting:
            child, ours = self._waiting.pop(name)
            ours.close()
            child.reap()
            child.close()

    def close(self) -> None:
        """End all."""
        for name in list(self._waiting):
            self.forget(name)
