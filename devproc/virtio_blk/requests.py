"""A request in a chain: its header, its status byte, and the data between them."""

from __future__ import annotations

from devproc.virtio_blk.spec import HEADER, Type
from devproc.virtqueue import Chain, Virtqueue
from protocol.memory import GuestMemory

_IN, _OUT = int(Type.IN), int(Type.OUT)


class Request:
    """A request under way: what it wants, and where its answer goes. ``chain`` has its data alone."""

    __slots__ = ("chain", "kind", "queue", "sector", "size", "status_at", "written")

    def __init__(self, queue: Virtqueue, chain: Chain, kind: int, sector: int, status_at: int) -> None:
        self.queue = queue
        self.chain = chain
        self.kind = kind
        self.sector = sector
        self.status_at = status_at
        self.written = 1
        self.size = chain.writable_size if kind == _IN else chain.readable_size if kind == _OUT else 0
        """Bytes of data that it moves."""


def take(memory: GuestMemory, queue: Virtqueue, chain: Chain) -> Request | None:
    """Take header and status byte off a chain, wherever they are in it (virtio 1.2 §2.7.4); without, fail the queue."""
    readable, writable = chain.readable, chain.writable
    if chain.readable_size < HEADER or not writable:
        queue.fail("block request without header or status byte")
        return None
    at, length = writable[-1]
    if length == 0:
        queue.fail("block request with an empty status descriptor")
        return None
    if length == 1:
        writable.pop()
    else:
        writable[-1] = (at, length - 1)
    chain.writable_size -= 1
    header, size = readable[0]
    if size == HEADER and not header & 7:  # as drivers have it; nothing needs copying
        del readable[0]
        words = memory.ram.u64
        kind, sector = words[header >> 3] & 0xFFFF_FFFF, words[(header >> 3) + 1]
    else:
        kind, sector = _header(memory, readable)
    chain.readable_size -= HEADER
    return Request(queue, chain, kind, sector, at + length - 1)


def _header(memory: GuestMemory, readable: list[tuple[int, int]]) -> tuple[int, int]:
    """Take the 16 bytes of the header off buffers that have them: type and sector."""
    data = b""
    while len(data) < HEADER:
        at, length = readable[0]
        part = min(length, HEADER - len(data))
        data += memory.ram.bytes(at, part)
        if part == length:
            del readable[0]
        else:
            readable[0] = (at + part, length - part)
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[8:], "little")
