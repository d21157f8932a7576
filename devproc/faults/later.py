"""What a fault puts off: done on the device loop when its time has come."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from devproc.alarm import Alarm


class Later:
    """Actions by time. ``fd`` is readable when one is due; ``run`` does it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._alarm = Alarm()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def fd(self) -> int:
        """What a loop watches."""
        return int(self._alarm.fd)

    def __bool__(self) -> bool:
        return bool(self._due)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do ``action`` after ``seconds``; those of one moment in the order in which they came."""
        self._count += 1
        heapq.heappush(self._due, (self._clock() + seconds, self._count, action))
        self._wind()

    def _wind(self) -> None:
        if self._due:
            self._alarm.set(max(0.0, self._due[0][0] - self._clock()))

    def run(self) -> None:
        """Do what is due."""
        self._alarm.acknowledge()
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        self._wind()

    def settle(self) -> None:
        """Wait for everything, where there is no loop."""
        while self._due:
            time.sleep(max(0.0, self._due[0][0] - self._clock()))
            self.run()

    def forget(self) -> None:
        """Do none of it."""
        self._due.clear()

    def close(self) -> None:
        """Close the alarm."""
        self.forget()
        self._alarm.close()
