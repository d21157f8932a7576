"""Processes that are to take the place of others: started beside those that serve, told when they are wanted.

A newcomer says on its socket by which name of the bus it is reached, once it has opened what it needs. That the socket
is closed ends it, unless it serves by then.
"""

from __future__ import annotations

import asyncio
import select
import socket

from orchestrator import faults, spawn
from orchestrator.forks import Forks
from orchestrator.plan import Process
from orchestrator.spawn import Child
from protocol.errors import BusvmError, HostError

READY_S = 30.0
_NAME_MAX = 256
_END_S = 0.1  # from the last word to the end


class Newcomer:
    """A process beside the one that serves."""

    def __init__(self, process: Process, forks: Forks | None) -> None:
        """Start it.

        Raises:
            HostError: its program or its log file cannot be used.
        """
        self._ours, theirs = socket.socketpair()
        try:
            beside = f"--beside={theirs.fileno()}"
            self.child: Child = spawn.start(process, extra=(beside,), pass_fds=(theirs.fileno(),), forks=forks)
        except HostError:
            self._ours.close()
            raise
        finally:
            theirs.close()
        self._ours.setblocking(False)

    async def ready(self) -> str:
        """Return its name on the bus once it is loaded and open.

        Raises:
            BusvmError: it ended, with what it said, or does not come.
        """
        loop = asyncio.get_running_loop()
        try:
            said = await asyncio.wait_for(loop.sock_recv(self._ours, _NAME_MAX), READY_S)
        except TimeoutError as error:
            raise BusvmError(f"the new process is not ready in {READY_S:.0f} s", hint=self.last_words) from error
        name = said.decode(errors="replace").strip()
        if not name.startswith(":"):
            raise BusvmError(
                f"the new process ended: {self.last_words}" if self.last_words else "the new process ended"
            )
        return name

    def explain(self, error: BusvmError) -> None:
        """Say what it ended with, if that is why it did not come to serve."""
        if select.select([self._ours], [], [], _END_S)[0] and self.last_words:
            error.message = f"the new process ended: {self.last_words}"

    @property
    def last_words(self) -> str:
        """What it said last, in one line; its error rather than what came after that."""
        return faults.reason(spawn.tail(self.child))

    def accept(self) -> Child:
        """Return the process, which serves now and is the caller's."""
        self._ours.close()
        return self.child

    async def dismiss(self) -> None:
        """End it: nobody needs it."""
        self._ours.close()
        await spawn.end(self.child)
