"""Harts on threads of their own: one lock for what they share, and a stand-still of all of them.

Compiled code runs outside the lock. A hart that comes out of it takes the lock to be served. Work that needs every
hart to stand still is left in ``work``: each hart is told to stop and parks here, and the last one to come does it.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from cpu_proc.hart import Hart

_LONGEST_WAIT_S = 1.0
_YIELD_S = 20e-6


class Gate:
    """Where harts wait for one another."""

    def __init__(self, harts: list[Hart]) -> None:
        self.lock = threading.RLock()
        self.work: deque[Callable[[], None]] = deque()
        self.held = False
        """While set, a stand-still does not end."""
        self.ended = False
        self._harts = harts
        self._changed = threading.Condition(self.lock)
        self._parked = 0
        self._stands = 0

    def call_in(self) -> None:
        """Have all harts come and park; from any thread."""
        for hart in self._harts:
            hart.stop()
            hart.wake()

    def end(self) -> None:
        """Let every hart leave for good."""
        self.ended = True
        self.call_in()
        with self.lock:
            self._changed.notify_all()

    def park(self, hart: Hart) -> None:
        """Wait until all harts are here and the work is done."""
        with self.lock:
            self._parked += 1
            if self._parked == len(self._harts):
                self._stand_still(hart)
                self._parked = 0
                self._stands += 1
                self._changed.notify_all()
                return
            stand = self._stands
            while self._stands == stand and not self.ended:
                self._changed.wait(_LONGEST_WAIT_S)

    def _stand_still(self, hart: Hart) -> None:
        while not self.ended:
            for other in self._harts:
                other["STOP_REQUEST"] = 0
            while self.work:
                self.work.popleft()()
            if not self.held:
                break
            with suppress(BlockingIOError):
                os.eventfd_read(hart.wake_event)
            if not self.work:
                select.select([hart.wake_event], [], [], _LONGEST_WAIT_S)

    def drive_out(self, but: Hart) -> None:
        """Have every other hart leave compiled code, to wait for the lock that the caller holds."""
        self.call_in()
        for hart in self._harts:
            while hart is not but and hart["RUNNING"]:
                _yield()

    def await_fences(self, hart: Hart) -> None:
        """Wait, without the lock, until other harts have seen what ``hart`` posted to them."""
        fences, hart.fences = hart.fences, []
        for target, number in fences:
            while target is not hart and not target.has_seen(number) and not self.ended:
                _yield()

    def settle(self, but: Hart | None) -> None:
        """Return when no other hart executes anything that began before the call."""
        posts = [(hart, hart.post("POSTED_FLUSH", 0)) for hart in self._harts if hart is not but]
        for hart, number in posts:
            while not hart.has_seen(number):
                _yield()


_nap = threading.Event()


def _yield() -> None:
    _nap.wait(_YIELD_S)
