"""The console of the guest of a VM that ``up`` runs."""

from __future__ import annotations

import subprocess

from tests.fuzz.doors.place import Place


def until(place: Place, up: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Return the next line with ``text``."""
    assert up.stdout is not None
    while text not in (line := up.stdout.readline()):
        assert line, f"the console has ended: {place.log('up')}"
    return line


def check_disk(place: Place, up: subprocess.Popen[bytes], requests: int, depth: int) -> None:
    """Have the guest read its disk."""
    assert up.stdin is not None
    up.stdin.write(b"d s %d %d\n" % (requests, depth))
    up.stdin.flush()
    line = until(place, up, b"stress:")
    assert b"errors=0" in line, line
