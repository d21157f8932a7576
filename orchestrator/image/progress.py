"""Step lines on standard error: what is being done, and on a terminal how far it is.

A step that is over leaves one line. The moving part (a percentage, a package name) is drawn only where somebody
watches, that is on a terminal; a log file gets one line per step.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

DRAW_INTERVAL_S = 0.1


class Progress:
    """Reports the steps of a build; with ``quiet`` it says nothing."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._watched = not quiet and self._stream.isatty()
        self._step = ""
        self._drawn = 0.0

    def step(self, text: str) -> None:
        """Begin a step; its line stays."""
        if self._quiet:
            return
        self.clear()
        self._step = text
        print(text, file=self._stream, flush=True)

    def at(self, done: int, total: int, what: str = "") -> None:
        """Show how far the step is, on a terminal, at most ten times a second."""
        now = time.monotonic()
        if not self._watched or now - self._drawn < DRAW_INTERVAL_S:
            return
        self._drawn = now
        percent = 100 * done // total if total else 100
        self._stream.write(f"\r\033[K  {percent:3d}% {what[:60]}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the moving line away."""
        if self._watched and self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()
            self._drawn = 0.0
