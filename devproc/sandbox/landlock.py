"""Landlock: the files and TCP ports that a process may still open, by the kernel's own system calls (landlock(7)).

What is open already stays as it was opened, growing and truncating included, so a device opens its files first. The
rules hold for the calling thread and those that it starts: a process calls this before it has others.

Kernels differ in what they can restrict; the version of their interface (ABI) says it, 0 is a kernel without.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, cast

from devproc.sandbox.privileges import libc
from devproc.sandbox.rights import File

Syscall = Callable[..., int]
"""syscall(2): the result, or -1 with ``ctypes.get_errno()``."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures
_ASK_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_RULESET = struct.Struct("=QQQ")  # files, network, scopes: struct landlock_ruleset_attr
_PATH_BENEATH = struct.Struct("=Qi")  # packed in the kernel's header too
_NET_PORT = struct.Struct("=QQ")
_RULESET_SIZES = {1: 8, 4: 16, 6: 24}  # from which version on the structure has so many bytes


class Tcp(IntFlag):
    """Rights on TCP ports, from ABI 4 on."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scope(IntFlag):
    """What is only reached inside, from ABI 6 on."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


ABI_KNOWN = 7
"""The newest version that this knows; a newer kernel is asked for no more."""
_OF_A_FILE = File.EXECUTE | File.WRITE_FILE | File.READ_FILE | File.TRUNCATE | File.IOCTL_DEV


@dataclass(frozen=True)
class Rules:
    """What stays allowed: rights by path, and TCP; ``None`` leaves all ports to connect to."""

    paths: tuple[tuple[str, File], ...] = ()
    tcp_connect: tuple[int, ...] | None = ()


def libc_syscall() -> Syscall:
    """Return the C library's syscall(2), which keeps errno."""
    call: Any = libc()["syscall"]  # a function of its own, whose result is wider
    call.restype = ctypes.c_long
    return cast(Syscall, call)


def version(syscall: Syscall) -> int:
    """Return the version of the kernel's interface; 0: it has none, or it is switched off."""
    return max(0, syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)))


def handled(abi: int) -> tuple[File, Tcp, Scope]:
    """Return everything that a kernel of this version can restrict."""
    newest = File.MAKE_SYM
    for at, right in ((2, File.REFER), (3, File.TRUNCATE), (5, File.IOCTL_DEV)):
        newest = right if abi >= at else newest
    return (
        File((newest << 1) - 1),
        Tcp.BIND | Tcp.CONNECT if abi >= 4 else Tcp(0),
        Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= 6 else Scope(0),
    )


def restrict(rules: Rules, syscall: Syscall) -> int:
    """Restrict this thread; return the version that did, 0 if the kernel has none.

    ``PR_SET_NO_NEW_PRIVS`` is the caller's, before.

    Raises:
        OSError: the kernel refuses what its version says it can do.
    """
    abi = min(version(syscall), ABI_KNOWN)
    if not abi:
        return 0
    files, tcp, scopes = handled(abi)
    if rules.tcp_connect is None:
        tcp &= ~Tcp.CONNECT
    size = max(size for at, size in _RULESET_SIZES.items() if abi >= at)
    attributes = _RULESET.pack(files, tcp, scopes)[:size]
    ruleset = _checked(syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        _allow_paths(ruleset, rules.paths, files, syscall)
        for port in (rules.tcp_connect or ()) if Tcp.CONNECT in tcp else ():
            rule = _NET_PORT.pack(Tcp.CONNECT, port)
            _checked(syscall(_ADD_RULE, ctypes.c_int(ruleset), _RULE_NET_PORT, rule, ctypes.c_uint32(0)))
        _checked(syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return abi


def _allow_paths(ruleset: int, paths: Iterable[tuple[str, File]], files: File, syscall: Syscall) -> None:
    for path, rights in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # nor could it open that
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                wanted = rights & files if os.path.isdir(path) else rights & files & _OF_A_FILE
                rule = _PATH_BENEATH.pack(wanted, fd)
                _checked(syscall(_ADD_RULE, ctypes.c_int(ruleset), _RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)))
            finally:
                os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return result
