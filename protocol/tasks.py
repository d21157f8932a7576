"""Tasks that nobody awaits: kept while they run, since an event loop itself does not, and heard of when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Tasks:
    """Those of one owner; belongs to one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine from now on; an exception that it raises goes to the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("%s failed", getattr(task.get_coro(), "__qualname__", task), exc_info=error)

    def cancel(self) -> None:
        """Cancel those that run."""
        for task in list(self._running):
            task.cancel()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when those that run now have ended, or after a time."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
