"""Serves a device to vhost-user front-ends, one after the other: the socket, and the loop around a ``Session``.

A front-end may go away and come back, with the same guest or another; who comes while another is being served waits.
"""

from __future__ import annotations

import logging
import socket

from devproc.device import Device
from devproc.events import EventLoop
from devproc.listening import Socket
from devproc.machine import Machine
from devproc.vhost_session import Session
from devproc.virtio import VirtioDevice
from devproc.virtio_vhost_user import VirtioVhostUser
from protocol.memory import GuestMemory, Words
from protocol.truncation import survival

logger = logging.getLogger(__name__)


class Server(EventLoop):
    """Runs one device for front-ends; ``stop`` may come from any thread or a signal handler."""

    def __init__(self, device: Device, place: Socket, *, once: bool = False) -> None:
        super().__init__()
        if not isinstance(device, VirtioDevice) or not isinstance(device, VirtioVhostUser):
            raise TypeError(f"{type(device).__name__} is not served over vhost-user")
        self.device: VirtioVhostUser = device
        self._place = place
        self._once = once or not place.listens
        self._session: Session | None = None
        device.loop = self
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
        with survival():
            try:
                while not self.stopping:
                    session = self._session
                    self.turn(0 if busy else session.rings.timeout() if session else None)
                    busy = self._serve()
            finally:
                self._end()

    def refresh(self) -> None:
        """Have the device look at its host again; from any thread or a signal handler."""
        self.call(self.device.refresh)

    def close(self) -> None:
        """Close the socket and the loop; the device stays open."""
        self._place.close()
        machine = self.device.machine
        self.device.release()
        machine.close()
        super().close()

    def _accept(self) -> None:
        try:
            sock = self._place.accept()
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
