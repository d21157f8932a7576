"""Eventfds that back-ends write to interrupt the guest: the thread that counts them (``engine.calls``).

A call has a source of its own in the interrupt page, which only that thread writes; ``pcie.root`` turns its count into
a message of the vector that the device's page names. Where it can, the thread sends the message itself: a row says
where it finds what it has to know of the function. The thread is there once the first call is, and asleep.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cpu_proc.engine import calls as slots
from cpu_proc.hart import Hart, address_of
from protocol.layout import IrqPage
from protocol.memory import full_fence


class Route(NamedTuple):
    """Where in this process the control word, the number of the vector and the table of MSI-X are; how many vectors."""

    control: int
    vector: int
    table: int
    vectors: int


_LIBC = ctypes.CDLL(None)
_EVENTS = 64
# struct epoll_event: on x86-64 without the gap that others have before the 8 bytes of data (epoll_ctl(2))
_PACKED = platform.machine() in ("x86_64", "AMD64")
_DATA = 4 if _PACKED else 8
_ADD = 1  # EPOLL_CTL_ADD


class Calls:
    """All calls of a machine; ``add``, ``remove`` and ``route`` are called by one thread at a time."""

    def __init__(self, engine: Any, irq: IrqPage, irq_event: int, harts: Sequence[Hart] = ()) -> None:
        """``harts`` are those to whose interrupt files messages are sent without Python."""
        self._engine = engine
        self._rows = np.zeros((IrqPage.SOURCES, slots.ROW_WORDS), np.int64)
        self._rows[:, slots.ROW_FD] = -1
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
            slots.ROWS_HOST: int(self._rows.ctypes.data),
            slots.HARTS: len(harts),
            slots.HARTS_HOST: harts[0]["HARTS_HOST"] if harts else 0,
            slots.IMSIC_S_BASE: harts[0]["IMSIC_S_BASE"] if harts else 0,
            slots.IMSIC_M_BASE: harts[0]["IMSIC_M_BASE"] if harts else 0,
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
        """Make an interrupt of every write of the eventfd ``fd``, that of ``source``."""
        self._rows[source] = 0
        self._rows[source, slots.ROW_FD] = fd
        self._watch(fd, source)
        if self._thread is None:
            run = self._engine.serve_calls
            self._thread = threading.Thread(target=run, args=(self._state,), name="calls", daemon=True)
            self._thread.start()

    def remove(self, fd: int, source: int) -> None:
        """Forget ``fd`` and what was said of its source, before the one is closed and the other unmapped."""
        self._epoll.unregister(fd)
        self._rows[source, slots.ROW_FD] = -1
        self._settle()

    def route(self, source: int, place: Route | None) -> None:
        """Have messages of a call sent by the thread, which finds there what to send; ``None``: by Python."""
        if place is None:
            self._rows[source, slots.ROW_CONTROL] = 0
            self._settle()
        elif self._state[slots.HARTS]:
            self._rows[source, slots.ROW_VECTOR : slots.ROW_VECTORS + 1] = place[1:]
            self._rows[source, slots.ROW_CONTROL] = place.control

    def _settle(self) -> None:
        """Return when the thread does nothing that began before the call."""
        full_fence()
        while self._state[slots.SERVING] and self._thread is not None and self._thread.is_alive():
            time.sleep(0)

    def sent(self, source: int) -> int:
        """Return how many messages the thread has sent for a source since it was added."""
        return int(self._rows[source, slots.ROW_SENT])

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._stop)


def _address(function: str) -> int:
    return ctypes.cast(getattr(_LIBC, function), ctypes.c_void_p).value or 0
