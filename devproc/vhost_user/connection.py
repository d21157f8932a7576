"""A device's connection with its back-end: what happens when it speaks, when it goes, when it comes back.

All of it is the device loop's; the loop knows one descriptor, behind which are those of the connection.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from devproc.vhost_user.peer import BackEnd, Peer
from devproc.virtio import VirtioDevice
from protocol.errors import HostError, Malformed, PeerGone, ProtocolError
from protocol.vhost_user.messages import BackendRequest

logger = logging.getLogger(__name__)

_SHORT_S, _SHORT_MOST = 1.0, 5


class ConnectedDevice(VirtioDevice):
    """A virtio device that has a back-end, or waits for one."""

    def __init__(self, peer: Peer, met: BackEnd, *, queue_count: int, queue_size: int) -> None:
        super().__init__(queue_count=queue_count, queue_size=queue_size)
        self.peer = peer
        self.met: BackEnd | None = None
        """The back-end, while there is one."""
        self._handlers: dict[int, Callable[[], None]] = {}
        self._events = select.epoll()
        self._since, self._short = 0.0, 0
        self._overheard = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # asked while we waited for an answer
        self.watch(self._overheard, self._asked)
        self.watch(peer.fd, self._came)
        self._connect(met)

    # what a device does about it

    def back_end_came(self, met: BackEnd) -> None:
        """Go on with a back-end that has come.

        Raises:
            ProtocolError: it is not one for this device.
        """
        raise NotImplementedError

    def back_end_changed(self, met: BackEnd) -> None:
        """Take note that its config space has changed."""
        raise NotImplementedError

    def back_end_dropped(self) -> None:
        """Take note that it knows nothing any more."""
        raise NotImplementedError

    # descriptors

    def sources(self) -> dict[int, Callable[[], None]]:
        """Return the one descriptor behind which all others are: they come and go with back-ends."""
        return {self._events.fileno(): self._dispatch}

    def _dispatch(self) -> None:
        for fd, _ in self._events.poll(0):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` when ``fd`` is readable."""
        self._handlers[fd] = handler
        self._events.register(fd, select.EPOLLIN)

    # the conversation

    def _connect(self, met: BackEnd) -> None:
        self.met = met
        self._since = time.monotonic()
        self.watch(met.front.connection.fileno(), self._spoke)
        if met.front.channel is not None:
            self.watch(met.front.channel.fileno(), self._asked)

    def drop(self) -> None:
        """Hang up; the rings are still noted as given."""
        met, self.met = self.met, None
        if met is None:
            return
        for end in (met.front.connection, met.front.channel):
            if end is not None and end.fileno() in self._handlers:
                del self._handlers[end.fileno()]
                self._events.unregister(end.fileno())
        met.front.close()
        self.back_end_dropped()

    @contextmanager
    def conversation(self) -> Iterator[None]:
        """Talk to the back-end: one that goes away is waited for, one that cannot be understood breaks the device."""
        try:
            yield
        except PeerGone as error:
            self._gone(error.message)
        except (ProtocolError, HostError) as error:
            self.distrust(error.message)
        if self.met is not None and self.met.front.heard:
            os.eventfd_write(self._overheard, 1)

    def _gone(self, why: str) -> None:
        logger.warning("the back-end is gone (%s); waiting for it at %s", why, self.peer.path)
        self.counters["lost_back_ends"] += 1
        self._short = self._short + 1 if time.monotonic() - self._since < _SHORT_S else 0
        if self._short > _SHORT_MOST:
            self.distrust(
                f"gone {self._short} times, each within {_SHORT_S:.0f} s: there may be something in the rings"
            )
            return
        self.drop()
        self.peer.seek()

    def begin_anew(self) -> None:
        """Forget what it has done; one that was given up gets another chance."""
        self._short = 0
        if self.met is None:
            self.peer.seek()

    def distrust(self, why: str) -> None:
        """Give the back-end up until the guest begins anew."""
        logger.error("the back-end: %s; the device is broken until the guest resets it", why)
        self.counters["bad_back_ends"] += 1
        self.drop()
        self.needs_reset(why)

    def _spoke(self) -> None:
        """The back-end has said something that nobody asked for: most often, good-bye."""
        met = self.met
        if met is None:
            return
        with self.conversation():
            try:
                data = met.front.connection.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise PeerGone(error.strerror or "connection") from error
            if data:
                raise Malformed("it answers what it was not asked")
            raise PeerGone("closed")

    def _asked(self) -> None:
        """The back-end asks on its channel, or has asked."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._overheard)
        met = self.met
        if met is None:
            return
        with self.conversation():
            heard = met.front.hear()
            if BackendRequest.CONFIG_CHANGE_MSG in heard:
                self.back_end_changed(met)
            others = [request.name for request in heard if request != BackendRequest.CONFIG_CHANGE_MSG]
            if others:
                raise Malformed(f"it asks for {', '.join(others)}, which was not agreed on")

    def _came(self) -> None:
        """A back-end has been met."""
        met = self.peer.take()
        if met is None:
            return
        logger.info("the back-end is back")
        self._connect(met)
        with self.conversation():
            self.back_end_came(met)

    def close(self) -> None:
        """Hang up, and look for no other."""
        self.drop()
        self.peer.close()
        self._events.close()
        os.close(self._overheard)
