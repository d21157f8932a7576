"""Serves a device to vhost-user front-ends, one after the other: the socket, and the loop around a ``Session``.

A front-end may go away and come back, with the same guest or another; who comes while another is being served waits.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from pathlib import Path

from devproc.device import Device, Machine
from devproc.events import EventLoop
from devproc.vhost_session import Session
from devproc.virtio import VirtioDevice
from devproc.virtio_vhost_user import VirtioVhostUser
from protocol.errors import ConfigError, HostError
from protocol.memory import GuestMemory, Words

logger = logging.getLogger(__name__)


class Socket:
    """Where front-ends connect: a path of our own, or a descriptor that was handed to us."""

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

    def close(self) -> None:
        """Stop listening; take the name away if it is still ours."""
        self.socket.close()
        try:
            if self._path is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass


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


class Server(EventLoop):
    """Runs one device for front-ends; ``stop`` may come from any thread or a signal handler."""

    def __init__(self, device: Device, place: Socket, *, once: bool = False) -> None:
        super().__init__()
        if not isinstance(device, VirtioDevice) or not isinstance(device, VirtioVhostUser):
            raise TypeError(f"{type(device).__name__} is not served over vhost-user")
        self.device = device
        self._place = place
        self._once = once or not place.listens
        self._session: Session | None = None
        device.attach(Machine.private(device.page_size, memory=GuestMemory(Words(memoryview(b"")), 0)))
        for fd, handler in device.sources().items():
            self.watch(fd, handler)

    def run(self) -> None:
        """Serve until ``stop``, or with ``once`` until the first front-end has gone."""
        if self._place.listens:
            self.watch(self._place.socket.fileno(), self._accept)
        else:
            self._begin(self._place.socket.dup())
        busy = False
        try:
            while not self.stopping:
                session = self._session
                self.turn(0 if busy else session.timeout() if session else None)
                busy = self._serve()
        finally:
            self._end()

    def close(self) -> None:
        """Close the socket and the loop; the device stays open."""
        self._place.close()
        machine = self.device.machine
        self.device.release()
        machine.close()
        super().close()

    def _accept(self) -> None:
        try:
            sock, _ = self._place.socket.accept()
        except OSError as error:
            logger.warning("accept: %s", error.strerror)
            return
        self.unwatch(self._place.socket.fileno())  # others wait
        self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        logger.info("front-end connected")
        self._session = Session(self.device, self, sock)  # type: ignore[arg-type]  # checked: it is both

    def _serve(self) -> bool:
        session = self._session
        if session is None:
            return False
        if not session.ended:
            return session.serve()
        spoke = session.back_end.served > 0
        self._end()
        if self._once and (spoke or not self._place.listens):
            self.stopping = True
        else:
            self.watch(self._place.socket.fileno(), self._accept)
        return False

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            logger.info("front-end gone")
