"""The event loop of a device process: one ``epoll`` on one thread, with calls from others."""

from __future__ import annotations

import logging
import os
import select
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from protocol.errors import BusvmError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EventLoop:
    """Watches descriptors; ``call`` and ``stop`` may come from any thread, the rest is the loop's own."""

    def __init__(self) -> None:
        self.stopping = False
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.watch(self._wake, self._run_calls)

    def call(self, action: Callable[[], T]) -> Future[T]:
        """Run ``action`` on the loop's thread and return its future."""
        future: Future[T] = Future()
        self._calls.append((action, future))
        os.eventfd_write(self._wake, 1)
        return future

    def stop(self) -> None:
        """End the loop at the next descriptor boundary; safe in a signal handler."""
        self.stopping = True
        os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` when ``fd`` is readable; raises ``OSError`` for what cannot be waited for."""
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def turn(self, timeout_s: float | None) -> None:
        """Wait until something is there, or ``timeout_s``, and handle it."""
        ready = self._epoll.poll(timeout_s)
        self.woken()
        for fd, _ in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()

    def woken(self) -> None:
        """Take note that the wait is over."""

    def close(self) -> None:
        """Close the loop's descriptors; nobody calls any more."""
        self._epoll.close()
        os.close(self._wake)

    def _run_calls(self) -> None:
        os.eventfd_read(self._wake)
        while self._calls:
            fulfil(*self._calls.popleft())


def fulfil(action: Callable[[], T], future: Future[T]) -> None:
    """Do what somebody waits for, if they still do; what it raises is for them, and not the end of the process."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(action())
    except Exception as error:
        if not isinstance(error, BusvmError):
            logger.exception("a call failed")
        future.set_exception(error)
