"""Memory for unit tests: private, and private that fails after a number of stores."""

from __future__ import annotations

import os
from typing import Any

from protocol.memory import Shared


def private(size: int) -> Shared:
    """Return anonymous shared memory."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return Shared(fd, size)


class Crash(BaseException):
    """The process dies here."""


class Budget:
    """Stores left before the crash; shared by everything the process writes."""

    def __init__(self, stores: int) -> None:
        self.left = stores

    def spend(self) -> None:
        """Count one store."""
        if self.left == 0:
            raise Crash
        self.left -= 1


class _View:
    def __init__(self, view: memoryview, budget: Budget) -> None:
        self._view = view
        self._budget = budget

    def __getitem__(self, index: Any) -> Any:
        return self._view[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._budget.spend()
        self._view[index] = value


class Dying(Shared):
    """Another view of ``whole`` whose stores are counted; it owns nothing."""

    def __init__(self, whole: Shared, budget: Budget) -> None:
        self.fd, self.size, self.name, self.map = -1, whole.size, None, whole.map
        self.u8: Any = _View(whole.u8, budget)
        self.u16: Any = _View(whole.u16, budget)
        self.u32: Any = _View(whole.u32, budget)
        self.u64: Any = _View(whole.u64, budget)
