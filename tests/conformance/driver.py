"""A little virtio-blk driver on a ``FakeCpu``: what Linux does at probe, and requests one by one or in batches."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from devproc.driver_queue import DriverQueue
from devproc.packed_driver_queue import PackedDriverQueue, lay_out
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
    """Drives the device of ``cpu`` over PCI; ``probe`` comes first."""

    REGISTERS: ClassVar[dict[str, tuple[int, int]]] = {  # offset and size (virtio 1.2 §4.1.4.3)
        "device_feature_select": (0x00, 4), "device_feature": (0x04, 4),
        "driver_feature_select": (0x08, 4), "driver_feature": (0x0C, 4),
        "config_msix_vector": (0x10, 2), "status": (0x14, 1),
        "queue_select": (0x16, 2), "queue_max": (0x18, 2), "queue_size": (0x18, 2),
        "queue_msix_vector": (0x1A, 2), "queue_ready": (0x1C, 2),
        "queue_desc": (0x20, 4), "queue_driver": (0x28, 4), "queue_device": (0x30, 4),
        "queue_desc_high": (0x24, 4), "queue_driver_high": (0x2C, 4), "queue_device_high": (0x34, 4),
    }  # fmt: skip

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
        self.queues: list[DriverQueue | PackedDriverQueue] = []
        self.places: dict[int, tuple[int, int]] = {}
        self.multiplier = 0
        self.features = 0
        self._spare: list[list[tuple[int, int, int]]] = []

    # registers

    def place(self, name: str) -> tuple[int, int, int]:
        """Return BAR, offset and size of a register."""
        offset, size = self.REGISTERS[name]
        bar, base = self.places[1]
        return bar, base + offset, size

    def get(self, name: str) -> int:
        """Read a register of the transport."""
        return self.cpu.read(*self.place(name))

    def set(self, name: str, value: int) -> None:
        """Write a register of the transport."""
        self.cpu.write(*self.place(name), value)

    def config(self, offset: int, size: int) -> int:
        """Read the device's config space."""
        bar, base = self.places[4]
        return self.cpu.read(bar, base + offset, size)

    def status(self, value: int | None = None) -> int:
        """Read or write the device status."""
        if value is not None:
            self.set("status", value)
            return value
        return self.get("status")

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

    def find(self) -> None:
        """Find the registers, and let the device reach memory."""
        found = self.find_capabilities()
        self.cpu.write(CONFIG, 0x04, 2, 0x6)
        if self.msix:
            control = found[CAP_MSIX][0] + 2
            self.cpu.write(CONFIG, control, 2, self.cpu.read(CONFIG, control, 2) | 0x8000)

    def probe(self) -> None:
        """Do what Linux's transport driver and ``virtio_blk`` do until the disk is ready."""
        self.find()
        self.reset()
        self.status(Status.ACKNOWLEDGE)
        self.status(Status.ACKNOWLEDGE | Status.DRIVER)
        self.negotiate()
        if self.msix:
            self.set("config_msix_vector", 0)
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
            self.set("device_feature_select", select)
            offered |= self.get("device_feature") << 32 * select
        self.features = offered & (self.wanted | 0xFF_FFFF)
        for select in (0, 1):
            self.set("driver_feature_select", select)
            self.set("driver_feature", self.features >> 32 * select & 0xFFFF_FFFF)
        self.status(self.status() | Status.FEATURES_OK)
        assert self.status() & Status.FEATURES_OK

    def set_ring(self, desc: int, driver: int, device: int) -> None:
        """Say where the rings of the selected queue are."""
        for name, address in (("queue_desc", desc), ("queue_driver", driver), ("queue_device", device)):
            self.set(name, address & 0xFFFF_FFFF)
            self.set(f"{name}_high", address >> 32)

    def set_up(self, index: int, gpa: int | None = None) -> DriverQueue | PackedDriverQueue:
        """Lay out and enable one queue."""
        self.set("queue_select", index)
        assert self.get("queue_max") >= self.size
        self.set("queue_size", self.size)
        queue = lay_out(self.cpu.ram, gpa or RAM_BASE + index * (4 << 20), self.size, self.features)
        self.set_ring(queue.desc, queue.avail, queue.used)
        if self.msix:
            self.set("queue_msix_vector", index + 1)
            assert self.get("queue_msix_vector") == index + 1
        self.set("queue_ready", 1)
        self.queues.append(queue)
        self._spare.append([])
        return queue

    def ring(self, index: int) -> None:
        """Ring the doorbell."""
        bar, base = self.places[2]
        self.cpu.write(bar, base + index * self.multiplier, 2, index)

    def acknowledge(self) -> int:
        """Take the interrupt back, and return what it was for."""
        bar, base = self.places[3]
        return self.cpu.read(bar, base, 1)  # clears

    # requests

    def kick(self, index: int = 0, *, always: bool = False) -> None:
        """Ring the doorbell if the device wants it."""
        if self.queues[index].kick() or always:
            self.ring(index)

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
                    self.acknowledge()

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


class MmioDriver(Driver):
    """Drives a device over virtio-mmio (virtio 1.2 §4.2.2)."""

    REGISTERS: ClassVar[dict[str, tuple[int, int]]] = {
        "magic": (0x00, 4), "version": (0x04, 4), "device": (0x08, 4), "vendor": (0x0C, 4),
        "device_feature": (0x10, 4), "device_feature_select": (0x14, 4),
        "driver_feature": (0x20, 4), "driver_feature_select": (0x24, 4),
        "queue_select": (0x30, 4), "queue_max": (0x34, 4), "queue_size": (0x38, 4), "queue_ready": (0x44, 4),
        "notify": (0x50, 4), "interrupt_status": (0x60, 4), "interrupt_ack": (0x64, 4), "status": (0x70, 4),
        "queue_desc": (0x80, 4), "queue_driver": (0x90, 4), "queue_device": (0xA0, 4),
        "queue_desc_high": (0x84, 4), "queue_driver_high": (0x94, 4), "queue_device_high": (0xA4, 4),
        "shm_sel": (0xAC, 4), "shm_len": (0xB0, 8), "shm_base": (0xB8, 8),
        "queue_reset": (0xC0, 4), "config_generation": (0xFC, 4),
    }  # fmt: skip

    def __init__(self, cpu: FakeCpu, **options: Any) -> None:
        super().__init__(cpu, **options | {"msix": False})
        self.places = {1: (0, 0), 4: (0, 0x100)}

    def find(self) -> None:
        """Look for the magic value and the version."""
        assert [self.get(name) for name in ("magic", "version", "device")] == [0x7472_6976, 2, 2]

    def ring(self, index: int) -> None:
        """Write the queue's number to the one doorbell."""
        self.set("notify", index)

    def acknowledge(self) -> int:
        """Take the interrupt back, and return what it was for."""
        causes = self.get("interrupt_status")
        self.set("interrupt_ack", causes)
        return causes


DRIVERS = {"pci": Driver, "mmio": MmioDriver}
