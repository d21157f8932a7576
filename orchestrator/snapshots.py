"""Snapshots on the host: folders with what the machine wrote and a manifest, made whole or not at all.

A snapshot is written under another name and renamed when everything is on the medium; the manifest has a digest of each
file. It holds no path of this host that another one needs: it can be copied, and named by its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from protocol.errors import ConfigError, HostError, NotFound
from protocol.names import Runtime

MANIFEST = "manifest.json"
VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is of; ``files`` are names, sizes and digests (SHA-256)."""

    version: int
    vm: str
    made: str
    memory: int
    cpus: int
    devices: list[str]
    python: str
    file: str | None
    """The vm.toml of then."""
    text: str
    """Its content."""
    files: dict[str, list[Any]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(size) for size, _ in self.files.values())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return that of a snapshot.

        Raises:
            ConfigError: there is none of this version.
        """
        try:
            plain = json.loads((folder / MANIFEST).read_text())
            if plain["version"] != VERSION:
                raise ConfigError(f"snapshot {folder} has version {plain['version']}, this is {VERSION}")
            return cls(**plain)
        except OSError as error:
            raise ConfigError(f"snapshot {folder}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"snapshot {folder}: its manifest is broken") from error

    def check(self, folder: Path) -> None:
        """Compare the files with what was written.

        Raises:
            ConfigError: one is missing or damaged.
        """
        for name, (size, digest) in self.files.items():
            path = folder / name
            try:
                if "/" in name or path.stat().st_size != size or _digest(path) != digest:
                    raise ConfigError(f"snapshot {folder}: {name} is damaged")
            except OSError as error:
                raise ConfigError(f"snapshot {folder}: {name}: {error.strerror}") from error


def checked_name(name: str) -> str:
    """Return ``name``.

    Raises:
        ConfigError: it is none of a snapshot.
    """
    if not _NAME.match(name):
        raise ConfigError(f"{name!r} is no name of a snapshot", hint="letters, digits and _.-, up to 64")
    return name


def folder_of(runtime: Runtime, name: str) -> Path:
    """Return where a snapshot is: a name, or with a slash a folder.

    Raises:
        ConfigError: it is no name.
    """
    return Path(name).expanduser().absolute() if "/" in name else _root(runtime) / checked_name(name)


def _root(runtime: Runtime) -> Path:
    return runtime.logs / "snapshots"


def known(runtime: Runtime) -> list[str]:
    """Return the names of a VM's snapshots, the oldest first."""
    root = _root(runtime)
    found = [path for path in root.iterdir() if _NAME.match(path.name)] if root.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))]


def find(runtime: Runtime, name: str) -> Path:
    """Return the folder of a snapshot.

    Raises:
        NotFound: there is none of that name.
    """
    folder = folder_of(runtime, name)
    if not (folder / MANIFEST).is_file():
        there = ", ".join(known(runtime)) or "none"
        raise NotFound(f"VM {runtime.vm!r} has no snapshot {name!r}", hint=f"there are: {there}")
    return folder


def begin(runtime: Runtime, name: str, *, replace: bool) -> Path:
    """Return a folder to write into; what an earlier attempt left is removed.

    Raises:
        ConfigError: there is a snapshot of that name.
        HostError: the folder cannot be made.
    """
    folder = folder_of(runtime, name)
    if folder.exists() and not replace:
        raise ConfigError(f"there is a snapshot {name!r}", hint="--replace, or another name")
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}{_PARTIAL}*"):
            pid = left.name.rpartition("-")[2]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left, ignore_errors=True)
        partial = folder.with_name(f".{folder.name}{_PARTIAL}{os.getpid()}")
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise HostError(f"snapshot {folder}: {error.strerror}") from error
    return partial


def finish(partial: Path, manifest: dict[str, Any]) -> Manifest:
    """Write the manifest, and give the snapshot its name once everything is on the medium.

    Raises:
        HostError: there is no room.
    """
    folder = partial.with_name(partial.name.split(_PARTIAL)[0][1:])
    try:
        names = sorted(path.name for path in partial.iterdir())
        files = {name: [(partial / name).stat().st_size, _digest(partial / name)] for name in names}
        made = Manifest(version=VERSION, python=platform.python_version(), files=files, **manifest)
        (partial / MANIFEST).write_text(json.dumps(asdict(made), indent=2) + "\n")
        for path in (*(partial / name for name in (*names, MANIFEST)), partial):
            _sync(path)
        if folder.exists():
            old = folder.with_name(f".{folder.name}{_PARTIAL}old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise HostError(f"snapshot {folder}: {error.strerror}") from error
    return made


def drop(folder: Path) -> None:
    """Remove a folder, if it is there."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


def delete(folder: Path) -> None:
    """Remove a snapshot: first what makes it one.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise HostError(f"snapshot {folder}: {error.strerror}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
