"""Guest time: the host's monotonic clock less an offset that grows while the machine stands still.

The offset counts modulo 2**64: guest time may be ahead of the host's clock, which starts anew at each of its boots.
"""

from __future__ import annotations

import time

from cpu_proc.engine.state import TICK_NS
from protocol.layout import ClockPage

_MODULUS = 1 << 64


class GuestClock:
    """Owns the clock page. Starts stopped at zero."""

    def __init__(self, page: ClockPage) -> None:
        self.page = page
        page.format()
        page.offset_ns = time.monotonic_ns()
        page.running = 0
        page.stopped_at_ns = 0

    def now_ns(self) -> int:
        """Return guest time."""
        if self.page.running:
            return (time.monotonic_ns() - self.page.offset_ns) % _MODULUS
        return self.page.stopped_at_ns

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
