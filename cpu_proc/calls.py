"""Eventfds that back-ends write to interrupt the guest: the thread that counts them (``engine.calls``).

A call has a source of its own in the interrupt page, which only that thread writes; ``pcie.root`` turns its count into
a message of the vector that the device's page names. The thread is there once the first call is, and asleep.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import threading
from typing import Any

import numpy as np

from cpu_proc.engine import calls as slots
from cpu_proc.hart import address_of
from protocol.layout import IrqPage

_LIBC = ctypes.CDLL(None)
_EVENTS = 64
# struct epoll_event: on x86-64 without the gap that others have before the 8 bytes of data (epoll_ctl(2))
_PACKED = platform.machine() in ("x86_64", "AMD64")
_DATA = 4 if _PACKED else 8
_ADD = 1  # EPOLL_CTL_ADD


class Calls:
    """All calls of a machine; ``add`` and ``remove`` belong to the thread of the bus."""

    def __init__(self, engine: Any, irq: IrqPage, irq_event: int) -> None:
        self._engine = engine
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        size = _DATA + 8
        self._buffers = np.zeros(_EVENTS * size + 16, np.uint8)
        self._one = np.ones(1, np.int64)
        here = int(self._buffers.ctypes.data)
        self._state = np.zeros(slots.SIZE, np.int64)
        for slot, value in {
            slots.EPOLL_WAIT_FUNCTION: _address("epoll_wait"),
            slots.READ_FUNCTION: _address("read"),
            slots.WRITE_FUNCTION: _address("write"),
            slots.EPOLL_FD: self._epoll.fileno(),
            slots.STOP_FD: self._stop,
            slots.IRQ_FD: irq_event,
            slots.EVENTS_HOST: here + 16,
            slots.EVENTS: _EVENTS,
            slots.EVENT_SIZE: size,
            slots.EVENT_DATA: _DATA,
            slots.BUFFER_HOST: here,
            slots.ONE_HOST: int(self._one.ctypes.data),
            slots.WORDS_HOST: address_of(irq.shared, IrqPage.WORDS),
            slots.LOOK_HOST: address_of(irq.shared, IrqPage.LOOK),
        }.items():
            self._state[slot] = value
        self._watch(self._stop, 0)

    def _watch(self, fd: int, source: int) -> None:
        """Register a descriptor; Python's own ``register`` has no say in the data of an event."""
        data = fd | source << 32
        event = select.EPOLLIN.to_bytes(4, "little") + bytes(_DATA - 4) + data.to_bytes(8, "little")
        if _LIBC.epoll_ctl(self._epoll.fileno(), _ADD, fd, event):
            raise OSError(f"epoll_ctl of descriptor {fd}")

    def add(self, fd: int, source: int) -> None:
        """Count every write of the eventfd ``fd`` in the word of ``source``."""
        self._watch(fd, source)
        if self._thread is None:
            run = self._engine.serve_calls
            self._thread = threading.Thread(target=run, args=(self._state,), name="calls", daemon=True)
            self._thread.start()

    def remove(self, fd: int) -> None:
        """Forget ``fd``, before it is closed."""
        self._epoll.unregister(fd)

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._stop)


def _address(function: str) -> int:
    return ctypes.cast(getattr(_LIBC, function), ctypes.c_void_p).value or 0
