"""Whether and when a device that ended is started again: pure, time is an argument.

There is no last attempt: the guest waits for its device, and what is missing on the host may come.
"""

from __future__ import annotations

from dataclasses import dataclass

QUICK_S = 1.0  # a process that lived longer than this had joined its machine, and served: a fresh case
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0


@dataclass(frozen=True)
class Again:
    """Start it again after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True)
class GiveUp:
    """Leave it; ``reason`` is for people."""

    reason: str


class Policy:
    """The restart policy of one device and its memory."""

    def __init__(self, restart: str) -> None:
        self._restart = restart
        self._delay_s = 0.0

    def ended(self, status: int | None, lived_s: float) -> Again | GiveUp:
        """Decide after the process ended with ``status`` (negative: a signal; ``None``: unknown)."""
        if self._restart == "no":
            return GiveUp('restart = "no"')
        if self._restart == "on-failure" and status == 0:
            return GiveUp('it ended with status 0 and restart is "on-failure"')
        if lived_s >= QUICK_S:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(_LONGEST_DELAY_S, 2 * delay_s or _FIRST_DELAY_S)
        return Again(delay_s)
