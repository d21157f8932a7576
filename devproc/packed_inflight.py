"""The in-flight table of a packed queue, in the layout of vhost-user (QEMU's vhost-user.rst, "Inflight I/O tracking").

The device returns a buffer by writing over descriptors of the ring, so the table has copies of those it has taken:
one entry per descriptor, the free ones in a list. Every word that changes in one step is stored by one store:

* ``take`` fills entries from the free list; the store that moves ``old_free_head`` behind them is the commit.
* ``release`` puts an entry back, ``link`` shows the list and moves the used position, beside which the old ones stay;
  then the caller stores the batch's first used descriptor, the commit towards the guest; then ``settle`` takes the
  marks away and makes old what is.
* A successor that finds the two used positions different looks at the ring: if the batch was shown, it settles it,
  otherwise it goes back to the old position and the old list (``recover``).

Where requests are taken from is not stored: it is the used position plus the descriptors in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from protocol.memory import Shared

_HEADER = 32
_ENTRY = 32
_VERSION = 1
WRAP = 15
"""Bit of a position that has the wrap counter, as in the state of a vhost-user ring."""


class PackedInflight:
    """``{u64 features, u16 version, desc_num, free_head, old_free_head, used_idx, old_used_idx, u8 used_wrap_counter,
    old_used_wrap_counter}``, 32 bytes, and per descriptor ``{u8 inflight, u16 next, last, num, u64 counter, u16 id,
    flags, u32 len, u64 addr}``.

    Lists and spans are kept in the process too: nobody else changes them, and what is in the table is only for a
    successor.
    """

    def __init__(self, shared: Shared, offset: int) -> None:
        self._u8, self._u16, self._u64 = shared.u8, shared.u16, shared.u64
        self._word = offset >> 3
        self._first = offset + _HEADER >> 3
        self._mark = offset + _HEADER
        self._next: list[int] = []
        self._free = self._old_free = 0
        self._room = 0
        self._used = self._old_used = 1 << WRAP
        self._shape = 0
        """Version and number of entries, as they are in the table."""
        self._taken = 0
        self._spans: dict[int, tuple[int, int, int]] = {}
        """Of each head in flight: its last entry, how many, and the driver's buffer id."""

    @staticmethod
    def size(entries: int) -> int:
        """Return the bytes of a table for a queue of ``entries`` descriptors."""
        return _HEADER + _ENTRY * entries

    def begun(self, entries: int) -> bool:
        """Return whether the table is in use, for a ring of ``entries``."""
        return self._u64[self._word + 1] & 0xFFFF_FFFF == _VERSION | entries << 16

    @property
    def used(self) -> int:
        """Where the next used descriptor goes: index and wrap counter."""
        return self._used

    @property
    def taken(self) -> int:
        """Heads in flight."""
        return len(self._spans)

    @property
    def descriptors(self) -> int:
        """Descriptors in flight."""
        return len(self._next) - self._room

    def start(self, entries: int, used: int) -> None:
        """Begin with an empty table, for a ring whose next used descriptor goes to ``used``."""
        for entry in range(entries):
            self._u64[self._first + 4 * entry] = entry + 1 << 16
        self._next = list(range(1, entries + 1))
        self._room, self._taken = entries, 0
        self._spans.clear()
        self._store_used(used, used)
        self._store_free(0, 0, entries)

    def _store_free(self, free: int, old: int, entries: int) -> None:
        self._free, self._old_free = free, old
        self._shape = _VERSION | entries << 16
        self._u64[self._word + 1] = self._shape | free << 32 | old << 48

    def _store_used(self, used: int, old: int) -> None:
        self._used, self._old_used = used, old
        mask = (1 << WRAP) - 1
        self._u64[self._word + 2] = used & mask | (old & mask) << 16 | used >> WRAP << 32 | old >> WRAP << 40

    # taking and returning

    def take(self, descriptors: Sequence[tuple[int, int]]) -> int | None:
        """Copy a chain as it is in the ring (two words a descriptor); return its head, or ``None``: no room."""
        count = len(descriptors)
        if count > self._room:
            return None
        u64, following, first = self._u64, self._next, self._first
        head = last = free = self._free
        rest = 0
        for address, rest in descriptors:
            last = free
            place = first + 4 * free
            u64[place + 2] = rest >> 32 | (rest & 0xFFFF_FFFF) << 32
            u64[place + 3] = address
            free = following[free]
        self._taken += 1
        place = first + 4 * head
        u64[place + 1] = self._taken
        u64[place] = 1 | following[head] << 16 | last << 32 | count << 48
        self._room -= count
        self._spans[head] = last, count, rest >> 32 & 0xFFFF
        self._free = self._old_free = free
        u64[self._word + 1] = self._shape | free << 32 | free << 48
        return head

    def release(self, head: int) -> tuple[int, int]:
        """Put a chain back before the free list; return how many descriptors it has in the ring, and its buffer id."""
        last, count, identity = self._spans.pop(head)
        self._next[last] = self._u16[(self._first + 4 * last << 2) + 1] = self._free
        self._free = head
        self._room += count
        return count, identity

    def link(self, used: int) -> None:
        """Make what was released the free list; ``used`` is the position after the batch."""
        self._store_free(self._free, self._old_free, len(self._next))
        self._store_used(used, self._old_used)

    def settle(self, heads: Iterable[int]) -> None:
        """Take the marks of a published batch away."""
        u8, mark = self._u8, self._mark
        for head in heads:
            u8[mark + head * _ENTRY] = 0
        self._store_free(self._free, self._free, len(self._next))
        self._store_used(self._used, self._used)

    # going on

    def recover(self, entries: int, shown: Callable[[int], bool]) -> bool:
        """Finish what a predecessor left half done; ``shown(position)`` tells whether the ring has it as used.

        Returns False when this is no table for a ring of ``entries``.
        """
        word, state = self._u64[self._word + 1], self._u64[self._word + 2]
        free, old_free = word >> 32 & 0xFFFF, word >> 48
        used = state & 0x7FFF | (state >> 32 & 1) << WRAP
        old_used = state >> 16 & 0x7FFF | (state >> 40 & 1) << WRAP
        if not self.begun(entries) or max(state & 0xFFFF, state >> 16 & 0xFFFF) >= entries:
            return False
        if used != old_used and shown(old_used):
            old_free, old_used = free, used
        if not self._read_lists(entries, old_free):
            return False
        self._store_free(old_free, old_free, entries)
        self._store_used(old_used, old_used)
        for entry in self._list(old_free, self._room):
            self._u8[self._mark + entry * _ENTRY] = 0
        return True

    def _list(self, entry: int, count: int) -> list[int]:
        """Return ``count`` entries of the list that begins with ``entry``; fewer where it leaves the table."""
        found: list[int] = []
        while len(found) < count and entry < len(self._next):
            found.append(entry)
            entry = self._next[entry]
        return found

    def _read_lists(self, entries: int, free: int) -> bool:
        """Load what is kept in the process; return whether each entry is in one list, and those have an end."""
        u64, first = self._u64, self._first
        words = [u64[first + 4 * entry] for entry in range(entries)]
        self._next = [word >> 16 & 0xFFFF for word in words]
        self._spans.clear()
        unused = set(range(entries))
        while free in unused:
            unused.remove(free)
            free = self._next[free]
        self._room = entries - len(unused)
        for head in [entry for entry in sorted(unused) if words[entry] & 0xFF]:
            last, count = words[head] >> 32 & 0xFFFF, words[head] >> 48
            chain = self._list(head, count)
            if not chain or len(chain) != count or chain[-1] != last or not unused.issuperset(chain):
                return False
            unused.difference_update(chain)
            self._spans[head] = last, count, u64[first + 4 * last + 2] & 0xFFFF
        self._taken = max((u64[first + 4 * head + 1] for head in self._spans), default=0)
        return not unused

    def heads(self) -> list[int]:
        """Return the heads in flight in the order they were taken."""
        return sorted(self._spans, key=lambda head: self._u64[self._first + 4 * head + 1])

    def descriptors_of(self, head: int) -> list[tuple[int, int]]:
        """Return a chain as it was in the ring."""
        found = []
        for entry in self._list(head, self._spans[head][1]):
            place = self._first + 4 * entry
            rest, address = self._u64[place + 2], self._u64[place + 3]
            found.append((address, rest >> 32 | (rest & 0xFFFF_FFFF) << 32))
        return found
