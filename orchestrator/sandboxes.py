"""Which processes are told to restrict themselves, and the sockets that they leave behind because they did.

A process in its sandbox cannot take a name out of a folder: nothing keeps the kernel from letting it take any.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

VARIABLE, ON = "BUSVM_SANDBOX", "on"
_UNIX = "unix:"


def environment(*, sandbox: bool) -> dict[str, str]:
    """Return what a process of ours is told: nothing if it is to be left alone, as one that is started by hand."""
    return {VARIABLE: ON} if sandbox else {}


def sockets(options: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the paths at which a device with these keys listens, as absolute ones."""
    found = [options.get("socket")] if "device" not in options else []  # a vhost-user device connects there
    found += [port.partition("=")[2] for port in options.get("ports", ())]
    listens = (options.get("address") if options.get("server") is True else None, options.get("local"))
    found += [_path(address) for address in listens if address]
    found += [_path(text.rpartition(":")[0]) for text in options.get("forward", ())]
    return absolute(found, folder)


def absolute(paths: Iterable[Any], folder: Path) -> tuple[str, ...]:
    """Return those that are paths, from ``folder`` on."""
    return tuple(str((folder / str(path)).absolute()) for path in paths if path)


def listening(addresses: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Return the paths among addresses."""
    return absolute(map(_path, addresses), folder)


def _path(address: str) -> str:
    return address.removeprefix(_UNIX) if address.startswith(_UNIX) else ""


def abandoned(paths: Iterable[str]) -> Iterator[Path]:
    """Return the sockets among ``paths`` that are ours and at which nobody listens any more."""
    for text in paths:
        path = Path(text)
        try:
            found = path.lstat()
            if stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid() and _is_dead(text):
                yield path
        except OSError:
            continue


def _is_dead(path: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                return True
            except OSError:  # of the other kind
                continue
            return False
    return False
