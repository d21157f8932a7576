"""A clock with an alarm on the platform bus: a plain memory-mapped device, of which Linux has a driver.

The registers are those of the goldfish real-time clock, whose driver is rtc-goldfish.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from devproc.alarm import Alarm
from devproc.platform import PlatformDevice
from devproc.registers import Bar, Register

_MASK = (1 << 64) - 1


class Clock(PlatformDevice):
    """Nanoseconds since 1970; reading the low half holds the high half for the next read."""

    compatible = ("google,goldfish-rtc",)
    bar0 = Bar(size=0x1000)

    time_low = Register(bar0, 0x00, doc="Now, low half; a write sets the clock together with `time_high`.")
    time_high = Register(bar0, 0x04, doc="High half, as of the last read of `time_low`.")
    alarm_low = Register(bar0, 0x08, doc="Low half of the alarm; a write sets it together with `alarm_high`.")
    alarm_high = Register(bar0, 0x0C, doc="Its high half.")
    irq_enabled = Register(bar0, 0x10, mask=1, sync=True, doc="Whether the alarm interrupts.")
    clear_alarm = Register(bar0, 0x14, access="w", store=False, doc="A write takes the alarm back.")
    alarm_status = Register(bar0, 0x18, access="r", doc="Whether an alarm is set.")
    clear_interrupt = Register(bar0, 0x1C, access="w", store=False, sync=True, doc="A write lowers the wire.")
    ringing = Register(bar0, 0x28, access="r", doc="Whether the wire is high as soon as it may be.")
    ahead = Register(bar0, 0x20, width=8, access="r", doc="Nanoseconds that the driver has set the clock ahead.")

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self._host_ns = now_ns
        self._alarm = Alarm()

    def now_ns(self) -> int:
        """Return what the clock says."""
        return self._host_ns() + self.ahead & _MASK

    @time_low.on_read
    def _read_time(self) -> int:
        now = self.now_ns()
        self.time_high = now >> 32
        return now & 0xFFFF_FFFF

    @time_low.on_write
    def _set_time(self, low: int) -> None:
        self.ahead = (self.time_high << 32 | low) - self._host_ns()
        self._wind()

    @alarm_low.on_write
    def _set_alarm(self, _low: int) -> None:
        self.alarm_status = 1
        self._wind()

    @clear_alarm.on_write
    def _clear_alarm(self, _value: int) -> None:
        self.alarm_status = 0

    @clear_interrupt.on_write
    def _clear_interrupt(self, _value: int) -> None:
        self.ringing = 0
        self._signal()

    @irq_enabled.on_write
    def _enable(self, _value: int) -> None:
        self._signal()

    def _signal(self) -> None:
        self.line(bool(self.ringing and self.irq_enabled))

    def _wind(self) -> None:
        """Set this process's alarm from the registers, which are what counts."""
        if self.alarm_status:
            self._alarm.set(max(0, (self.alarm_high << 32 | self.alarm_low) - self.now_ns()) / 1e9)

    def _rang(self) -> None:
        self._alarm.acknowledge()
        if self.alarm_status and self.now_ns() >= self.alarm_high << 32 | self.alarm_low:
            self.alarm_status, self.ringing = 0, 1
            self._signal()
        else:
            self._wind()  # the clock was set meanwhile

    def sources(self) -> dict[int, Callable[[], None]]:
        """Watch the alarm."""
        return {self._alarm.fd: self._rang}

    def recover(self) -> None:
        """Wind the alarm that a predecessor was killed with."""
        self._wind()

    def close(self) -> None:
        """Close the alarm."""
        self._alarm.close()
