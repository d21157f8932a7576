"""``/tmp/perf-PID.map``: names for translated blocks, as ``perf report`` wants them for code that no file has.

A block is called by the guest's physical address that it begins at. perf looks for the file when it reports, so it
stays when the process ends; perf takes it from its owner or root only. The folder is everybody's: the file is made
under a name that nobody can have prepared, and put in the place of whatever has its name.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from cpu_proc.engine.x86.blocks import UNTRANSLATED
from cpu_proc.hart import TRANSLATOR, Hart
from protocol.errors import HostError

FOLDER = Path("/tmp")  # perf's choice
_PAGE = 4096
_PARCELS = _PAGE // 2


def path_of(pid: int) -> Path:
    """Return the file in which perf looks for the names of a process's code."""
    return FOLDER / f"perf-{pid}.map"


def blocks(hart: Hart) -> list[tuple[int, int, int]]:
    """Return host address, size and guest physical address of each block of a hart that stands still.

    A block is taken to reach to the next one: what is between them, if one was forgotten there, is said to be its own.
    """
    if hart.engine_name != TRANSLATOR:
        return []
    generations = _words(hart["PAGE_GENERATION_HOST"], hart["RAM_SIZE"] // _PAGE)
    found: list[tuple[int, int]] = []
    for page in np.flatnonzero(generations):  # pages that were executed: the others have no table yet
        entries = _words(hart["CODE_HOST"] + int(page) * _PARCELS * 8, _PARCELS)
        base = hart["RAM_BASE"] + int(page) * _PAGE
        found += [(int(entries[at]), base + 2 * int(at)) for at in np.flatnonzero(entries > UNTRANSLATED)]
    found.sort()
    ends = [*(entry for entry, _ in found[1:]), hart["EMIT"] + hart["CODE_SHIFT"]]
    return [(entry, end - entry, address) for (entry, address), end in zip(found, ends, strict=True)]


def _words(host: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(host))


def write(harts: Iterable[Hart]) -> tuple[Path, int]:
    """Write this process's file; return its path and the number of blocks in it. The harts stand still.

    Raises:
        HostError: it cannot be written, or there is no translated code.
    """
    harts = list(harts)
    if all(hart.engine_name != TRANSLATOR for hart in harts):
        raise HostError("no translated code to name: the interpreter executes", hint='vm.engine = "translate"')
    rows = [row for hart in harts for row in blocks(hart)]
    path = path_of(os.getpid())
    text = "".join(f"{entry:x} {size:x} guest:{address:#x}\n" for entry, size, address in rows)
    _replace(path, text.encode())
    return path, len(rows)


def _replace(path: Path, data: bytes) -> None:
    try:
        fd, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # O_EXCL and O_NOFOLLOW, for us alone
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(name)
        raise HostError(f"cannot write {path}: {error.strerror}") from error
