"""Starts device processes as forks of one that has loaded what they need (``devproc.fork_server``), where that goes.

Where it does not, which nothing depends on, the caller starts them as any program.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator.plan import Process, environment
from protocol import forks
from protocol.forks import Ended, Reap, Start

logger = logging.getLogger(__name__)

_MODULE = "devproc.fork_server"
_LOAD_S = 10.0  # for Python with its imports, on a loaded host
_ANSWER_S = 2.0


class OutdatedError(OSError):
    """The server has loaded what has changed since."""


class Fork:
    """A process that a fork server started, as ``subprocess.Popen`` has one."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server

    @property
    def is_kept(self) -> bool:
        """Whether its pid is its own until ``wait``."""
        return not self._server.has_ended

    def wait(self) -> int | None:
        """Take the status of the process, which has ended or does so now; ``None`` if its server has too."""
        return self._server.reap(self.pid)


class ForkServer:
    """One fork server."""

    def __init__(self, modules: Iterable[str], log: Path) -> None:
        """Start it; it loads while others are started.

        Raises:
            OSError: the host lacks something.
        """
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), *modules]
        try:
            with theirs, log.open("ab") as file:
                self._popen = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **environment()},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError:
            self._line.close()
            raise
        self._line.settimeout(_LOAD_S)
        self.loaded = False

    def start(self, process: Process, argv: list[str], output: int, env: dict[str, str], fds: Collection[int]) -> Fork:
        """Start ``process``.

        Raises:
            ProcessLookupError: there can be no such process.
            OSError: this server does not do it any more, and has left no such process.
        """
        if not self.loaded and self._line.recv(len(forks.READY)) != forks.READY:
            raise ConnectionResetError("it does not load")
        self.loaded = True
        self._line.settimeout(_ANSWER_S)
        words = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        order = Start([os.fsencode(word) for word in argv], os.fsencode(process.cwd or ""), words, list(fds))
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                forks.send(self._line, order, (theirs.fileno(), output, *fds))
            ours.settimeout(_ANSWER_S)
            said = ours.recv(16)
            if not said and self._hung_up():
                raise ConnectionResetError("it has ended")
            if not said:
                raise ProcessLookupError("there can be no such process")
            if said == forks.OUTDATED:
                raise OutdatedError("it has loaded what has changed since")
            ours.send(forks.GO)
        return Fork(self, int(said))

    def _hung_up(self) -> bool:
        return bool(select.select([self._line], [], [], 0)[0])  # it says nothing that was not asked for

    def reap(self, pid: int) -> int | None:
        """Return the status of a process that has ended."""
        try:
            forks.send(self._line, Reap(pid))
            answer, _ = forks.receive(self._line)
        except OSError:
            self.end()
            return None
        return answer.status if isinstance(answer, Ended) else None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def end(self) -> None:
        """End it; whom it has started goes on."""
        self._line.close()
        with suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()


class Forks:
    """The fork server of a VM: there as long as the orchestrator is, and replaced when it is not or is outdated."""

    def __init__(self, processes: Collection[Process], log: Path) -> None:
        self._modules = sorted({process.module for process in processes if process.module.startswith("devproc.")})
        self._log = log
        self._servers: list[ForkServer] = []

    def begin(self) -> None:
        """Have a server load."""
        self._servers = [server for server in self._servers if not server.has_ended]
        try:
            self._servers.append(ForkServer(self._modules, self._log))
        except OSError as error:
            logger.warning("no fork server: %s", error)

    def start(
        self, process: Process, argv: list[str], output: int, env: dict[str, str], fds: Collection[int]
    ) -> Fork | None:
        """Start ``process``; ``None`` if the caller has to."""
        if not process.module or not self._servers:
            return None
        server = self._servers[-1]
        try:
            return server.start(process, argv, output, env, fds)
        except OSError as error:
            logger.info("the fork server did not start %s: %s", process.id, error)
            if not isinstance(error, ProcessLookupError):
                if not isinstance(error, OutdatedError):
                    server.end()
                if server.loaded:  # what does not load now would not the next time
                    self.begin()
                else:
                    self._servers.remove(server)
            return None

    def close(self) -> None:
        """End all servers."""
        for server in self._servers:
            server.end()
        self._servers.clear()
