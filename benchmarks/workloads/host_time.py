"""What part of the time the host ran a hart that wanted to run: others use its cores as well.

Linux counts for each thread how long it ran and how long it stood in a run queue (``/proc/PID/task/TID/schedstat``). A
figure per second divided by that part is what the emulator would have reached with a core of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def watch(pid: int) -> Callable[[], float]:
    """Begin; the function returned tells the part since, for the thread of ``pid`` that has run most."""
    before, started = _threads(pid), time.monotonic_ns()

    def part() -> float:
        passed = time.monotonic_ns() - started
        spent = [(ran - before.get(thread, (0, 0))[0], waited - before.get(thread, (0, 0))[1], thread)
                 for thread, (ran, waited) in _threads(pid).items()]  # fmt: skip
        _, waited, _ = max(spent, default=(0, 0, 0))
        return 1 - min(waited / passed, 0.9)

    return part


def _threads(pid: int) -> dict[int, tuple[int, int]]:
    """Return for each thread the nanoseconds it ran and waited; none where the host does not count."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            ran, waited, _ = path.read_text().split()
            found[int(path.parent.name)] = int(ran), int(waited)
    return found
