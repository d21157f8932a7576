"""Sockets, descriptors, and a check that none of them leaks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

Pair = tuple[socket.socket, socket.socket]


def open_fds() -> set[str]:
    """Return what this process has open."""
    return {f"{link.name} {os.readlink(link)}" for link in Path("/proc/self/fd").iterdir() if link.exists()}


@pytest.fixture(autouse=True)
def no_fd_leaks() -> Iterator[None]:
    """Fail a test that leaves descriptors open."""
    before = open_fds()
    yield
    assert open_fds() - before == set()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two connected sockets; the second does not block."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.settimeout(10)
    yield theirs, ours
    theirs.close()
    ours.close()


def memory(size: int) -> int:
    """Return a descriptor of ``size`` bytes of memory."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd
