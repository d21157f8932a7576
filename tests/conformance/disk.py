"""Requests to a block device (virtio 1.2 §5.2.6), in buffers that are guarded on both sides."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.conformance.sides import Side
from tests.conformance.subject import PATIENCE_S, check

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
OK, IOERR, UNSUPP = 0, 1, 2
SECTOR = 512
DATA_MAX = 8 << 10
GUARD = b"\xc5" * 64
_SLOT = 64 + 16 + 64 + DATA_MAX + 64 + 1 + 64 + 15 & -16

F_RO, F_FLUSH, F_CONFIG_WCE, F_MQ = 1 << 5, 1 << 9, 1 << 11, 1 << 12


@dataclass
class Answer:
    """What came of a request."""

    status: int
    data: bytes
    written: int


@dataclass
class _Slot:
    """Buffers of one request."""

    header: int
    data: int
    status: int
    length: int = 0
    kind: int = 0


class Disk:
    """One queue of a disk; after ``Side.begin``, a new one."""

    def __init__(self, side: Side, index: int = 0) -> None:
        self.side = side
        self.index = index
        self.queue = side.queues[index]
        self.under_way: dict[int, _Slot] = {}
        self._slots = []
        for _ in range(self.queue.size):
            place = self.queue.lend(_SLOT)
            side.memory.write(place, b"\xc5" * _SLOT)
            self._slots.append(_Slot(place + 64, place + 144, place + 208 + DATA_MAX))

    def submit(
        self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, cuts: Sequence[int] = ()
    ) -> int | None:
        """Make a request available and return its head, or ``None`` when no descriptor is free.

        ``cuts`` are places in the data where one descriptor ends and the next begins.
        """
        slot = self._slots[-1]
        size = len(data) or length
        points = sorted({0, size, *(cut for cut in cuts if 0 < cut < size)})
        pieces = [(slot.data + start, end - start) for start, end in pairwise(points)]
        self.side.memory.write(slot.header, struct.pack("<IIQ", kind, 0, sector))
        self.side.memory.write(slot.data, data + b"\xa5" * (DATA_MAX - len(data)))
        self.side.memory.write(slot.status, b"\xee")
        try:
            head = self.queue.add(
                [(slot.header, 16), *(pieces if data else [])], [*([] if data else pieces), (slot.status, 1)]
            )
        except IndexError:
            return None
        self._slots.pop()
        slot.length, slot.kind = length, kind
        self.under_way[head] = slot
        return head

    def finished(self, *, count: int = 1, timeout_s: float = PATIENCE_S) -> dict[int, Answer]:
        """Wait for ``count`` requests; return the answers by head, each with its guards looked at."""
        answers: dict[int, Answer] = {}
        for head, written in self.side.collect(self.index, count=count, timeout_s=timeout_s):
            check(
                head in self.under_way, "virtio 1.2 §2.7.8", "requests", f"used entry of {head}, which is not under way"
            )
            slot = self.under_way.pop(head)
            read = self.side.memory.read
            status, data = read(slot.status, 1) or b"", read(slot.data, slot.length) or b""
            around = (read(slot.header - 64, 64), read(slot.data + DATA_MAX, 64), read(slot.status + 1, 48))
            intact = around == (GUARD, GUARD, GUARD[:48]) and read(slot.header + 16, 64) == GUARD
            check(intact, "virtio 1.2 §2.7.4.1", f"request {slot.kind}", "bytes written beside its buffers")
            answers[head] = Answer(status[0], data, written)
            self._slots.append(slot)
        return answers

    def do(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, cuts: Sequence[int] = ()) -> Answer:
        """Do one request."""
        head = self.submit(kind, sector, data, length, cuts)
        assert head is not None
        self.side.kick(self.index)
        answers = self.finished()
        check(
            head in answers, "virtio 1.2 §2.7.8", f"request {kind} at sector {sector}", f"nothing in {PATIENCE_S:.0f} s"
        )
        return answers[head]


def sector(number: int) -> bytes:
    """Return what the scratch image has in a sector at first."""
    return number.to_bytes(4, "little") * 128
