"""Ids of a file, each used once, and names of what devices join: hubs and servers, of this VM or another.

``lan`` is in the same file, ``other/lan`` belongs to another VM of the same user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path as File
from typing import Any, Protocol

from orchestrator import schema
from protocol.errors import ConfigError
from protocol.names import ID_PATTERN, VM_PATTERN, Runtime

Path = tuple[str | int, ...]
ID_HINT = "letters, digits and _, from a letter on, up to 31"


class Reader(Protocol):
    """Who checks keys one by one."""

    def error(self, path: Path, what: str, hint: str | None = None) -> ConfigError:
        """Return the error to raise about ``path``."""

    def table(self, given: dict[str, Any], table: str, path: Path, kind: str = "") -> dict[str, Any]:
        """Return the checked values of one table."""


class Ids:
    """Which ids are taken: processes and logs have them."""

    def __init__(self, reader: Reader, devices: Iterable[str]) -> None:
        self._reader = reader
        self._taken = {*devices} | schema.RESERVED_IDS | set(schema.SINGLE_TABLES)

    def take(self, name: str, path: Path) -> None:
        """Take an id, given at ``path``.

        Raises:
            ConfigError: it is none, or taken.
        """
        if not ID_PATTERN.match(name) or name in self._taken:
            what = "is taken" if name in self._taken else "is no id"
            raise self._reader.error(path, f"{name!r} {what}", ID_HINT)
        self._taken.add(name)


def is_of_another(name: str) -> bool:
    """Return whether a name is ``VM/ID``."""
    vm, slash, member = name.partition("/")
    return bool(slash and VM_PATTERN.match(vm) and ID_PATTERN.match(member))


def check(reader: Reader, name: str, path: Path, known: Collection[str], kind: str, table: str) -> None:
    """Check that what a device joins, a ``kind`` declared in ``[[table]]``, is ``known`` here, or another VM's.

    Raises:
        ConfigError: it is not.
    """
    if name in known or is_of_another(name):
        return
    if "/" in name:
        raise reader.error(path, f"{name!r} names no {kind}", f"VM/ID, of a VM and its {kind}")
    hint = f"{kind}s: {', '.join(known)}" if known else f"[[{table}]] declares one; VM/ID is another VM's"
    raise reader.error(path, f"no {kind} {name!r}", hint)


def place(name: str, runtime: Runtime, socket: Callable[[Runtime, str], File]) -> File:
    """Return the ``socket`` of what is joined."""
    vm, slash, member = name.rpartition("/")
    return socket(Runtime(vm) if slash else runtime, member)
