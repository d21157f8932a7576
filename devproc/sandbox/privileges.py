"""What a process is, beside what it may call: no new privileges, no capabilities, no core dumps."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from functools import cache
from typing import Any

_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522
_DESCRIPTORS_MOST = 1 << 16


@cache
def libc() -> Any:
    """Return the C library, with errno kept."""
    return ctypes.CDLL(None, use_errno=True)


def no_new_privileges() -> None:
    """Have no program that is started from here gain anything by its set-uid bit; needed by all that follows.

    Raises:
        OSError: the kernel has no such thing.
    """
    if libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def drop_capabilities() -> None:
    """Give up what a user that is root may more than others, of this thread and those that it starts.

    Raises:
        OSError: the kernel refuses.
    """
    libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc().capset(header, bytes(24)):
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def limit() -> None:
    """Leave no core with a guest's memory in it, and have no more descriptors than a server of shared memory needs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS_MOST if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_MOST)
    if soft == resource.RLIM_INFINITY or soft > most:
        soft = most
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
