"""A root file system being made: files on the host's disk, owners, modes and links in memory.

An unprivileged user cannot give a file to root or to the group ``shadow``. So the content is *staged* in a folder,
readable and writable by the user alone, and what each file shall be in the image is kept beside it as an `Entry`.
`ext4` puts both together. Symbolic links are followed inside the tree only, never on the host: a package's
``/bin -> usr/bin`` must not lead to the host's ``/usr/bin``.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from protocol.errors import ConfigError

MAX_LINKS = 40  # as Linux: more symbolic links than that in one path is a loop


@dataclass
class Entry:
    """What a path shall be in the image; ``mode`` has the type bits of stat(2)."""

    mode: int
    uid: int = 0
    gid: int = 0
    target: str = ""  # of a symbolic link
    size: int = 0
    mtime: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)


class Tree:
    """A file system under ``staging``. Paths are relative to its root, with or without a leading slash."""

    def __init__(self, staging: Path, mtime: int = 0) -> None:
        self.staging = staging
        self.mtime = mtime
        self.entries: dict[str, Entry] = {"": Entry(stat.S_IFDIR | 0o755, mtime=mtime)}
        staging.mkdir(mode=0o700, exist_ok=True)

    # Reading

    def resolve(self, path: str, *, follow_last: bool = False) -> str:
        """Return the path with every symbolic link on the way replaced, as the guest will see it."""
        waiting = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        done: list[str] = []
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                done[-1:] = []
                continue
            entry = self.entries.get("/".join([*done, part]))
            if entry is None or not entry.is_symlink or (not waiting and not follow_last):
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise ConfigError(f"/{path} in the image goes round in a circle of symbolic links")
            if entry.target.startswith("/"):
                done = []
            waiting.extend(part for part in reversed(entry.target.split("/")) if part not in {"", "."})
        return "/".join(done)

    def get(self, path: str) -> Entry | None:
        """Return the entry at ``path``, a last symbolic link followed, or None."""
        return self.entries.get(self.resolve(path, follow_last=True))

    def exists(self, path: str) -> bool:
        """Whether something is at ``path``, be it a dangling link."""
        return self.resolve(path) in self.entries

    def read(self, path: str) -> bytes:
        """Return the content of the file at ``path``; KeyError if it is none."""
        place = self.resolve(path, follow_last=True)
        if not self.entries[place].is_file:
            raise KeyError(path)
        return self._host(place).read_bytes()

    def read_text(self, path: str) -> str:
        """Return the text of the file at ``path``, or nothing if there is none."""
        try:
            return self.read(path).decode("utf-8", "replace")
        except KeyError:
            return ""

    def files_in(self, path: str) -> list[str]:
        """Return the names in the directory at ``path``, sorted; none if it is missing."""
        prefix = self.resolve(path, follow_last=True) + "/"
        return sorted(p[len(prefix) :] for p in self.entries if p.startswith(prefix) and "/" not in p[len(prefix) :])

    # Writing

    def add_directory(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Make a directory, and those above it; one that is there gets this owner and mode."""
        place = self._make_parents(path)
        present = self.entries.get(place)
        if present is not None and present.is_symlink:  # a package's directory, where a link already leads to one
            place = self.resolve(path, follow_last=True)
            present = self.entries.get(place)
        if present is None:
            self._host(place).mkdir(mode=0o700)
        elif not present.is_directory:
            raise ConfigError(f"/{place} is a file in one package and a directory in another")
        self.entries[place] = Entry(stat.S_IFDIR | mode, uid, gid, mtime=self.mtime)

    def add_file(
        self,
        path: str,
        content: bytes | str | IO[bytes],
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime: int | None = None,
    ) -> None:
        """Write a file, in place of what was there."""
        place = self._vacate(path)
        host = self._host(place)
        descriptor = os.open(host, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            if isinstance(content, str):
                content = content.encode()
            if isinstance(content, bytes):
                out.write(content)
            else:
                shutil.copyfileobj(content, out, 1 << 20)
            size = out.tell()
        when = self.mtime if mtime is None else mtime
        self.entries[place] = Entry(stat.S_IFREG | mode, uid, gid, size=size, mtime=when)

    def add_symlink(self, path: str, target: str, uid: int = 0, gid: int = 0) -> None:
        """Make a symbolic link, in place of what was there."""
        place = self._vacate(path)
        self._host(place).symlink_to(target)
        self.entries[place] = Entry(stat.S_IFLNK | 0o777, uid, gid, target, mtime=self.mtime)

    def add_hard_link(self, path: str, existing: str) -> None:
        """Give the file at ``existing`` a second name."""
        source = self.resolve(existing)
        place = self._vacate(path)
        self._host(place).hardlink_to(self._host(source))
        self.entries[place] = self.entries[source]

    def change(self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None) -> None:
        """Change the permissions or the owner of what is at ``path``."""
        entry = self.entries[self.resolve(path)]
        if mode is not None:
            entry.mode = stat.S_IFMT(entry.mode) | mode
        entry.uid = entry.uid if uid is None else uid
        entry.gid = entry.gid if gid is None else gid

    def remove_directory(self, path: str) -> None:
        """Remove the empty directory at ``path``, if there is one."""
        place = self.resolve(path)
        entry = self.entries.get(place)
        if entry is not None and entry.is_directory:
            self._host(place).rmdir()
            del self.entries[place]

    def finish(self) -> None:
        """Give the staged files their times; after this nothing more is added."""
        for place, entry in sorted(self.entries.items(), reverse=True):
            os.utime(self._host(place), (entry.mtime, entry.mtime), follow_symlinks=False)

    def _host(self, place: str) -> Path:
        return self.staging / place if place else self.staging

    def _make_parents(self, path: str) -> str:
        """Make the directories above ``path`` and return where it itself really is."""
        place = self.resolve(path)
        above, _, _ = place.rpartition("/")
        if above not in self.entries:
            self.add_directory(above)
        return place

    def _vacate(self, path: str) -> str:
        """Return where ``path`` really is, with nothing there any more."""
        place = self._make_parents(path)
        present = self.entries.get(place)
        if present is not None:
            if present.is_directory:
                raise ConfigError(f"/{place} is a directory in one package and a file in another")
            self._host(place).unlink()
            del self.entries[place]
        return place
