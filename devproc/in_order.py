"""VIRTIO_F_IN_ORDER (virtio 1.2 §2.7.9, §2.8.9): buffers are used in the order in which they were made available.

A device whose requests overtake each other must hold the fast ones back, so that a flush of 20 ms delays every read
behind it. Linux accepts the feature from whoever offers it, to save itself a list; a disk would pay for that. It is
therefore offered only where it is asked for, for drivers that need it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator


class InOrder:
    """What one queue has taken and not returned, first come first; what was done too early waits here."""

    def __init__(self) -> None:
        self._taken: deque[int] = deque()
        self._early: dict[int, int] = {}

    def took(self, head: int) -> None:
        """Note that ``head`` was taken."""
        self._taken.append(head)

    def returned(self, head: int, written: int) -> Iterator[tuple[int, int]]:
        """Note that ``head`` is done, and give out what may go back to the guest now."""
        self._early[head] = written
        while self._taken and self._taken[0] in self._early:
            first = self._taken.popleft()
            yield first, self._early.pop(first)
