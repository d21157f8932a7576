"""Who has which id, in a file that a server which is started again reads.

Version 0 lets no client say who it is, so an id is kept for a process: by its number, which the kernel tells of each
connection, and when it was started. It is nobody else's as long as that process lives. Peers of ours may have a name,
and have their id by it for ever, whatever process they are next.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from pathlib import Path

from protocol.errors import HostError, Refused
from protocol.ivshmem import IDS, NOBODY
from protocol.ivshmem_hello import NAME_BYTES

logger = logging.getLogger(__name__)

NAMES_MAX = 1024  # the name not there for longest gives way


def started(pid: int) -> int:
    """Return when a process was started, in ticks since the host was; 0: there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if after_name[0] == "Z" else int(after_name[19])
    except (OSError, IndexError, ValueError):
        return 0


@dataclass(frozen=True)
class Owner:
    """Whose an id is."""

    pid: int
    started: int
    name: str = ""

    @classmethod
    def of(cls, pid: int, name: str = "") -> Owner:
        """Return who a process is now."""
        return cls(pid, started(pid), name)

    @property
    def lives(self) -> bool:
        """Whether the process is still there."""
        return bool(self.started) and started(self.pid) == self.started


@dataclass
class Ids:
    """The ids that are given; ``path`` is written at each change."""

    path: Path | None = None
    owners: dict[int, Owner] = field(default_factory=dict)
    memory: tuple[int, int] | None = None
    _next: int = 0

    @classmethod
    def load(cls, path: Path) -> Ids:
        """Return what an earlier server wrote; nothing if there was none, or if that cannot be read."""
        ids = cls(path)
        try:
            data = json.loads(path.read_text())
            ids.memory = (int(data["memory"][0]), int(data["memory"][1]))
            ids._next = int(data["next"]) % IDS
            for key, value in data["owners"].items():
                owner = Owner(int(value["pid"]), int(value["started"]), str(value["name"])[:NAME_BYTES])
                if 0 <= int(key) < IDS:
                    ids.owners[int(key)] = owner
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            logger.warning("%s is no list of peers, all ids begin anew: %s", path, error)
            return cls(path)
        return ids

    def begin(self, memory: tuple[int, int]) -> None:
        """Take the memory that there is now; ids of another one's peers are forgotten."""
        if memory != self.memory:
            self.owners.clear()
            self._next = 0
        self.memory = memory
        self.owners = {i: owner for i, owner in self.owners.items() if owner.name or owner.lives}
        self.save()

    def processes(self) -> list[int]:
        """Return the processes that may still have the memory."""
        return [owner.pid for owner in self.owners.values() if owner.lives]

    def of_name(self, name: str) -> int | None:
        """Return the id of a name."""
        return next((peer for peer, owner in self.owners.items() if name and owner.name == name), None)

    def take(self, owner: Owner, wanted: int, busy: Container[int]) -> int:
        """Give an id: that of the name, the one that the same process had, or one that nobody has.

        Raises:
            Refused: there is none.
        """
        had = self.of_name(owner.name)
        if had is None and wanted != NOBODY and self.owners.get(wanted) == owner:
            had = wanted
        if had is None:
            had = self._free(busy)
        self.give(had, owner, busy)
        return had

    def give(self, peer: int, owner: Owner, busy: Container[int]) -> None:
        """Give this id."""
        self.owners.pop(peer, None)  # the last to come is the last in order, too
        self.owners[peer] = owner
        self._forget_names(busy, peer)
        self._note()

    def _free(self, busy: Container[int]) -> int:
        for step in range(IDS):
            peer = (self._next + step) % IDS
            owner = self.owners.get(peer)
            if peer not in busy and (owner is None or not (owner.name or owner.lives)):
                self._next = (peer + 1) % IDS
                return peer
        raise Refused("no id is free")

    def _forget_names(self, busy: Container[int], given: int) -> None:
        names = [peer for peer, owner in self.owners.items() if owner.name]
        for peer in [p for p in names if p not in busy and p != given][: max(0, len(names) - NAMES_MAX)]:
            del self.owners[peer]

    def release(self, peer: int) -> None:
        """Take an id back; that of a name stays the name's."""
        owner = self.owners.get(peer)
        if owner is not None and not owner.name:
            del self.owners[peer]
            self._note()

    def _note(self) -> None:
        try:
            self.save()
        except HostError as error:  # the peers are served nevertheless; a server after this one knows less of them
            logger.warning("%s", error.message)

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            HostError: it cannot be written.
        """
        if self.path is None:
            return
        data = {
            "memory": self.memory,
            "next": self._next,
            "owners": {str(peer): asdict(owner) for peer, owner in self.owners.items()},
        }
        text = json.dumps(data).encode()
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(text)
            fresh.replace(self.path)
        except PermissionError:
            _write_in_place(self.path, text)
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror}") from error


def _write_in_place(path: Path, text: bytes) -> None:
    """Write a file where none can be made, in a sandbox: at once, and never shorter, so that a reader finds JSON."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pwrite(fd, text.ljust(os.fstat(fd).st_size), 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
