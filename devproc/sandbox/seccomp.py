"""System calls that a device process has no use for, refused by the kernel; written down by libseccomp, if it is there.

A list of what is denied, as QEMU's ``-sandbox``, and not of what is allowed: which calls Python, the C library, ZeroMQ
and libslirp make changes with each of their versions, and a device that dies of an update helps nobody. What matters
is on the list: other programs, other processes, other identities, the network, and the kernel's larger surfaces.

No honest process of ours makes a call of ``FATAL``: it is killed, which its supervisor sees (SIGSYS) and says. Calls
of ``REFUSED`` libraries may try: they get an error, and do without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

LIBRARY = "libseccomp.so.2"
INSTALL = "apt install libseccomp2"

_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_ALL_THREADS = 4  # SCMP_FLTATR_CTL_TSYNC
_CLONE_THREAD = 0x0001_0000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put words into the mouth of who sits at the terminal

FATAL = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    "bpf", "perf_event_open", "userfaultfd", "fanotify_init", "open_by_handle_at", "lookup_dcookie",
    "add_key", "request_key", "keyctl",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
    "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "iopl", "ioperm", "modify_ldt", "syslog",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname", "vhangup",
)  # fmt: skip
"""Not a program's that a device starts either."""
_FATAL_ALONE = (
    "mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount",
    "fspick", "mount_setattr", "setns", "unshare",
)  # fmt: skip
REFUSED = (
    "execve", "execveat", "fork", "vfork",
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
    "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal",
    # Landlock leaves a file's owner, modes, attributes and times alone
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr",
    "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "utime", "utimes", "futimesat", "utimensat",
    "mknod", "mknodat",
)  # fmt: skip
ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Answered as by a kernel without: the C library uses ``clone`` then, whose flags are seen here; rings are not."""


class Compare(IntEnum):
    """How an argument is compared (enum scmp_compare)."""

    NE = 1
    EQ = 4
    GT = 6
    MASKED_EQ = 7


@dataclass(frozen=True)
class Rule:
    """What becomes of a call, if its argument compares so; ``mask`` is of MASKED_EQ."""

    call: str
    action: int
    argument: int = -1
    compare: Compare = Compare.EQ
    value: int = 0
    mask: int = 0


def _error(number: int) -> int:
    return _ERRNO | number


def rules(pid: int, *, internet: bool, programs: bool) -> Iterator[Rule]:
    """Return what is denied to process ``pid``."""
    yield from (Rule(call, _KILL_PROCESS) for call in FATAL)
    if programs:
        return
    yield from (Rule(call, _KILL_PROCESS) for call in _FATAL_ALONE)
    yield from (Rule(call, _error(errno.EPERM)) for call in REFUSED)
    yield from (Rule(call, _error(errno.ENOSYS)) for call in ABSENT)
    refuse = _error(errno.EPERM)
    yield Rule("clone", refuse, 0, Compare.MASKED_EQ, 0, _CLONE_THREAD)  # threads alone
    yield from (Rule(call, refuse, 0, Compare.NE, pid) for call in ("kill", "tgkill"))
    yield Rule("prlimit64", refuse, 0, Compare.NE, 0)  # 0 is who asks
    yield from (Rule("ioctl", refuse, 1, Compare.EQ, request) for request in (_TIOCSTI, _TIOCLINUX))
    families = {int(socket.AF_UNIX)} | ({int(socket.AF_INET), int(socket.AF_INET6)} if internet else set())
    for call in ("socket", "socketpair"):
        yield from (Rule(call, refuse, 0, Compare.EQ, n) for n in range(max(families)) if n not in families)
        yield Rule(call, refuse, 0, Compare.GT, max(families))


class _Argument(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@cache
def library() -> Any:
    """Return libseccomp, or ``None``."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    found.seccomp_release.argtypes = found.seccomp_load.argtypes = [ctypes.c_void_p]
    found.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    found.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    found.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Argument),
    ]  # fmt: skip
    return found


class Filter:
    """What is denied, written down; ``load`` has the kernel do it, once.

    A call that this libseccomp has never heard of is left out.
    """

    def __init__(self, found: Any, denied: Iterable[Rule]) -> None:
        """Write it down; raises OSError if there is no room."""
        self.count = 0
        """How many rules it has."""
        self._library = found
        self._filter = found.seccomp_init(_ALLOW)
        if not self._filter:
            raise OSError(errno.ENOMEM, "libseccomp gives no filter")
        try:
            _checked(found.seccomp_attr_set(self._filter, _ALL_THREADS, 1))
            for rule in denied:
                number = found.seccomp_syscall_resolve_name(rule.call.encode())
                if number < 0:  # of another architecture, or unknown
                    continue
                _checked(found.seccomp_rule_add_array(self._filter, rule.action, number, *_arguments(rule)))
                self.count += 1
        except BaseException:
            self.close()
            raise

    def load(self) -> None:
        """Have the kernel deny that to all threads, for ever, and close.

        Raises:
            OSError: the kernel has no seccomp.
        """
        try:
            _checked(self._library.seccomp_load(self._filter))
        finally:
            self.close()

    def close(self) -> None:
        """Give back its memory."""
        self._library.seccomp_release(self._filter)


def _arguments(rule: Rule) -> tuple[int, Any]:
    if rule.argument < 0:
        return 0, None
    first, second = (rule.mask, rule.value) if rule.compare is Compare.MASKED_EQ else (rule.value, 0)
    number = int(rule.call == "clone" and os.uname().machine.startswith("s390")) or rule.argument  # clone(2)
    return 1, ctypes.byref(_Argument(number, rule.compare, first, second))


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"seccomp: {os.strerror(-result)}")
