"""One receive queue: buffers that the driver has offered, and frames put into them (virtio 1.2 §5.1.6.3, §5.1.6.4).

Buffers are taken off the ring when a frame needs them and no sooner, so that the driver is asked for a doorbell only
when there is none left. A frame takes as many as it needs, if the driver has agreed to that (MRG_RXBUF).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from devproc.network.backend import PLAIN, Buffer
from devproc.network.frame import HEADER, NUM_BUFFERS
from devproc.virtqueue import Chain, Virtqueue

_ONE = (1).to_bytes(2, "little")
_PLAIN_IN_ONE = PLAIN[:NUM_BUFFERS] + _ONE

Place = tuple[int, int]


class Receiver:
    """The device side of one receive queue; ``take`` returns the next buffer, ``finish`` gives some back, used."""

    def __init__(
        self,
        queue: Virtqueue,
        ram: memoryview,
        *,
        mergeable: bool,
        take: Callable[[Virtqueue], Chain | None],
        finish: Callable[[Virtqueue, list[tuple[int, int]]], None],
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
                if not chain.writable:
                    self.queue.fail("a buffer for received frames that cannot be written")
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
        ram, (offset, length) = self._ram, self._ahead[0].writable[0]
        if length >= size:
            ram[offset : offset + HEADER] = _PLAIN_IN_ONE if header is PLAIN else bytes(header[:NUM_BUFFERS]) + _ONE
            ram[offset + HEADER : offset + size] = frame
        else:
            self._scatter(bytes(header[:NUM_BUFFERS]) + count.to_bytes(2, "little"), 0)
            self._scatter(memoryview(frame), HEADER)
        self._finish_up(self._cut(size))
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
        offset, length = self._ahead[0].writable[0]
        if length >= HEADER + count:
            return bytes(self._ram[offset + HEADER : offset + HEADER + count])
        found = b""
        for offset, length in self._places():
            found += bytes(self._ram[offset : offset + length])
            if len(found) >= HEADER + count:
                break
        return found[HEADER : HEADER + count]

    def filled(self, length: int) -> None:
        """Give the driver the first ``length`` bytes of ``pieces``."""
        done = self._cut(length)
        self._scatter(len(done).to_bytes(2, "little"), NUM_BUFFERS)
        self._finish_up(done)

    def give_back(self) -> None:
        """Return what was taken ahead, with nothing in it: the queue ends, and nothing may be under way in it."""
        self._finish(self.queue, [(chain.head, 0) for chain in self._ahead])
        self._ahead.clear()

    def _places(self) -> Iterator[Place]:
        return (place for chain in self._ahead for place in chain.writable)

    def _scatter(self, data: Buffer, skip: int) -> None:
        """Copy ``data`` to where it belongs, from ``skip`` bytes of the buffers on."""
        ram, at, left = self._ram, 0, len(data)
        for offset, length in self._places():
            if skip >= length:
                skip -= length
                continue
            part = min(length - skip, left)
            ram[offset + skip : offset + skip + part] = data[at : at + part]
            at += part
            left -= part
            if not left:
                return
            skip = 0

    def _cut(self, length: int) -> list[tuple[int, int]]:
        """Return the heads of the buffers that hold the first ``length`` bytes, and how many bytes are in each."""
        done = []
        for chain in self._ahead:
            if length <= chain.writable_size:
                done.append((chain.head, length))
                break
            done.append((chain.head, chain.writable_size))
            length -= chain.writable_size
        return done

    def _finish_up(self, done: list[tuple[int, int]]) -> None:
        for _ in done:
            self._ahead.popleft()
        self._finish(self.queue, done)
        self.touched = True
