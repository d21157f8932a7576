"""``python -P -m devproc.fork_server FD MODULE…``: has loaded what device processes need, and forks them.

What costs a device's process most until it serves is Python with its imports. Here that was paid once: a fork of this
process becomes the device within milliseconds, and shares its memory with the others. It becomes one as ``python -m``
makes one, with a session, descriptors, environment and command of its own.

Nothing here runs that a fork cannot bear: no thread, no event loop, no ZeroMQ context.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import runpy
import socket
import sys
from contextlib import suppress
from itertools import pairwise

from devproc import title
from protocol import forks, interfaces
from protocol.forks import Ended, Reap, Start

_LATER = (
    "devproc.host",
    "devproc.exported",
    "devproc.faults.declared",
    "devproc.loop",
    "devproc.network.exported",
    "devproc.newcomer",
    "devproc.spare",
    "devproc.sandbox.landlock",
    "devproc.sandbox.privileges",
    "devproc.sandbox.seccomp",
    "protocol.staying",
)
"""What every device imports at some time; the rest comes with its program."""


def load(modules: list[str]) -> None:
    """Import what programs of these names import; they themselves run in a fork."""
    for name in (*_LATER, *(f"{name}.__main__" for name in modules), *(f"{name}.exported" for name in modules)):
        with suppress(ImportError):  # its own process will say so
            importlib.import_module(name)
    for name in modules:  # which runpy would warn of
        sys.modules.pop(f"{name}.__main__", None)
    for name in interfaces.names():
        interfaces.load(name)
    from devproc.sandbox import privileges, seccomp

    privileges.libc()
    seccomp.library()


class Sources:
    """The files that were imported, as they were."""

    def __init__(self) -> None:
        files = {getattr(module, "__file__", None) for module in sys.modules.values()}
        files |= {str(interfaces.file(name)) for name in interfaces.names()}
        self._seen = {file: _state(file) for file in files if file}

    @property
    def changed(self) -> bool:
        """Whether one of them is another now."""
        return any(_state(file) != seen for file, seen in self._seen.items())


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Server:
    """Forks for whoever holds the other end of ``line``."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._sources = Sources()
        self._children: set[int] = set()
        self._outdated = False

    def run(self) -> tuple[Start, list[int]] | None:
        """Serve; return ``None`` when nobody needs this process any more, and in a fork what it is to become."""
        self._line.send(forks.READY)
        while not self._outdated or self._children:
            order, fds = forks.receive(self._line)
            if isinstance(order, Start):
                if self._fork(fds):
                    self._line.close()
                    return order, fds
            elif isinstance(order, Reap):
                forks.send(self._line, Ended(self._reap(order.pid)))
            else:
                return None
        return None

    def _fork(self, fds: list[int]) -> bool:
        """Return whether this is the fork."""
        self._outdated = self._outdated or self._sources.changed
        if self._outdated:
            os.write(fds[0], forks.OUTDATED)
        else:
            with suppress(OSError):  # whoever asked tries it without us, and says what is missing
                pid = os.fork()
                if pid == 0:
                    return True
                self._children.add(pid)
        for fd in fds:
            os.close(fd)
        return False

    def _reap(self, pid: int) -> int | None:
        if pid not in self._children:
            return None
        self._children.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become(start: Start, fds: list[int]) -> None:
    """Make a fork what ``start`` says, and run it; it ends by ``SystemExit`` or with its error, as any program."""
    line, output, *others = fds
    os.setsid()
    if start.cwd:
        os.chdir(start.cwd)
    title.show(start.argv)
    os.write(line, str(os.getpid()).encode())
    if not os.read(line, 1):
        os._exit(0)
    _place({0: os.open(os.devnull, os.O_RDONLY), 1: output, 2: output, **dict(zip(start.fds, others, strict=True))})
    os.environb.clear()
    os.environb.update(start.env)
    words = [os.fsdecode(word) for word in start.argv]
    at = words.index("-m")
    if "-P" not in words[:at]:
        sys.path.insert(0, os.getcwd())
    sys.orig_argv[:] = words
    sys.argv[:] = words[at + 1 :]
    runpy.run_module(words[at + 1], run_name="__main__", alter_sys=True)


def _place(wanted: dict[int, int]) -> None:
    """Have these descriptors at these numbers, and no others."""
    above = max(wanted) + 1
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, above) for number, fd in wanted.items()}
    for number, fd in moved.items():
        os.dup2(fd, number)
    bounds = [-1, *sorted(moved), os.sysconf("SC_OPEN_MAX")]
    for low, high in pairwise(bounds):
        if low + 1 < high:  # closerange(0, 0) closes all
            os.closerange(low + 1, high)


def main() -> None:
    """Serve, or run in a fork what that has become."""
    line = socket.socket(fileno=int(sys.argv[1]))
    load(sys.argv[2:])
    if not title.show([os.fsencode(word) for word in sys.orig_argv]):
        sys.exit("the kernel does not let processes show other commands than they were started with")
    gc.collect()
    gc.freeze()
    with suppress(ConnectionError):
        found = Server(line).run()
        if found is not None:
            become(*found)


if __name__ == "__main__":
    main()
