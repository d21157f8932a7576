"""A request in a chain: its header, its status byte, and the data between them."""

from __future__ import annotations

from devproc.virtio_blk.spec import HEADER, Type
from devproc.virtqueue import Chain, Virtqueue
from protocol.memory import GuestMemory


class Request:
    """A request under way: what it wants, and where its answer goes."""

    __slots__ = ("chain", "kind", "queue", "sector", "status_at", "written")

    def __init__(self, queue: Virtqueue, chain: Chain, kind: int, sector: int, status_at: int) -> None:
        self.queue = queue
        self.chain = chain
        self.kind = kind
        self.sector = sector
        self.status_at = status_at
        self.written = 1

    @property
    def size(self) -> int:
        """Bytes of data that it moves."""
        if self.kind == Type.IN:
            return self.chain.writable_size
        return self.chain.readable_size if self.kind == Type.OUT else 0


def take(memory: GuestMemory, queue: Virtqueue, chain: Chain) -> Request | None:
    """Take header and status byte off a chain, wherever they are in it (virtio 1.2 §2.7.4); without, fail the queue."""
    header = _header(memory, chain)
    if header is None or not chain.writable:
        queue.fail("block request without header or status byte")
        return None
    at, length = chain.writable[-1]
    if length == 0:
        queue.fail("block request with an empty status descriptor")
        return None
    if length == 1:
        chain.writable.pop()
    else:
        chain.writable[-1] = (at, length - 1)
    return Request(queue, chain, *header, at + length - 1)


def _header(memory: GuestMemory, chain: Chain) -> tuple[int, int] | None:
    """Take the 16 bytes of the header off the readable part: type and sector."""
    data = b""
    while len(data) < HEADER and chain.readable:
        at, length = chain.readable[0]
        part = min(length, HEADER - len(data))
        data += memory.ram.bytes(at, part)
        if part == length:
            chain.readable.pop(0)
        else:
            chain.readable[0] = (at + part, length - part)
    if len(data) < HEADER:
        return None
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[8:], "little")
