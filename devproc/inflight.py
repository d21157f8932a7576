"""The in-flight table of one queue, in the layout of vhost-user for split rings (QEMU's vhost-user.rst, "Inflight I/O
tracking").

It says which heads the device has taken and not yet returned, across the death of the process. Each step is one
store, and after any of them the table and the used ring together tell a successor what to do:

* ``take`` writes the counter, then the mark. The mark is the commit: the position in the available ring is not
  stored anywhere else but follows from ``used_idx`` plus the number of marks.
* ``link`` chains the heads of a batch; then the caller stores ``used.idx``, the commit towards the guest; then
  ``settle`` takes the marks away and stores ``used_idx``.
* A successor that finds ``used.idx`` ahead of ``used_idx`` clears the marks of that last batch itself (``recover``).
"""

from __future__ import annotations

from protocol.memory import Shared

_HEADER = 16
_ENTRY = 16
_VERSION = 1


class InflightTable:
    """``{u64 features, u16 version, u16 desc_num, u16 last_batch_head, u16 used_idx}`` and per descriptor
    ``{u8 inflight, u8 pad[5], u16 next, u64 counter}``.
    """

    def __init__(self, shared: Shared, offset: int) -> None:
        self._shared = shared
        self._offset = offset
        self._u8, self._u16, self._u64 = shared.u8, shared.u16, shared.u64
        self._mark = offset + _HEADER
        self._next = (offset + _HEADER + 6) >> 1
        self._counter = (offset + _HEADER + 8) >> 3
        self._half = offset >> 1
        self._taken = 0

    @staticmethod
    def size(entries: int) -> int:
        """Return the bytes of a table for a queue of ``entries`` descriptors."""
        return _HEADER + _ENTRY * entries

    @property
    def entries(self) -> int:
        """Descriptors in the table; 0 before ``start``."""
        return self._u16[self._half + 5]

    @property
    def used_idx(self) -> int:
        """The used index up to which marks have been taken away."""
        return self._u16[self._half + 7]

    def start(self, entries: int, used_idx: int = 0) -> None:
        """Begin with an empty table, for a used ring that is at ``used_idx``."""
        for entry in range(entries):
            self._u8[self._mark + entry * _ENTRY] = 0
        self._u16[self._half + 6] = 0
        self._u16[self._half + 7] = used_idx
        self._u16[self._half + 5] = entries
        self._u16[self._half + 4] = _VERSION

    def take(self, head: int) -> bool:
        """Mark ``head`` as taken from the available ring; return False when it was already."""
        mark = self._mark + head * _ENTRY
        if self._u8[mark]:
            return False
        self._taken += 1
        self._u64[self._counter + head * 2] = self._taken
        self._u8[mark] = 1
        return True

    def is_taken(self, head: int) -> bool:
        """Tell whether ``head`` is in flight."""
        return self._u8[self._mark + head * _ENTRY] != 0

    def link(self, batch: list[int]) -> None:
        """Chain the heads of the batch that is about to be published, the last one first."""
        u16, following, before = self._u16, self._next, self._u16[self._half + 6]
        for head in batch:
            u16[following + head * 8] = before
            before = head
        u16[self._half + 6] = before

    def settle(self, batch: list[int], used_idx: int) -> None:
        """Take the marks of a published batch away."""
        u8, mark = self._u8, self._mark
        for head in batch:
            u8[mark + head * _ENTRY] = 0
        self._u16[self._half + 7] = used_idx

    def heads(self) -> list[int]:
        """Return the heads in flight in the order they were taken."""
        taken = [head for head in range(self.entries) if self.is_taken(head)]
        return sorted(taken, key=lambda head: self._u64[self._counter + head * 2])

    def recover(self, used_idx: int) -> bool:
        """Finish what a predecessor left half done, given the ring's ``used.idx``.

        Returns False when ring and table cannot belong together: the guest has overwritten its used index.
        """
        ahead = (used_idx - self.used_idx) & 0xFFFF
        if ahead > self.entries:
            return False
        head = self._u16[self._half + 6]
        for _ in range(ahead):
            if head >= self.entries:
                return False
            self._u8[self._mark + head * _ENTRY] = 0
            head = self._u16[self._next + head * 8]
        self._u16[self._half + 7] = used_idx
        self._taken = max((self._u64[self._counter + h * 2] for h in self.heads()), default=0)
        return True
