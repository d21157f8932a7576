"""A UNIX stream socket on which a device is reached: only by its user, and never by taking another's away."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from pathlib import Path

from protocol.errors import ConfigError, HostError
from protocol.peer import is_admitted

logger = logging.getLogger(__name__)


class Socket:
    """Where others connect: a path of our own, or a descriptor that was handed to us."""

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        self.socket = sock
        self.listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self._path = path
        self._inode = path.stat().st_ino if path else 0

    @classmethod
    def at(cls, path: Path) -> Socket:
        """Listen at ``path``, which only this user can connect to; a socket on which nobody listens gives way.

        Raises:
            HostError: somebody listens there, something else is there, or the folder does not let us.
        """
        _look(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            sock.bind(str(fresh))
            sock.listen(4)
            fresh.rename(path)  # whoever sees the name can connect
        except OSError as error:
            sock.close()
            fresh.unlink(missing_ok=True)
            raise HostError(f"socket {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        return cls(sock, path)

    @classmethod
    def inherited(cls, fd: int) -> Socket:
        """Use descriptor ``fd``: a listening socket, or one that is connected already.

        Raises:
            ConfigError: it is no UNIX stream socket.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise ConfigError(f"--fd {fd}: {error.strerror}") from error
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"--fd {fd} is no UNIX stream socket")
        sock.set_inheritable(False)
        return cls(sock)

    def accept(self) -> socket.socket:
        """Take who has come.

        Raises:
            OSError: nobody has, or another user, who is turned away.
        """
        sock, _ = self.socket.accept()
        if self._path is not None and not is_admitted(sock):
            sock.close()
            logger.warning("%s: another user was turned away", self._path)
            raise PermissionError(errno.EACCES, "another user")
        return sock

    def close(self) -> None:
        """Stop listening; take the name away if it is still ours."""
        self.socket.close()
        try:
            if self._path is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except (FileNotFoundError, PermissionError):
            pass  # in a sandbox the name stays; who listens there next takes it, and the orchestrator removes it


def _look(path: Path) -> None:
    """Refuse a path that is in use."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise HostError(f"{path} is there and no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise HostError(f"socket {path}: {error.strerror}") from error
    raise HostError(f"socket {path}: another process listens there", hint="each device has a socket of its own")
