"""A little virtio-blk driver on a ``FakeCpu``: what Linux does at probe, and requests one by one or in batches."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from devproc.driver_queue import DriverQueue
from devproc.virtio_spec import Feature, Status
from tests.conformance.fake_cpu import RAM_BASE, FakeCpu

CONFIG = 7
CAP_VENDOR, CAP_MSIX = 0x09, 0x11
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13


@dataclass
class Request:
    """A request in guest memory."""

    head: int
    data: int
    length: int
    status: int


class Driver:
    """Drives the device of ``cpu``; ``probe`` comes first."""

    def __init__(
        self,
        cpu: FakeCpu,
        *,
        queues: int = 1,
        size: int = 64,
        features: int = Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC,
        msix: bool = True,
    ) -> None:
        self.cpu = cpu
        self.size = size
        self.wanted = features | Feature.VERSION_1
        self.queue_count = queues
        self.msix = msix
        self.queues: list[DriverQueue] = []
        self.places: dict[int, tuple[int, int]] = {}
        self.multiplier = 0
        self.features = 0
        self._spare: list[list[tuple[int, int, int]]] = []

    # registers of the common configuration

    def common(self, offset: int, size: int, value: int | None = None) -> int:
        """Read or write the common configuration."""
        bar, base = self.places[1]
        if value is None:
            return self.cpu.read(bar, base + offset, size)
        self.cpu.write(bar, base + offset, size, value)
        return value

    def config(self, offset: int, size: int) -> int:
        """Read the device's config space."""
        bar, base = self.places[4]
        return self.cpu.read(bar, base + offset, size)

    def status(self, value: int | None = None) -> int:
        """Read or write the device status."""
        return self.common(0x14, 1, value)

    def find_capabilities(self) -> dict[int, list[int]]:
        """Walk the capability list: id → offsets."""
        found: dict[int, list[int]] = {}
        pointer = self.cpu.read(CONFIG, 0x34, 1)
        while pointer:
            found.setdefault(self.cpu.read(CONFIG, pointer, 1), []).append(pointer)
            pointer = self.cpu.read(CONFIG, pointer + 1, 1)
        for cap in found.get(CAP_VENDOR, []):
            kind, bar = self.cpu.read(CONFIG, cap + 3, 1), self.cpu.read(CONFIG, cap + 4, 1)
            self.places[kind] = (bar, self.cpu.read(CONFIG, cap + 8, 4))
            if kind == 2:
                self.multiplier = self.cpu.read(CONFIG, cap + 16, 4)
        return found

    def probe(self) -> None:
        """Do what ``virtio_pci_modern`` and ``virtio_blk`` do until the disk is ready."""
        found = self.find_capabilities()
        self.cpu.write(CONFIG, 0x04, 2, 0x6)
        self.reset()
        self.status(Status.ACKNOWLEDGE)
        self.status(Status.ACKNOWLEDGE | Status.DRIVER)
        self.negotiate()
        if self.msix:
            control = found[CAP_MSIX][0] + 2
            self.cpu.write(CONFIG, control, 2, self.cpu.read(CONFIG, control, 2) | 0x8000)
            self.common(0x10, 2, 0)
        for index in range(self.queue_count):
            self.set_up(index)
        self.status(self.status() | Status.DRIVER_OK)
        assert self.status() & Status.DRIVER_OK

    def reset(self) -> None:
        """Write status 0 and wait for it."""
        self.status(0)
        while self.status():
            time.sleep(0)

    def negotiate(self) -> None:
        """Accept what is both wanted and on offer."""
        offered = 0
        for select in (0, 1):
            self.common(0x00, 4, select)
            offered |= self.common(0x04, 4) << 32 * select
        self.features = offered & (self.wanted | 0xFF_FFFF)
        for select in (0, 1):
            self.common(0x08, 4, select)
            self.common(0x0C, 4, self.features >> 32 * select & 0xFFFF_FFFF)
        self.status(self.status() | Status.FEATURES_OK)
        assert self.status() & Status.FEATURES_OK

    def set_up(self, index: int, gpa: int | None = None) -> DriverQueue:
        """Lay out and enable one queue."""
        self.common(0x16, 2, index)
        assert self.common(0x18, 2) >= self.size
        self.common(0x18, 2, self.size)
        queue = DriverQueue(
            self.cpu.ram,
            gpa or RAM_BASE + index * (4 << 20),
            self.size,
            event_idx=bool(self.features & Feature.RING_EVENT_IDX),
            indirect=bool(self.features & Feature.RING_INDIRECT_DESC),
        )
        for offset, address in ((0x20, queue.desc), (0x28, queue.avail), (0x30, queue.used)):
            self.common(offset, 4, address & 0xFFFF_FFFF)
            self.common(offset + 4, 4, address >> 32)
        if self.msix:
            self.common(0x1A, 2, index + 1)
            assert self.common(0x1A, 2) == index + 1
        self.common(0x1C, 2, 1)
        self.queues.append(queue)
        self._spare.append([])
        return queue

    # requests

    def kick(self, index: int = 0, *, always: bool = False) -> None:
        """Ring the doorbell if the device wants it."""
        if self.queues[index].kick() or always:
            bar, base = self.places[2]
            self.cpu.write(bar, base + index * self.multiplier, 2, index)

    def submit(self, kind: int, sector: int, data: bytes | int = b"", *, index: int = 0) -> Request:
        """Make one request available; ``data`` is what to write, or how much to read."""
        queue = self.queues[index]
        length = data if isinstance(data, int) else len(data)
        header, status, buffer = self._buffers(index, length)
        self.cpu.ram.write(header, struct.pack("<IIQ", kind, 0, sector))
        self.cpu.ram.write(status, b"\xff")
        readable, writable = [(header, 16)], [(status, 1)]
        if isinstance(data, bytes) and data:
            self.cpu.ram.write(buffer, data)
            readable.append((buffer, length))
        elif length:
            writable.insert(0, (buffer, length))
        return Request(queue.add(readable, writable), buffer, length, status)

    def _buffers(self, index: int, length: int) -> tuple[int, int, int]:
        spare = self._spare[index]
        for place, (header, buffer, size) in enumerate(spare):
            if size >= length:
                spare.pop(place)
                return header, header + 16, buffer
        queue = self.queues[index]
        return (header := queue.lend(17)), header + 16, queue.lend(max(length, 512), 512)

    def recycle(self, request: Request, index: int = 0) -> None:
        """Let later requests use the buffers of a finished one."""
        self._spare[index].append((request.status - 16, request.data, max(request.length, 512)))

    def wait(self, count: int = 1, *, index: int = 0, timeout_s: float = 10.0) -> list[tuple[int, int]]:
        """Sleep on interrupts until ``count`` requests came back; return (head, written) of each."""
        queue, done = self.queues[index], []
        deadline = time.monotonic() + timeout_s
        source = index + 2 if self.msix else 0  # the line, vector 0 for config, then one per queue
        while True:
            word = self.cpu.word(source)
            done += queue.collect()
            if len(done) >= count:
                return done
            if queue.ask():
                if self.msix:
                    self.cpu.wait_interrupt(source, word, max(0.0, deadline - time.monotonic()))
                else:
                    if not word:
                        self.cpu.wait_interrupt(0, 0, max(0.0, deadline - time.monotonic()))
                    bar, base = self.places[3]
                    self.cpu.read(bar, base, 1)  # clears

    def do(self, kind: int, sector: int = 0, data: bytes | int = b"", *, index: int = 0) -> tuple[int, bytes]:
        """Do one request; return its status and what was read."""
        request = self.submit(kind, sector, data, index=index)
        self.kick(index)
        self.wait(index=index)
        status = self.cpu.ram.read(request.status, 1)
        found = self.cpu.ram.read(request.data, request.length)
        assert status is not None
        assert found is not None
        self.recycle(request, index)
        return status[0], found
