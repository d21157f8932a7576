"""Entering the sandbox: the one place that knows the order, and what to say where a host lacks a part of it."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devproc.sandbox.needs import Needs

if TYPE_CHECKING:
    from devproc.sandbox.seccomp import Filter

logger = logging.getLogger(__name__)

VARIABLE = "BUSVM_SANDBOX"
"""``on``: what the orchestrator says to the processes that it starts. One that is started by hand is left alone."""


@dataclass(frozen=True)
class Sandbox:
    """What a process has become: the version of Landlock and the number of seccomp's rules, 0 for what is not there."""

    landlock: int = 0
    seccomp: int = 0
    absent: tuple[str, ...] = ()
    """What this host lacks, with what helps."""

    def __str__(self) -> str:
        parts = [f"landlock={self.landlock}", f"seccomp={self.seccomp}"]
        return " ".join([*parts, *(f"({text})" for text in self.absent)])


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--sandbox`` and ``--no-sandbox``."""
    parser.add_argument(
        "--sandbox",
        action=argparse.BooleanOptionalAction,
        default=os.environ.get(VARIABLE) == "on",
        help="give up files, system calls and privileges that it does not need before it serves (docs/security.md); "
        f"default: what ${VARIABLE} says, off",
    )


def written(needs: Needs) -> Filter | None:
    """Return this process's filter of system calls, or ``None``: who stands by has it ready."""
    from devproc.sandbox import seccomp

    library = seccomp.library()
    if library is None:
        return None
    return seccomp.Filter(library, seccomp.rules(os.getpid(), internet=needs.internet, programs=needs.programs))


def enter(needs: Needs, calls: Filter | None = None) -> Sandbox:
    """Give up, for ever, what is not needed; everything that has to be opened is open, and there is one thread.

    ``calls`` is what ``written`` has returned in this process, if it has been asked.

    Raises:
        OSError: the kernel refuses a part that it has.
    """
    from devproc.sandbox import landlock, privileges, seccomp  # ctypes, for those who use it

    absent: list[str] = []
    privileges.limit()
    privileges.no_new_privileges()
    version = 0
    if not needs.programs:
        privileges.drop_capabilities()
        version = landlock.restrict(landlock.Rules(needs.rights(), needs.tcp_connect), landlock.libc_syscall())
        if not version:
            absent.append("files are not restricted: the kernel has no Landlock, or it is not among its lsm=")
        threads = len(os.listdir("/proc/self/task")) - 1
        if threads:
            absent.append(f"{threads} threads that it had started are outside of that")
    calls = calls or written(needs)
    if calls is None:
        absent.append(f"system calls are not restricted: {seccomp.INSTALL}")
    else:
        calls.load()
    entered = Sandbox(version, calls.count if calls else 0, tuple(absent))
    if needs.programs:
        logger.info("sandbox: %s; files are not restricted, for it starts programs", entered)
    else:
        logger.log(logging.WARNING if absent else logging.DEBUG, "sandbox: %s", entered)
    return entered


def hint(error: PermissionError) -> str:
    """Say to who wrote a device what it was that refused something."""
    what = f"{error.filename!r}: " if error.filename else ""
    return (
        f"{what}in its sandbox a device opens what it needs in __init__; later it only reads its own folder "
        "(docs/security.md); sandbox = false leaves it alone"
    )
