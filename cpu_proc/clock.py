"""Guest time: the host's monotonic clock less an offset that grows while the machine stands still, or instructions.

The offset counts modulo 2**64: guest time may be ahead of the host's clock, which starts anew at each of its boots.
"""

from __future__ import annotations

import time

from cpu_proc.engine.state import ICOUNT_PER_TICK, TICK_NS
from cpu_proc.hart import Hart
from protocol.layout import ClockPage

_MODULUS = 1 << 64
REAL, ICOUNT = "real", "icount"
ICOUNT_EPOCH_NS = 1_735_689_600 * 10**9  # 2025-01-01: what the RTC says at guest time 0, the same in every run


class GuestClock:
    """Owns the clock page. Starts stopped at zero."""

    source = REAL

    def __init__(self, page: ClockPage) -> None:
        self.page = page
        page.format()
        page.offset_ns = time.monotonic_ns()
        page.running = 0
        page.stopped_at_ns = 0

    def now_ns(self) -> int:
        """Return guest time."""
        return self.page.guest_ns()

    def wall_ns(self) -> int:
        """Return what a battery-backed clock shows, as nanoseconds since the epoch."""
        return time.time_ns()

    def ticks(self) -> int:
        """Return ``mtime``."""
        return self.now_ns() // TICK_NS

    def set_ticks(self, ticks: int) -> None:
        """Set ``mtime``."""
        self.page.offset_ns = (time.monotonic_ns() - ticks * TICK_NS) % _MODULUS
        self.page.stopped_at_ns = ticks * TICK_NS

    def start(self) -> None:
        """Let time go on from where it stopped."""
        if not self.page.running:
            self.page.offset_ns = (time.monotonic_ns() - self.page.stopped_at_ns) % _MODULUS
            self.page.running = 1

    def stop(self) -> None:
        """Hold time."""
        if self.page.running:
            self.page.stopped_at_ns = self.now_ns()
            self.page.running = 0


class InstructionClock(GuestClock):
    """Time is what one hart has retired, ten instructions a tick, and jumps ahead while the hart sleeps.

    The page shows devices the time of the hart's last stop; ``running`` stays 0, so that nobody reckons on from it.
    """

    source = ICOUNT

    def follow(self, hart: Hart) -> None:
        """Take the time from ``hart``."""
        self._hart = hart
        hart["ICOUNT"] = 1

    def _instructions(self) -> int:
        return self._hart["INSTRET"] + self._hart["ICOUNT_BASE"]

    def now_ns(self) -> int:
        """Return guest time; exact while the hart is out of compiled code."""
        now: int = self._instructions() % _MODULUS * TICK_NS // ICOUNT_PER_TICK
        self.page.stopped_at_ns = now % _MODULUS
        return now

    def wall_ns(self) -> int:
        """Return guest time since a fixed date."""
        return ICOUNT_EPOCH_NS + self.now_ns()

    def set_ticks(self, ticks: int) -> None:
        """Set ``mtime``."""
        self._hart["ICOUNT_BASE"] += ticks * ICOUNT_PER_TICK - self._instructions()

    def start(self) -> None:
        """Nothing to do: time goes where the hart goes."""

    def stop(self) -> None:
        """Show devices the time."""
        self.now_ns()
