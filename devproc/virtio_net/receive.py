"""One receive queue: buffers that the driver has offered, and frames put into them (virtio 1.2 §5.1.6.3, §5.1.6.4).

Buffers are taken off the ring when a frame needs them and no sooner, so that the driver is asked for a doorbell only
when there is none left. A frame takes as many as it needs, if the driver has agreed to that (MRG_RXBUF).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from devproc.network.backend import PLAIN, Buffer
from devproc.network.frame import HEADER, NUM_BUFFERS
from devproc.virtqueue import Chain, Virtqueue

_ONE = (1).to_bytes(2, "little")
_PLAIN_IN_ONE = PLAIN[:NUM_BUFFERS] + _ONE

Place = tuple[int, int]


class Receiver:
    """The device side of one receive queue; ``take`` returns the next buffer, ``finish`` gives one back, used."""

    def __init__(
        self,
        queue: Virtqueue,
        ram: memoryview,
        *,
        mergeable: bool,
        take: Callable[[Virtqueue], Chain | None],
        finish: Callable[[Virtqueue, int, int], None],
    ) -> None:
        self.queue = queue
        self._ram = ram
        self._mergeable = mergeable
        self._take = take
        self._finish = finish
        self._ahead: deque[Chain] = deque()
        self.touched = False
        """Whether something was finished that the guest has not been shown."""

    def gather(self, size: int) -> int:
        """Take buffers until they hold ``size`` bytes; return how many those are, or 0 when there are not enough."""
        ahead, room, count = self._ahead, 0, 0
        while room < size:
            if count == len(ahead):
                chain = self._take(self.queue)
                if chain is None:
                    return 0
                ahead.append(chain)
            room += ahead[count].writable_size
            count += 1
            if not self._mergeable:
                return count if room >= size else 0
        return count

    @property
    def has_some(self) -> bool:
        """Whether there are buffers, if not enough."""
        return bool(self._ahead)

    def hopeless(self, size: int) -> bool:
        """Return whether so many bytes will not find room even if it is waited for."""
        ahead = self._ahead
        if self._mergeable:
            return 2 * len(ahead) >= self.queue.size
        return bool(ahead) and ahead[0].writable_size < size

    def put(self, header: Buffer, frame: Buffer) -> bool:
        """Copy a frame into buffers; ``False``: there are not enough."""
        size = HEADER + len(frame)
        count = self.gather(size)
        if not count:
            return False
        ram, first = self._ram, self._ahead[0].writable[0]
        if count == 1 and first[1] >= size:
            offset = first[0]
            ram[offset : offset + HEADER] = _PLAIN_IN_ONE if header is PLAIN else bytes(header[:NUM_BUFFERS]) + _ONE
            ram[offset + HEADER : offset + size] = frame
        else:
            head = bytes(header[:NUM_BUFFERS]) + count.to_bytes(2, "little")
            places = [place for index in range(count) for place in self._ahead[index].writable]
            _scatter(ram, _cut(places, 0, HEADER), head)
            _scatter(ram, _cut(places, HEADER, size - HEADER), memoryview(frame))
        self._use(size)
        return True

    def pieces(self, size: int) -> list[memoryview] | None:
        """Return buffers of ``size`` bytes as pieces of memory, to be ``filled``; ``None``: there are not enough."""
        count = self.gather(size)
        if not count:
            return None
        ram, ahead = self._ram, self._ahead
        return [ram[at : at + length] for index in range(count) for at, length in ahead[index].writable]

    def start(self, count: int) -> bytes:
        """Return the first ``count`` bytes of the frame that was put into ``pieces``."""
        places = self._ahead[0].writable
        offset, length = places[0]
        if length >= HEADER + count:
            return bytes(self._ram[offset + HEADER : offset + HEADER + count])
        return b"".join(bytes(self._ram[at : at + part]) for at, part in _cut(self._places(), HEADER, count))

    def filled(self, length: int) -> None:
        """Give the driver the first ``length`` bytes of ``pieces``."""
        count, room = 0, 0
        while room < length:
            room += self._ahead[count].writable_size
            count += 1
        _scatter(self._ram, _cut(self._places(), NUM_BUFFERS, 2), count.to_bytes(2, "little"))
        self._use(length)

    def give_back(self) -> None:
        """Return what was taken ahead, with nothing in it: the queue ends, and nothing may be under way in it."""
        while self._ahead:
            self._finish(self.queue, self._ahead.popleft().head, 0)

    def _places(self) -> Iterator[Place]:
        return (place for chain in self._ahead for place in chain.writable)

    def _use(self, length: int) -> None:
        """Finish the buffers that hold the first ``length`` bytes."""
        ahead, queue = self._ahead, self.queue
        while length > 0:
            chain = ahead.popleft()
            written = min(length, chain.writable_size)
            self._finish(queue, chain.head, written)
            length -= written
        self.touched = True


def _cut(places: Iterable[Place], skip: int, count: int) -> Iterator[Place]:
    """Yield where ``count`` bytes are that begin ``skip`` bytes into ``places``."""
    for offset, length in places:
        if count <= 0:
            return
        if skip >= length:
            skip -= length
            continue
        part = min(length - skip, count)
        yield offset + skip, part
        count -= part
        skip = 0


def _scatter(ram: memoryview, places: Iterable[Place], data: Buffer) -> None:
    """Copy ``data`` to ``places``, which are as long together."""
    at = 0
    for offset, length in places:
        ram[offset : offset + length] = data[at : at + length]
        at += length
