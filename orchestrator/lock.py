"""The lock of a VM: whoever supervises it holds it, so that there is one and a dead one leaves nothing locked."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from protocol.errors import HostError
from protocol.names import Runtime

CALL = signal.SIGUSR1
"""What its holder is sent when something was left for it to do."""


def _call_later(*_: object) -> None:
    """Outlive a call that comes before the holder's event loop; it looks for what was left when it begins."""


class Lock:
    """A held ``flock`` on the VM's lock file, which names the holder."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self.claim()

    def claim(self) -> None:
        """Write who holds it: called again by the child that goes on in the background."""
        signal.signal(CALL, _call_later)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; the file goes with its folder."""
        os.close(self._fd)

    @classmethod
    def take(cls, runtime: Runtime) -> Lock:
        """Make the VM's folders and lock them.

        Raises:
            HostError: somebody supervises this VM.
        """
        for _ in range(100):
            runtime.prepare()
            try:
                fd = os.open(runtime.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # its folder has just gone away with the VM before
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_ino == os.stat(runtime.lock).st_ino:
                    return cls(fd, runtime.lock)
            except BlockingIOError:
                os.close(fd)
                raise HostError(
                    f"a VM named {runtime.vm!r} is running already, under process {holder(runtime) or '?'}",
                    hint=f"`orchestrator console {runtime.vm}` joins it; --name gives this one another name",
                ) from None
            except FileNotFoundError:
                pass  # locked a file that is no longer there
            except OSError as error:
                os.close(fd)
                raise HostError(f"cannot write {runtime.lock}: {error.strerror}") from error
            os.close(fd)
        raise HostError(f"cannot lock {runtime.lock}")


def holder(runtime: Runtime) -> int | None:
    """Return the pid of the process that supervises the VM, or ``None`` if nobody does."""
    try:
        fd = os.open(runtime.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None
