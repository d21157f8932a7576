"""``python -m devproc.ivshmem.plain``: shared memory alone, as QEMU's ivshmem-plain with a memory-backend-file."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from devproc.classes import program_of
from devproc.host import main
from devproc.ivshmem.client import Client
from devproc.ivshmem.function import SharedMemory
from devproc.ivshmem.memory import agreed_size, checked_size, make_room, path_of
from protocol.errors import ConfigError, HostError
from protocol.sizes import parse_size


@dataclass(frozen=True)
class Config:
    """Where the memory is: a file, or that of a server, which is asked once."""

    memory: Annotated[str | None, "a name (of this user's in /dev/shm) or a path; made if it is not there"] = None
    server: Annotated[Path | None, "or the socket of a server"] = None
    size: Annotated[str | None, "what the memory has, such as 4M; needed where it is not there yet"] = None
    name: Annotated[str, "name by which the server is asked"] = ""
    readonly: Annotated[bool, "the guest may not write the memory"] = False


class Plain(SharedMemory):
    """Memory that machines share."""

    def __init__(self, config: Config) -> None:
        """Open the memory.

        Raises:
            ConfigError: it is not said which, or it has another size.
            HostError: it cannot be opened.
        """
        if (config.memory is None) is (config.server is None):
            raise ConfigError("which memory?", hint="either --memory or --server says it")
        self.config = config
        wanted = checked_size(parse_size(config.size)) if config.size is not None else 0
        if config.server is not None:
            with Client(config.server, name=config.name, readonly=config.readonly) as client:
                self._fd = os.dup(client.memory_fd)
        else:
            self._fd = _opened(path_of(config.memory or ""), wanted, readonly=config.readonly)
        try:
            found = os.fstat(self._fd).st_size
            super().__init__(agreed_size(found, wanted, "the memory"))
        except ConfigError:
            self.close()
            raise

    def memories(self) -> dict[int, tuple[int, bool]]:
        """Return the memory."""
        return {self.memory_bar: (self._fd, not self.config.readonly)}

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def _opened(path: Path, size: int, *, readonly: bool) -> int:
    """Return a descriptor of the file; who comes first makes it, and gives it its size."""
    mode = os.O_RDONLY if readonly and path.exists() else os.O_RDWR | (os.O_CREAT if size else 0)
    try:
        fd = os.open(path, mode | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "--size makes it" if isinstance(error, FileNotFoundError) and not size else None
        raise HostError(f"memory {path}: {error.strerror}", hint=hint) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise HostError(f"memory {path} is no file")
        if size and not found.st_size:
            make_room(fd, path, size)
    except HostError:
        os.close(fd)
        raise
    return fd


PROGRAM = program_of(Plain, name="ivshmem-plain")

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
