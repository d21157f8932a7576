"""Addresses of sockets, as people write them: ``unix:PATH`` or ``HOST:PORT``."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError


@dataclass(frozen=True)
class Address:
    """A path, or host and port."""

    path: Path | None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that ``text`` is; the host may be a number only, and is this one if it is left out.

        Raises:
            ConfigError: it is none.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(Path(text.removeprefix("unix:")))
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
        if not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16 or not _is_number(host):
            raise ConfigError(f"{text!r} is no address", hint="unix:PATH or NUMBER:PORT, such as 127.0.0.1:5000")
        return cls(None, host, int(port))

    @property
    def family(self) -> socket.AddressFamily:
        """What socket it is of."""
        if self.path:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def place(self) -> str | tuple[str, int]:
        """What ``bind`` and ``connect`` take."""
        return str(self.path) if self.path else (self.host, self.port)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def _is_number(host: str) -> bool:
    """Return whether it is an address and no name: a device process looks nothing up."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True
