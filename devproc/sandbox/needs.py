"""What a process still needs of the host once it serves, beside what it has open."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from devproc.sandbox.rights import READ, WRITE, File

# what Python and the C library open of themselves: modules that are imported late, libraries, time zone, locale
_SYSTEM = (
    "/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo",
    "/usr/share/locale", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
_NAMES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services")


@dataclass(frozen=True)
class Needs:
    """What a program says of its configuration; a path that is not there is left out."""

    read: tuple[Path, ...] = ()
    """Files, and folders with everything in them."""
    write: tuple[Path, ...] = ()
    """Files that are there: read, written, made shorter."""
    internet: bool = False
    """Sockets of IPv4 and IPv6 that are made later; those that are there already stay."""
    tcp_connect: tuple[int, ...] | None = ()
    """The TCP ports that it may connect to; ``None``: any."""
    processes: bool = False
    """What /proc says of others' processes: who they are, never what is in them."""
    programs: bool = False
    """It starts programs, which need what nobody knows: neither files nor most system calls are taken away."""

    def with_names(self) -> Self:
        """Return it with what finds out the addresses of names, wherever the list of servers really is."""
        servers = Path("/etc/resolv.conf")
        folder = servers.resolve().parent
        # the list is replaced by renaming, and a rule is one for a file: the new one is only beneath the folder
        found = [Path(name) for name in _NAMES] + [folder]
        return replace(self, read=(*self.read, *found))

    def rights(self) -> tuple[tuple[str, File], ...]:
        """Return the rights on files, Python's own among them."""
        own = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(entry or os.getcwd() for entry in sys.path)}
        paths = [(path, READ) for path in sorted(own)] + [(path, READ) for path in _SYSTEM]
        paths.append(("/dev/null", WRITE))
        paths.append(("/proc" if self.processes else f"/proc/{os.getpid()}", READ))
        paths += [(str(path), READ) for path in self.read]
        return (*paths, *((str(path), WRITE) for path in self.write))
