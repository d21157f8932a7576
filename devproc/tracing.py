"""What a device does, as events of its trace (protocol.trace): requests with headers and latencies, hooks, its work.

An ``Observer`` exists only while somebody traces; without one a device spends a comparison on it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from protocol.trace import DATA, Kind, Side, TracePage, Writer

if TYPE_CHECKING:
    from devproc.state import Record
    from protocol.memory import GuestMemory
    from protocol.messages import Read, Write

Places = list[tuple[int, int]]
Fields = list[tuple[str, int, dict[int, str]]]


def fields(record: type[Record] | None) -> Fields:
    """Return what a decoder needs of a record: name and bytes of its words, and the names of their values."""
    if record is None:
        return []
    return [
        (name, word.width, {int(value): value.name.lower() for value in word.names or ()})
        for name, word in record.words().items()
    ]


def leading(memory: GuestMemory, places: Places, count: int) -> bytes:
    """Return the first ``count`` bytes of buffers, or all there are."""
    found = b""
    for offset, length in places:
        found += memory.ram.bytes(offset, min(length, count - len(found)))
        if len(found) == count:
            break
    return found


def trailing(memory: GuestMemory, places: Places, count: int) -> bytes:
    """Return the last ``count`` bytes of buffers, or all there are."""
    found = b""
    for offset, length in reversed(places):
        part = min(length, count - len(found))
        found = memory.ram.bytes(offset + length - part, part) + found
        if len(found) == count:
            break
    return found


class Observer:
    """Writes the device's events into one trace, until ``close``."""

    def __init__(self, page: TracePage, lifeline: int, *, header: int = 0, answer: int = 0) -> None:
        """Begin; ``header`` and ``answer`` are the bytes at the beginning and the end of a request that are shown."""
        self.lifeline = lifeline
        self._page = page
        self._writer = Writer(page, Side.DEVICE)
        self._header, self._answer = min(header, DATA), min(answer, DATA)
        self._taken: dict[tuple[int, int], tuple[int, int, Places]] = {}
        self._places: dict[int, tuple[int, int]] = {}  # queue → the number in hand, requests under it
        self._last: dict[int, int] = {}  # queue → number of the request that ended last

    def taken(self, memory: GuestMemory, queue: int, head: int, readable: Places, writable: Places) -> None:
        """Record a request that was taken off a queue, before anything is taken off its buffers."""
        number = self._page.kick(queue)
        before, place = self._places.get(queue, (0, 0))
        place = place + 1 if number == before else 1
        self._places[queue] = number, place
        self._taken[queue, head] = number, place, list(writable)
        size = sum(length for _, length in readable) + sum(length for _, length in writable)
        self._writer.put(Kind.TAKEN, number, queue, place, head, size, leading(memory, readable, self._header))

    def done(self, memory: GuestMemory, queue: int, head: int, written: int) -> None:
        """Record a request that is returned."""
        number, place, writable = self._taken.pop((queue, head), (0, 0, []))
        self._last[queue] = number
        self._writer.put(Kind.DONE, number, queue, place, head, written, trailing(memory, writable, self._answer))

    def interrupts(self, source: int, queue: int) -> None:
        """Say which number the interrupt is about that comes next from ``source``: 0 the wire, 1 + vector."""
        self._page.set_answer(source, self._last.get(queue, 0))

    def served(self, kind: Kind, message: Write | Read, value: int, started_ns: int) -> None:
        """Record a message of the link that took effect."""
        took = time.monotonic_ns() - started_ns
        data = took.to_bytes(8, "little")
        self._writer.put(kind, message.seq, message.bar, message.size, message.offset, value, data)

    def busy(self, where: int, started_ns: int) -> None:
        """Record that the loop worked for a doorbell, or for another source."""
        self._writer.put(Kind.BUSY, 0, where, 0, 0, time.monotonic_ns() - started_ns)

    def close(self) -> None:
        """Unmap the page and hang up."""
        self._page.shared.close()
        os.close(self.lifeline)
