"""Which interrupt sources changed: all words of the interrupt page at a glance.

An interrupt of one device costs the same however many others there are.
"""

from __future__ import annotations

import numpy as np

from protocol.layout import IrqPage

_FIRST = IrqPage.WORDS >> 3


class Sources:
    """The words of ``irq`` as they were when they were looked at last; at first, all zero."""

    def __init__(self, irq: IrqPage) -> None:
        self._irq = irq
        self._seen = np.zeros(IrqPage.SOURCES, np.uint64)

    def changed(self, used: int) -> list[int]:
        """Return which of the first ``used`` sources have other words than when they were looked at last.

        A device that stores one meanwhile sets ``look`` afterwards: it is found now or at the next call.
        """
        # nothing is kept of the memory, which could not be unmapped then
        now = np.frombuffer(self._irq.shared.u64[_FIRST : _FIRST + used], np.uint64).copy()
        changed = np.flatnonzero(now != self._seen[:used])
        self._seen[:used] = now
        return changed.tolist()
