"""Descriptors that come and go, behind the one that a device names in ``sources``."""

from __future__ import annotations

import select
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR


class Descriptors:
    """Watches descriptors; handlers get the events, of ``READ``, ``WRITE`` and ``GONE``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    @property
    def fd(self) -> int:
        """The descriptor that is readable while one of them has something."""
        return self._epoll.fileno()

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READ) -> None:
        """Call ``handler`` when something happens to ``fd``; raises ``OSError`` for what cannot be waited for."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def want(self, fd: int, events: int) -> None:
        """Wait for other events; for none, only for its end."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``, before it is closed."""
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def turn(self, after: Callable[[], None] | None = None) -> None:
        """Handle what there is; ``after`` is called behind each handler."""
        for fd, events in self._epoll.poll(0):
            handler = self._handlers.get(fd)  # an earlier handler may have ended it
            if handler is not None:
                handler(events)
                if after is not None:
                    after()

    def close(self) -> None:
        """Close it; the descriptors are others'."""
        self._epoll.close()
