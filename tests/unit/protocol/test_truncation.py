"""Memory that becomes shorter under who reads it: zeros, one handler for all, and that of before at the end."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys

import pytest

from protocol.memory import can_shrink, sealed
from protocol.truncation import Watch, survival


def handler() -> str:
    """Return which SIGBUS this process catches, as the kernel shows it."""
    with open("/proc/self/status", encoding="ascii") as status:
        caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return "caught" if caught & 1 << signal.SIGBUS - 1 else "default"


@pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_READ])
def test_what_is_gone_reads_as_zeros_also_where_it_is_read_only(access: int) -> None:
    fd = os.memfd_create("x")
    os.ftruncate(fd, 8192)
    os.pwrite(fd, b"kept", 0)
    with survival(), mmap.mmap(fd, 8192, access=access) as memory:
        watch = Watch(memory)
        os.ftruncate(fd, 4096)
        assert (memory[0:4], watch.torn) == (b"kept", False)
        assert (memory[4096:4100], watch.torn) == (b"\0\0\0\0", True)
        watch.close()
    os.close(fd)


def test_sealed_memory_cannot_shrink() -> None:
    fds = [sealed("x", 4096), os.memfd_create("x")]
    assert [can_shrink(fd) for fd in fds] == [False, True]
    for fd in fds:
        os.close(fd)


def test_the_handler_lasts_as_long_as_the_last_of_several() -> None:
    program = """
import tests.unit.protocol.test_truncation as t
seen = [t.handler()]
first, second = t.survival(), t.survival()
first.__enter__(); second.__enter__()
seen.append(t.handler())
first.__exit__(None, None, None)
seen.append(t.handler())
second.__exit__(None, None, None)
seen.append(t.handler())
print(*seen)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["default", "caught", "caught", "default"]
