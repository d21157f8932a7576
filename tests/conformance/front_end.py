"""A vhost-user front-end with a little virtio-blk driver: what QEMU and its guest are to a back-end."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Self

from devproc.packed_driver_queue import lay_out
from devproc.virtio_spec import Feature
from protocol.memory import GuestMemory, Shared
from protocol.vhost_user.front_end import FrontEnd, event
from protocol.vhost_user.messages import ProtocolFeature, Request
from protocol.vhost_user.payloads import Inflight, Region, VringState

BASE, UADDR = 0x8000_0000, 0x7F12_3450_0000
EVERY = ~ProtocolFeature(0)
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
WANTED = int(Feature.VERSION_1 | Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC) | (1 << 9) | (1 << 11)


class Guest:
    """Guest memory with one queue in it; ``connect`` gives both to a back-end, and may be done again with another."""

    def __init__(self, *, size: int = 64, ram: int = 16 << 20, features: int = WANTED, indirect: bool = True) -> None:
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(fd, ram)
        self.shared = Shared(fd, ram)
        self.memory = GuestMemory(self.shared, BASE)
        self.region = Region(BASE, ram, UADDR, 0)
        self.features = features
        self.begin = 0x8000_8000 if features & Feature.RING_PACKED else 0
        self.queue = lay_out(self.memory, BASE, size, features if indirect else features & ~Feature.RING_INDIRECT_DESC)
        self.kick, self.call = event(), event()
        self.tables: tuple[Inflight, int] | None = None
        self.front: FrontEnd
        self._slots = [self.queue.lend(16 + 8192 + 16, 16) for _ in range(size)]
        self._under_way: dict[int, tuple[int, int]] = {}

    # the back-end

    def connect(self, front: FrontEnd, *, protocol: ProtocolFeature = EVERY, base: int | None = None) -> None:
        """Negotiate, give memory, start the ring at ``base``; in-flight tables stay from one back-end to the next."""
        self.front = front
        front.negotiate(self.features, protocol)
        if ProtocolFeature.INFLIGHT_SHMFD in front.protocol_features:
            if self.tables is None:
                self.tables = front.inflight(1, self.queue.size)
            front.tell(Request.SET_INFLIGHT_FD, self.tables[0], [self.tables[1]])
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in front.protocol_features:
            front.add_region(self.region, self.shared.fd)
        else:
            front.share([(self.region, self.shared.fd)])
        self.start(self.begin if base is None else base)

    def start(self, base: int) -> None:
        """Set the ring up and enable it."""
        rings = (self.uaddr(self.queue.desc), self.uaddr(self.queue.avail), self.uaddr(self.queue.used))
        self.front.start_ring(0, self.queue.size, rings, self.kick, self.call, base)

    def uaddr(self, gpa: int) -> int:
        """Return the front-end's address of a guest address."""
        return gpa - BASE + UADDR

    def pause(self) -> int:
        """Disable and stop the ring as QEMU does; return its position."""
        self.front.tell(Request.SET_VRING_ENABLE, VringState(0, 0))
        return self.front.stop_ring(0)

    # requests

    def submit(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0) -> int:
        """Make a request available and return its head."""
        slot = self._slots.pop()
        self.memory.write(slot, struct.pack("<IIQ", kind, 0, sector) + data)
        self.memory.write(slot + 16 + 8192, b"\xee")
        buffer = [(slot + 16, len(data) or length)] if data or length else []
        status = (slot + 16 + 8192, 1)
        head = self.queue.add([(slot, 16), *(buffer if data else [])], [*([] if data else buffer), status])
        self._under_way[head] = (slot, length)
        return head

    def ring(self) -> None:
        """Kick, if the device asked for it."""
        if self.queue.kick():
            os.eventfd_write(self.kick, 1)

    def collect(self, timeout_s: float = 10.0) -> dict[int, tuple[int, bytes]]:
        """Wait for used buffers; return status and data by head, empty when none came."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.queue.collect()):
            if not self.queue.ask():
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.call], [], [], left)[0]:
                return {}
            os.eventfd_read(self.call)
        results = {}
        for head, _ in found:
            slot, length = self._under_way.pop(head)
            self._slots.append(slot)
            status = self.memory.read(slot + 16 + 8192, 1) or b""
            results[head] = (status[0], self.memory.read(slot + 16, length) or b"")
        return results

    def do(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0) -> tuple[int, bytes]:
        """Do one request and return status and data."""
        head = self.submit(kind, sector, data, length)
        self.ring()
        return self.collect()[head]

    def close(self) -> None:
        """Give everything back."""
        if hasattr(self, "front"):
            self.front.close()
        self.shared.close()
        for fd in (self.kick, self.call, *([self.tables[1]] if self.tables else [])):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
