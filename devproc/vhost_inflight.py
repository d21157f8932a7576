"""In-flight tables of a vhost-user front-end: it keeps them, so that a back-end that comes after one that was killed
does again what was under way.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from devproc.rings import RingKind
from devproc.virtqueue import QUEUE_MAX
from protocol.errors import HostError, Malformed
from protocol.memory import Shared, sealed
from protocol.truncation import Watch
from protocol.vhost_user.back_end import Answer
from protocol.vhost_user.connection import Message
from protocol.vhost_user.payloads import Inflight


class InflightTables:
    """The tables that a front-end has given back to us, one for each ring."""

    def __init__(self, queue_count: int, kind: Callable[[], RingKind]) -> None:
        self._queue_count = queue_count
        self._kind = kind
        self._shared: Shared | None = None
        self._watch: Watch | None = None
        self._shape = Inflight(0, 0, 0, 0)

    def table(self, index: int, size: int) -> tuple[Shared, int] | None:
        """Return where the table is for a ring of ``size`` descriptors, or ``None`` where the front-end keeps none.

        Raises:
            Malformed: the ring is longer than its table, or of another kind.
        """
        if self._shared is None or index >= self._shape.num_queues:
            return None
        if size > self._shape.queue_size:
            raise Malformed(f"ring {index} of {size}, in-flight tables for {self._shape.queue_size}")
        stride = self._stride(self._shape.queue_size)
        if stride * self._shape.num_queues > self._shape.mmap_size:
            raise Malformed("in-flight tables for another kind of ring")
        return self._shared, self._shape.mmap_offset + index * stride

    def make(self, message: Message) -> Answer:
        """Serve ``GET_INFLIGHT_FD``: fresh tables for the front-end to keep."""
        wanted = message.get(Inflight)
        if not 1 <= wanted.num_queues <= self._queue_count or not 1 <= wanted.queue_size <= QUEUE_MAX:
            raise Malformed(f"in-flight tables for {wanted.num_queues} rings of {wanted.queue_size}")
        size = wanted.num_queues * self._stride(wanted.queue_size)
        fd = sealed("busvm-inflight", size)
        return Answer(Inflight(size, 0, wanted.num_queues, wanted.queue_size), (fd,), lambda: os.close(fd))

    def take(self, message: Message) -> None:
        """Serve ``SET_INFLIGHT_FD``; no ring is running."""
        tables = message.get(Inflight)
        needed = tables.num_queues * self._stride(tables.queue_size)
        if tables.mmap_offset % 64 or needed > tables.mmap_size:
            raise Malformed(f"in-flight tables {tables} of {needed} bytes")
        fd = message.take_fd()
        try:
            shared = Shared(fd, tables.mmap_offset + tables.mmap_size)
        except (HostError, OSError) as error:
            os.close(fd)
            raise Malformed(f"in-flight tables: {error}") from error
        self.close()
        self._shared, self._shape = shared, tables
        self._watch = Watch(shared.map)

    def close(self) -> None:
        """Give the tables up."""
        if self._shared is not None:
            if self._watch is not None:
                self._watch.close()
            self._shared.close()
            self._shared = None

    @property
    def torn(self) -> bool:
        """Whether the front-end has made the tables shorter."""
        return self._watch is not None and self._watch.torn

    def _stride(self, entries: int) -> int:
        return -(-self._kind().Table.size(entries) // 64) * 64
