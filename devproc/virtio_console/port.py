"""One port on the host's side: a socket with one client at a time, and what waits for it.

A console never makes the guest wait: what nobody reads is kept, the newest 64 KiB, for who comes next. A named port
keeps the guest's buffers until its client has taken them, and says to the guest whether there is one.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from devproc.listening import Socket

KEPT = 1 << 16
_CHUNK = 1 << 16


@dataclass(frozen=True)
class PortConfig:
    """A port: its number, where clients connect, and its name; the console has none."""

    number: int
    path: Path | None = None
    name: str = ""

    @property
    def is_console(self) -> bool:
        """Whether it is a terminal."""
        return not self.name


class Port:
    """The host's side of a port."""

    def __init__(self, config: PortConfig) -> None:
        """Listen.

        Raises:
            HostError: its socket cannot be made.
        """
        self.config = config
        self.listener = Socket.at(config.path) if config.path else None
        if self.listener:
            self.listener.socket.setblocking(False)
        self.client: socket.socket | None = None
        self.input: bytes = b""
        """Read from the client, and not yet given to the guest."""
        self._output: deque[bytes] = deque()
        self._waiting = 0

    # clients

    def accept(self) -> socket.socket | None:
        """Return a new client; while there is one already, whoever comes is turned away."""
        assert self.listener is not None
        try:
            found = self.listener.accept()
        except OSError:
            return None
        if self.client is not None:
            found.close()
            return None
        found.setblocking(False)
        self.client, self.input = found, b""
        return found

    def hang_up(self) -> None:
        """Close the client."""
        if self.client is not None:
            self.client.close()
            self.client = None
            self.input = b""
            if not self.config.is_console:
                self._output.clear()
                self._waiting = 0

    def close(self) -> None:
        """Close everything."""
        self.hang_up()
        if self.listener:
            self.listener.close()

    # from the client to the guest

    def fill(self) -> bool:
        """Read from the client unless something waits; tell whether it is still there."""
        if self.client is None or self.input:
            return self.client is not None
        try:
            self.input = self.client.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(self.input)

    def take(self, count: int) -> bytes:
        """Take up to ``count`` bytes of input."""
        taken, self.input = self.input[:count], self.input[count:]
        return taken

    # from the guest to the client

    def must_wait(self) -> bool:
        """Whether the guest has to wait until the client has taken what there is."""
        return self._waiting > 0 and not self.config.is_console

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        return self._waiting

    def put(self, data: bytes) -> None:
        """Send output as far as the client takes it, and keep the rest."""
        self._output.append(data)
        self._waiting += len(data)
        self.flush()
        while self.config.is_console and self._output and self._waiting - len(self._output[0]) >= KEPT:
            self._waiting -= len(self._output.popleft())

    def flush(self) -> bool:
        """Send what waits; tell whether the client is still there."""
        while self._output and self.client is not None:
            data = self._output[0]
            try:
                sent = self.client.send(data)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._waiting -= sent
            if sent == len(data):
                self._output.popleft()
            else:
                self._output[0] = data[sent:]
        return self.client is not None
