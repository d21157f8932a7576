"""goldfish-rtc: nanoseconds since the epoch, with an alarm."""

from __future__ import annotations

import time
from collections.abc import Callable

from cpu_proc.platform.mmio import Line

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH, IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = range(0, 0x20, 4)


class Rtc:
    """The clock; ``tick`` is called by the machine now and then to let the alarm ring."""

    SAVED = (
        "_offset",
        "_high",
        "_alarm",
        "_armed",
        "_enabled",
        "_pending",
        "_set_high",
    )

    def __init__(self, line: Line, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._line = line
        self._wall_ns = wall_ns
        self.reset()

    def reset(self) -> None:
        """Return to power-on state; a time the guest has set stays, as with a battery."""
        self._offset = getattr(self, "_offset", 0)
        self._high = 0
        self._alarm = 0
        self._armed = False
        self._enabled = False
        self._pending = False
        self._line(0)

    def now(self) -> int:
        """Return the time as the guest sees it."""
        return self._wall_ns() + self._offset

    @property
    def armed(self) -> bool:
        """Whether an alarm is set that has not rung."""
        return self._armed

    def next_alarm_s(self) -> float | None:
        """Return the seconds until the alarm, or ``None`` when it is not set."""
        return max(0, self._alarm - self.now()) / 1e9 if self._armed else None

    def tick(self) -> None:
        """Ring if it is time."""
        if self._armed and self.now() >= self._alarm:
            self._armed = False
            self._pending = True
            self._line(self._pending and self._enabled)

    def read(self, offset: int, size: int) -> int:
        """Read a register; TIME_LOW latches TIME_HIGH."""
        if size != 4:
            return 0
        if offset == TIME_LOW:
            now = self.now()
            self._high = now >> 32 & 0xFFFF_FFFF
            return now & 0xFFFF_FFFF
        if offset == TIME_HIGH:
            return self._high
        if offset == ALARM_LOW:
            return self._alarm & 0xFFFF_FFFF
        if offset == ALARM_HIGH:
            return self._alarm >> 32
        if offset == IRQ_ENABLED:
            return int(self._enabled)
        if offset == ALARM_STATUS:
            return int(self._armed)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; ALARM_LOW arms, TIME_LOW sets the time written to TIME_HIGH before."""
        if size != 4:
            return
        if offset == TIME_LOW:
            self._offset += (self._set_high << 32 | value) - self.now()
        elif offset == TIME_HIGH:
            self._set_high = value
        elif offset == ALARM_LOW:
            self._alarm = self._alarm & ~0xFFFF_FFFF | value
            self._armed = True
            self.tick()
        elif offset == ALARM_HIGH:
            self._alarm = self._alarm & 0xFFFF_FFFF | value << 32
        elif offset == IRQ_ENABLED:
            self._enabled = bool(value & 1)
            self._line(self._pending and self._enabled)
        elif offset == CLEAR_ALARM:
            self._armed = False
        elif offset == CLEAR_INTERRUPT:
            self._pending = False
            self._line(0)

    _set_high = 0
