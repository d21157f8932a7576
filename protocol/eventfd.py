"""Eventfds of others: whether a descriptor is one, and that writing to it cannot stop who writes."""

from __future__ import annotations

import os

_LINK = "anon_inode:[eventfd]"


def is_eventfd(fd: int) -> bool:
    """Return whether ``fd`` is an eventfd: who writes 8 bytes to any other descriptor does somebody else's work."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == _LINK
    except OSError:
        return False


def accept(fd: int) -> bool:
    """Return whether ``fd`` is an eventfd, which does not block then, whatever its maker has set."""
    if not is_eventfd(fd):
        return False
    os.set_blocking(fd, False)
    return True
