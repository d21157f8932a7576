"""Lines for people, from an event loop that must not wait for a terminal or a pipe that somebody stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

WAITING_MOST = 1000
_END_S = 1.0


class Speaker:
    """Says lines with ``say``, which may block, on a thread; those that find too many waiting are counted."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_MOST)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="speaker", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Say a line when those before have been said."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._left_out += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._say(line)
            if self._lines.empty():
                self._say_left_out()
        self._say_left_out()

    def _say_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        if count:
            self._say(f"{count} more messages were left out")

    def close(self) -> None:
        """Wait a moment until all has been said."""
        try:
            self._lines.put(None, timeout=_END_S)
        except queue.Full:
            return
        self._thread.join(_END_S)
