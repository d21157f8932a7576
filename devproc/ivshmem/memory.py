"""The memory that peers share: sealed and without a name, or a file of this user that is kept.

Sealed memory (memfd with F_SEAL_SHRINK) cannot be made shorter by a peer, which would end the others by SIGBUS at
their next access; a file can. Sealed memory has no name to open it by, yet a server that is started again finds it:
whoever still has it, a peer, or a machine whose device was one, is a process of this user, whose descriptors the host
shows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from protocol.errors import ConfigError, HostError
from protocol.memory import SHM, sealed
from protocol.names import MEMORY_PATTERN
from protocol.sizes import format_size

SIZE_MIN = 4096
_SEALED = "ivshmem"


def checked_size(size: int) -> int:
    """Return ``size``.

    Raises:
        ConfigError: no BAR can have it.
    """
    if size < SIZE_MIN or size & (size - 1):
        higher = max(SIZE_MIN, 1 << max(0, size - 1).bit_length())
        raise ConfigError(
            f"size {format_size(size)} is no power of two from 4K on",
            hint=f"{format_size(higher)}: a PCI BAR has no other sizes",
        )
    return size


def agreed_size(found: int, wanted: int, what: str) -> int:
    """Return the size ``found`` of memory that is there; ``wanted`` is 0 where any will do.

    Raises:
        ConfigError: another is wanted, or no BAR can have it.
    """
    if wanted not in (0, found):
        raise ConfigError(f"{what} has {format_size(found)}, not {format_size(wanted)}")
    return checked_size(found)


def path_of(where: str) -> Path:
    """Return the file of memory ``where``: a path, or a name, which is this user's in ``/dev/shm``.

    Raises:
        ConfigError: it is neither.
    """
    if "/" in where:
        return Path(where)
    if not MEMORY_PATTERN.match(where):
        raise ConfigError(f"{where!r} is no name of memory", hint="letters, digits and _.-, or a path with a /")
    return SHM / f"busvm-{os.getuid()}.ivshmem.{where}"


@dataclass
class Memory:
    """The descriptor that peers get."""

    fd: int
    size: int
    path: Path | None = None
    kept: bool = False  # what is in it is of an earlier server
    _lock: int = -1
    _readonly: int = -1

    @property
    def readonly(self) -> int:
        """The memory's descriptor for peers that only read; raises ``OSError`` when there are no more descriptors.

        It keeps from mistakes: a process of the same user can open the memory anew.
        """
        if self._readonly < 0:
            self._readonly = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        return self._readonly

    @property
    def identity(self) -> tuple[int, int]:
        """What tells it from all other memory of the host."""
        return identity(self.fd)

    @classmethod
    def anonymous(cls, size: int, known: tuple[int, int] | None = None, pids: Iterable[int] = ()) -> Self:
        """Return sealed memory: the one that is ``known`` if somebody still has it, perhaps of ``pids``, or new.

        Raises:
            ConfigError: the size is wrong, or not that of the known one.
            HostError: there is no room.
        """
        checked_size(size)
        for pid in chain(pids, _processes()) if known else ():
            fd = _of_process(pid, known)
            if fd is not None:
                found = os.fstat(fd).st_size
                if found != size:
                    os.close(fd)
                    raise ConfigError(
                        f"peers still have memory of {format_size(found)}, not {format_size(size)}",
                        hint="the old size, or another socket",
                    )
                return cls(fd, size, kept=True)
        try:
            return cls(sealed(_SEALED, size), size)
        except OSError as error:
            raise HostError(f"no {format_size(size)} of memory: {error.strerror}") from error

    @classmethod
    def named(cls, path: Path, size: int) -> Self:
        """Return the file, made if it is not there; only one server has it at a time.

        Raises:
            ConfigError: the size is wrong, or not the file's.
            HostError: it is somebody else's, no file, in use, or there is no room.
        """
        checked_size(size)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(f"memory {path}: {error.strerror}") from error
        lock = -1
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise HostError(f"memory {path} is no file of this user")
            lock = _locked(path)
            if found.st_size not in (0, size):
                raise ConfigError(
                    f"memory {path} has {format_size(found.st_size)}, not {format_size(size)}",
                    hint=f"--size {format_size(found.st_size)}, or remove it",
                )
            if not found.st_size:
                make_room(fd, path, size)
        except BaseException:
            os.close(fd)
            if lock >= 0:
                os.close(lock)
            raise
        return cls(fd, size, path, bool(found.st_size), lock)

    def close(self) -> None:
        """Close it; a file stays."""
        for fd in (self.fd, self._lock, self._readonly):
            if fd >= 0:
                os.close(fd)


def make_room(fd: int, path: Path, size: int) -> None:
    """Give a new file its size.

    Raises:
        HostError: there is no room, or it cannot have it.
    """
    room = os.fstatvfs(fd)
    if room.f_bavail * room.f_frsize < size:
        raise HostError(f"no room for {format_size(size)} at {path}")
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise HostError(f"memory {path}: {error.strerror}") from error


def identity(fd: int) -> tuple[int, int]:
    """Return device and inode."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _locked(path: Path) -> int:
    """Return a descriptor that no peer gets: a lock ends with the last copy of its descriptor."""
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise HostError(f"memory {path}: another server has it") from error
    return lock


def _processes() -> Iterator[int]:
    yield from (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _of_process(pid: int, known: tuple[int, int] | None) -> int | None:
    """Return a new descriptor of memory that a process has."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if not os.readlink(entry).startswith(f"/memfd:{_SEALED} "):
                    continue
                found = entry.stat()
                if (found.st_dev, found.st_ino) == known and stat.S_ISREG(found.st_mode):
                    return os.open(entry, os.O_RDWR | os.O_CLOEXEC)
    return None
