"""A server in the test's own thread or in a process, and who joins it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from devproc.events import EventLoop
from devproc.ivshmem.config import Config
from devproc.ivshmem.service import Service
from protocol.ivshmem import Message, Receiver, Session


class Raw:
    """A client by hand: version 0."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.receiver = Receiver(self.socket)
        self.session = Session()

    def messages(self) -> list[Message]:
        """Return what has arrived; the session has its descriptors."""
        got = []
        while (message := self.receiver.receive()) is not None:
            got.append(message)
            self.session.take(message)
        return got

    def close(self) -> None:
        """Hang up."""
        self.receiver.close()
        self.session.close()
        self.socket.close()


class Rig:
    """A service that is turned by the test."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.now = 0.0
        self.path = folder / "s"
        self.service = Service(Config(self.path, **options), lambda: self.now or time.monotonic())  # type: ignore[arg-type]
        self.clients: list[Raw] = []

    def settle(self) -> None:
        """Turn until nothing is left."""
        while select.select([self.service.descriptors.fd], [], [], 0.01)[0]:
            self.service.turn()

    def join(self) -> Raw:
        """Return a new client that was greeted."""
        client = Raw(self.path)
        self.clients.append(client)
        self.settle()
        return client

    def close(self) -> None:
        """End it."""
        for client in self.clients:
            client.close()
        self.service.close()


class Threaded:
    """A service in a thread, for clients that wait."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.path = folder / "s"
        self.service = Service(Config(self.path, **options))  # type: ignore[arg-type]
        self.loop = EventLoop()
        self.loop.watch(self.service.descriptors.fd, self.service.turn)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self.loop.stopping:
            self.loop.turn(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self._thread.join()
        self.service.close()
        self.loop.close()


class Process:
    """The server as a process; ``start`` again after ``kill``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.path = folder / "s"
        self._options = options
        self.log = folder / "log"
        self.start()

    def start(self) -> None:
        """Start it, and return when it listens."""
        command = [sys.executable, "-m", "devproc.ivshmem.server", "--socket", str(self.path), *self._options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.path.with_name("s.busvm")))
                    return
                except OSError:
                    assert self.process.poll() is None, self.log.read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, which it must do in order."""
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(10) == 0
        assert "Traceback" not in self.log.read_text()


def truncates(fd: int) -> bool:
    """Return whether memory can be made shorter by who has its descriptor."""
    try:
        os.ftruncate(fd, 0)
    except PermissionError:
        return False
    return True
