"""Devices that are killed: which process is one now, and when its successor has completed a first request.

What is completed is read from the in-flight tables in the device's page, which is shared memory with a name: nothing is
asked of any process, and nobody is slowed down.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import time
from typing import NamedTuple

from devproc import rings
from devproc.virtio_spec import Feature
from devproc.virtio_transport import TransportState
from devproc.virtqueue import QueueRecord
from orchestrator.record import Record
from protocol.layout import DevicePage
from protocol.memory import SHM, shm_name
from protocol.names import Runtime

PATIENCE_S = 60.0
_LOOK_S = 0.0005
LIFE_S = 1.0  # of a process at least, where times are judged: longer than a life that counts as a failure
_PACKED_USED, _SPLIT_USED = 16, 14  # of an in-flight table


class Stuck(Exception):
    """Nothing is completed any more."""


class Death(NamedTuple):
    """Seconds from a kill on."""

    gone: float
    """Until the process was: the kernel takes its memory and descriptors away first."""
    first: float
    """Until its successor had completed a request."""


class Victim:
    """The device ``device`` of ``vm``, which runs."""

    def __init__(self, vm: str, device: str) -> None:
        self.device = device
        self._runtime = Runtime(vm)
        with (SHM / shm_name(vm, f"dev.{device}")).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def _word(self, offset: int, width: int) -> int:
        return int.from_bytes(self._map[offset : offset + width], "little")

    def completed(self) -> list[int]:
        """Return a word of each queue that changes with what is completed."""
        state = DevicePage.STATE
        count = self._word(state + TransportState.queue_count.offset, 4)
        packed = self._word(state + TransportState.driver_features.offset, 8) & Feature.RING_PACKED
        table = state + 64 * (1 + count)
        words = []
        for index in range(count):
            words.append(self._word(table + (_PACKED_USED if packed else _SPLIT_USED), 2))
            table += rings.stride(self._word(state + 64 * (1 + index) + QueueRecord.size.offset, 2))
        return words

    def _next(self) -> None:
        """Return when another request is completed."""
        before, deadline = self.completed(), time.monotonic() + PATIENCE_S
        while self.completed() == before:
            if time.monotonic() > deadline:
                raise Stuck(f"{self.device} completes nothing")
            time.sleep(_LOOK_S)

    def _open(self) -> int:
        """Return a pidfd of its process, as soon as it has one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = Record.read(self._runtime)
            pidfd = found.entries[self.device].open() if found else None
            if pidfd is not None:
                return pidfd
            time.sleep(_LOOK_S)
        raise Stuck(f"{self.device} has no process")

    def kill(self) -> Death:
        """Kill its process while it works.

        Raises:
            Stuck: none is, or it does not work.
        """
        self._next()
        pidfd = self._open()
        started = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
        gone = time.monotonic() - started
        os.close(pidfd)
        self._next()
        return Death(gone, time.monotonic() - started)

    def stop(self, seconds: float) -> float:
        """Stop its process for so long; return the seconds from its going on to the next request that is completed.

        Raises:
            Stuck: none is, or it does not work.
        """
        self._next()
        pidfd = self._open()
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            time.sleep(seconds)
            started = time.monotonic()
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)
        self._next()
        return time.monotonic() - started

    def close(self) -> None:
        """Forget it."""
        self._map.close()
