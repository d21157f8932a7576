"""The queue of ``queue.h``, word by word; see there for what is in the memory and why.

Of the standard library alone. A store of an aligned word through a ``memoryview`` is one store, and x86 and what is
emulated on it keep the order of stores and of loads; between a store and a load only ``_fence`` does.
"""

from __future__ import annotations

import struct
import threading

MAGIC = 0x31717669
RINGS_AT = 0x1000
ORDER_MIN, ORDER_MAX = 6, 30
POLLS = 0  # a bell that rings nobody who matters
_BLOCK_WORDS = 128
_W_MAGIC, _W_ORDER, _W_GENERATION, _W_SEEN, _W_BELL, _W_RINGS = range(6)
_W_HEAD, _W_TAIL, _W_SLEEPING = 16, 32, 48
_HEADER = struct.Struct("<II")
_MASK = 0xFFFF_FFFF
_lock = threading.Lock()


class Gone(Exception):
    """The other side left or started again: ``connect``."""


class Bad(Exception):
    """The other side wrote nonsense."""


def _fence() -> None:
    with _lock:  # taken by an instruction that is a full fence
        pass


def _padded(length: int) -> int:
    return length + _HEADER.size + 7 & ~7


class Queue:
    """One side. ``connect``, ``put``, ``get`` and ``drained`` say whether it is done; False or None: later."""

    def __init__(self, memory: memoryview, side: int, order: int, bell: int, *, rings: bool, random: int) -> None:
        """Be there as ``side``; ``bell`` rings this side, ``rings`` says whether it can ring the other."""
        if not ORDER_MIN <= order <= ORDER_MAX or side not in (0, 1) or len(memory) < RINGS_AT + (2 << order):
            raise ValueError("the queue does not fit into the memory")
        self.size, self._order = 1 << order, order
        words = memory[:RINGS_AT].cast("I")
        mine, theirs = side * _BLOCK_WORDS, (1 - side) * _BLOCK_WORDS
        self._mine, self._theirs = words[mine : mine + _BLOCK_WORDS], words[theirs : theirs + _BLOCK_WORDS]
        rings_ = [memory[start : start + self.size] for start in (RINGS_AT, RINGS_AT + self.size)]
        self._out, self._in = rings_[side], rings_[1 - side]
        self.error, self.seen = "", 0
        random &= _MASK
        while random in (0, self._mine[_W_GENERATION], self._theirs[_W_SEEN]):
            random = random + 1 & _MASK
        self._generation = self._ticket = random
        self.leave()
        self._reset()
        self._mine[_W_SEEN] = self._mine[_W_SLEEPING] = 0
        self._mine[_W_MAGIC], self._mine[_W_ORDER] = MAGIC, order
        self._mine[_W_BELL], self._mine[_W_RINGS] = bell, rings
        self._mine[_W_GENERATION] = self._generation

    def _reset(self) -> None:
        self._head = self._tail = self._sent = self._received = self._other_head = self._rung = 0
        self._mine[_W_HEAD] = self._mine[_W_TAIL] = 0

    def leave(self) -> None:
        """Be gone; the other side notices."""
        self._mine[_W_GENERATION] = 0
        _fence()

    def close(self) -> None:
        """Let the memory go."""
        for view in (self._mine, self._theirs, self._out, self._in):
            view.release()

    @property
    def longest(self) -> int:
        """The longest message."""
        return self.size // 2 - _HEADER.size

    @property
    def other_rings(self) -> bool:
        """Whether the other side is there and can ring."""
        return bool(self.seen and self._theirs[_W_RINGS])

    def connect(self) -> bool:
        """Go on towards a session; ``must_ring`` after it. ``error`` says what is wrong with what is there."""
        other, self.error = self._theirs[_W_GENERATION], ""
        if not other:
            return False
        if self._theirs[_W_MAGIC] != MAGIC:
            self.error = "the other side has no queue of this kind"
        elif self._theirs[_W_ORDER] != self._order:
            self.error = "the other side has rings of another size"
        if self.error:
            return False
        if other != self.seen:
            if self.seen:
                self._mine[_W_SEEN] = 0
                self._reset()
            self.seen = self._mine[_W_SEEN] = other
        return self._theirs[_W_SEEN] == self._generation and self._theirs[_W_GENERATION] == other

    def _check(self, nonsense: str = "") -> None:
        """Raise if the other side is not that of this session, or else for what it wrote."""
        if not self.seen or self._theirs[_W_GENERATION] != self.seen:
            raise Gone("the other side left or started again")
        if nonsense:
            raise Bad(nonsense)

    def put(self, data: bytes) -> bool:
        """Send a message."""
        if len(data) > self.longest:
            raise ValueError("the message is too long for the ring")
        used = self._head - self._theirs[_W_TAIL] & _MASK
        if used > self.size or used & 7:
            self._check("the other side took what was never sent")
        need = _padded(len(data))
        self._check()
        if self.size - used < need:
            return False
        whole = _HEADER.pack(len(data), self._sent) + data
        start = self._head & self.size - 1
        first = min(self.size - start, len(whole))
        self._out[start : start + first] = whole[:first]
        self._out[: len(whole) - first] = whole[first:]
        self._sent = self._sent + 1 & _MASK
        self._head = self._mine[_W_HEAD] = self._head + need & _MASK
        return True

    def get(self, room: int = 1 << 16) -> bytes | None:
        """Take a message of at most ``room`` bytes."""
        used = self._theirs[_W_HEAD] - self._tail & _MASK
        if not used:
            self._check()
            return None
        if used > self.size or used & 7:
            self._check("the other side sent more than the ring holds")
        length, sequence = _HEADER.unpack(self._copy(self._tail, _HEADER.size))
        if length > self.size - _HEADER.size or _padded(length) > used:
            self._check("a message is longer than what was sent")
        if length > room:
            self._check("a message is longer than this side takes")
        if sequence != self._received:
            self._check("a message has the wrong sequence number")
        data = self._copy(self._tail + _HEADER.size, length)
        self._check()
        self._received = self._received + 1 & _MASK
        self._other_head = self._tail + used & _MASK
        self._tail = self._mine[_W_TAIL] = self._tail + _padded(length) & _MASK
        return data

    def _copy(self, at: int, length: int) -> bytes:
        start = at & self.size - 1
        first = bytes(self._in[start : start + length])
        return first if len(first) == length else first + bytes(self._in[: length - len(first)])

    def drained(self) -> bool:
        """Whether the other side has taken all messages, after which it may have left."""
        if self._theirs[_W_TAIL] == self._head:
            return True
        if self._theirs[_W_GENERATION] == self.seen:
            return False
        if self._theirs[_W_TAIL] != self._head:  # else it took the last ones, and left, in between
            self._check()
        return True

    def sleep(self) -> None:
        """Announce that this side sleeps; look once more, and then sleep, or do not; then ``wake``."""
        self._ticket = self._ticket + 1 & _MASK or 1
        self._mine[_W_SLEEPING] = self._ticket
        _fence()

    def wake(self) -> None:
        """Not sleep any more."""
        self._mine[_W_SLEEPING] = 0

    def must_ring(self, *, for_room: bool = False) -> int | None:
        """Return what rings the other side, if it waits for it; ``for_room``: after ``get``, for more than a little."""
        if for_room and (self._other_head - self._tail & _MASK) > self.size // 2:
            return None
        _fence()
        ticket = self._theirs[_W_SLEEPING]
        if ticket in (0, self._rung):
            return None
        self._rung = ticket
        return self._theirs[_W_BELL]
