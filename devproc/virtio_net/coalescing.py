"""Fewer interrupts: a queue's may wait for more frames, or for some time (virtio 1.2 §5.1.6.5.7)."""

from __future__ import annotations

import time
from collections.abc import Callable

from devproc.alarm import Alarm
from devproc.virtqueue import Virtqueue


class Coalescing:
    """Interrupts that wait; ``limits`` says after how many frames and microseconds a queue's is due."""

    def __init__(
        self,
        limits: Callable[[Virtqueue], tuple[int, int]],
        notify: Callable[[Virtqueue], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._notify = notify
        self._clock = clock
        self._alarm: Alarm | None = None
        self._frames: dict[int, int] = {}
        self._waiting: dict[int, tuple[Virtqueue, float]] = {}

    @property
    def alarm(self) -> Alarm:
        """The alarm of what waits."""
        if self._alarm is None:
            self._alarm = Alarm()
        return self._alarm

    def finished(self, queue: Virtqueue) -> None:
        """Count a frame."""
        self._frames[queue.index] = self._frames.get(queue.index, 0) + 1

    def notify(self, queue: Virtqueue) -> None:
        """Interrupt the guest about ``queue`` now, or later."""
        packets, usecs = self._limits(queue)
        if not usecs or self._frames.get(queue.index, 0) >= max(1, packets):
            self._frames[queue.index] = 0
            self._waiting.pop(queue.index, None)
            self._notify(queue)
        elif queue.index not in self._waiting:
            self._waiting[queue.index] = queue, self._clock() + usecs / 1e6
            self.alarm.set(usecs / 1e6)

    def rang(self) -> None:
        """Interrupt about those that have waited long enough."""
        self.alarm.acknowledge()
        now = self._clock()
        for index, (queue, due) in list(self._waiting.items()):
            if due <= now:
                del self._waiting[index]
                self._frames[index] = 0
                self._notify(queue)
        if self._waiting:
            self.alarm.set(max(1e-6, min(due for _, due in self._waiting.values()) - now))

    def forget(self) -> None:
        """Let nothing wait."""
        self._frames.clear()
        self._waiting.clear()

    def close(self) -> None:
        """Close the alarm."""
        if self._alarm is not None:
            self._alarm.close()
