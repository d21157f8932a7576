"""Another place where a server's sockets are found: where other machines look for it by name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from devproc.ivshmem.joining import DIALECT_SUFFIX
from protocol.errors import HostError


class Links:
    """Links to both sockets of a server, taken away by ``close``."""

    def __init__(self, at: Path, socket: Path) -> None:
        """Make them, in the place of those of an earlier server.

        Raises:
            HostError: something else is there, or they cannot be made.
        """
        self._made: list[tuple[Path, Path]] = []
        try:
            for suffix in ("", DIALECT_SUFFIX):
                link, target = (path.with_name(path.name + suffix) for path in (at, socket.absolute()))
                if link.is_symlink():
                    link.unlink()
                link.symlink_to(target)
                self._made.append((link, target))
        except OSError as error:
            self.close()
            raise HostError(f"{at}: {error.strerror}") from error

    def close(self) -> None:
        """Take away what is still ours."""
        for link, target in self._made:
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(target):
                    link.unlink()
