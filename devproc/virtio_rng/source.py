"""Where random bytes come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from protocol.errors import HostError


class Source(Protocol):
    """A source that never waits."""

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes: fewer, or none, when it has no more now."""

    def close(self) -> None:
        """Close it."""


class Kernel:
    """The host's kernel, which has as many as anybody wants."""

    def read(self, count: int) -> bytes:
        """Return ``count`` bytes."""
        return os.urandom(count)

    def close(self) -> None:
        """Hold nothing."""


class File:
    """A file or character device."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read(self, count: int) -> bytes:
        """Return what it has; a regular file that has ended has nothing, and an error of the host is nothing too."""
        try:
            return os.read(self._fd, count)
        except OSError:
            return b""

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def open_source(path: Path) -> File:
    """Open a source.

    Raises:
        HostError: it cannot be opened.
    """
    try:
        return File(path, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(
            f"source {path}: {error.strerror}", hint="--source is a file or a device such as /dev/hwrng"
        ) from error
