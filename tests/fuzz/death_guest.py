"""A guest whose disk dies under it, and that believes nothing but its rings, its interrupts and its registers.

It sleeps until it is interrupted, rings only when it is asked to, and looks at a ring only when an interrupt says so: a
lost interrupt or doorbell ends as ``Failed``. Each answer is held against what the disk should contain; a buffer that
came back is filled with something else, so that a request which is done once more does damage that is seen.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from devproc.driver_queue import DriverQueue
from devproc.packed_driver_queue import PackedDriverQueue, lay_out
from devproc.pci import MSIX_ENABLE
from devproc.virtio_blk.spec import S_OK, S_UNSUPP, SECTOR, Type
from devproc.virtio_spec import ISR_CONFIG, ISR_QUEUE, Feature, Status
from tests.fuzz.death_rig import BASE, SECTORS, Computer, Failed

SLOTS, SLOT = 6, 0xA00  # requests that may be under way in a queue, and what each has of memory
AREA = SECTORS // (2 * SLOTS)  # sectors of each, of two queues
NAPS = 200  # until everything that is under way has come back
SERIAL = b"dying"
_GARBAGE = 0xDD
_PENDING = 0xEE  # a status byte that no device has stored
_ROOM = 0x1_0000  # for a queue
_OVER_MMIO = {"queue_size": "queue_num", "queue_enable": "queue_ready"}

# in turn, each a kind and how many sectors it moves
SCRIPT = (
    (Type.OUT, 2), (Type.IN, 2), (Type.OUT, 1), (Type.FLUSH, 0), (Type.GET_ID, 0), (Type.IN, 3), (Type.OUT, 4), (99, 0),
    (Type.WRITE_ZEROES, 1),
)  # fmt: skip


class Request(NamedTuple):
    """What was asked for, and what should come of it."""

    slot: int
    kind: int
    sector: int
    payload: bytes
    room: int
    status: int
    expected: bytes


class Lane:
    """One queue of the guest, with its requests."""

    def __init__(self, computer: Computer, index: int, features: int, size: int, contents: bytearray) -> None:
        self.index = index
        self.queue: DriverQueue | PackedDriverQueue = lay_out(computer.memory, BASE + index * _ROOM, size, features)
        self.under_way: dict[int, Request] = {}
        self.order: list[int] = []
        self.returned = 0
        self._computer = computer
        self._contents = contents
        self._free = list(range(SLOTS))
        self._serial = 0
        self._slots = [self.queue.lend(SLOT) for _ in range(SLOTS)]

    def submit(self) -> bool:
        """Make the next request of the script available, and ring if that is wanted; return whether there was room."""
        kind, count = SCRIPT[self._serial % len(SCRIPT)]
        if not self._free:
            return False
        slot = self._free[0]
        sector = (self.index * SLOTS + slot) * AREA
        memory, at = self._computer.memory, self._slots[slot]
        request = self._plan(slot, int(kind), sector, count)
        memory.write(at, struct.pack("<IIQ", request.kind, 0, request.sector))
        memory.write(at + 16, request.payload or bytes([_PENDING]) * request.room)
        memory.write(at + SLOT - 1, bytes([_PENDING]))
        half = (len(request.payload) + request.room) // 2
        data = [(at + 16, half), (at + 16 + half, half)] if half else []
        try:
            head = self.queue.add(
                [(at, 16), *(data if request.payload else [])],
                [*(data if request.room else []), (at + SLOT - 1, 1)],
            )
        except IndexError:
            return False
        self._serial += 1
        self._free.remove(slot)
        self.under_way[head] = request
        self.order.append(head)
        if self.queue.kick():
            self._computer.ring(self.index)
        return True

    def _plan(self, slot: int, kind: int, sector: int, count: int) -> Request:
        length = count * SECTOR
        old = bytes(self._contents[sector * SECTOR : sector * SECTOR + length])
        if kind == Type.OUT:
            payload = (b"%05d" % self._serial).ljust(16, b"%c" % (65 + self.index)) * (length // 16)
            return Request(slot, kind, sector, payload, 0, S_OK, b"")
        if kind == Type.IN:
            return Request(slot, kind, sector, b"", length, S_OK, old)
        if kind == Type.GET_ID:
            return Request(slot, kind, 0, b"", 20, S_OK, SERIAL.ljust(20, b"\0"))
        if kind == Type.WRITE_ZEROES:
            return Request(slot, kind, 0, struct.pack("<QII", sector, count, 0), 0, S_OK, b"")
        return Request(slot, kind, 0, b"", 0, S_OK if kind == Type.FLUSH else S_UNSUPP, b"")

    def collect(self) -> None:
        """Take what came back, until an interrupt is due for the next."""
        while True:
            for head, written in self.queue.collect():
                self._check(head, written)
            if self.queue.ask():
                return

    def _check(self, head: int, written: int) -> None:
        request = self.under_way.pop(head, None)
        if request is None:
            raise Failed(f"queue {self.index}: head {head} came back, which is not under way")
        self.order.remove(head)
        self.returned += 1
        memory, at = self._computer.memory, self._slots[request.slot]
        status = memory.read(at + SLOT - 1, 1)
        found = memory.read(at + 16, request.room) or b""
        if status != bytes([request.status]) or found != request.expected:
            raise Failed(f"queue {self.index}: {request} ended with status {status!r} and {found[:16]!r}")
        if written != request.room + 1:
            raise Failed(f"queue {self.index}: {request} with {written} bytes written")
        place = request.sector * SECTOR
        if request.kind == Type.OUT:
            self._contents[place : place + len(request.payload)] = request.payload
        elif request.kind == Type.WRITE_ZEROES:
            sector, count, _ = struct.unpack("<QII", request.payload)
            self._contents[sector * SECTOR : (sector + count) * SECTOR] = bytes(count * SECTOR)
        memory.write(at, bytes([_GARBAGE]) * SLOT)
        self._free.append(request.slot)


class Guest:
    """Drives a disk with one or two queues."""

    def __init__(self, computer: Computer, features: int, *, size: int = 8, msix: bool = True) -> None:
        self.computer = computer
        self.features = features
        self.size = size
        self.msix = msix and computer.transport == "pci"
        self.contents = bytearray(computer.content.data)
        self.config_interrupts = 0
        self.lanes: list[Lane] = []
        self._more = 0

    # registers

    def write(self, name: str, value: int) -> None:
        """Write a register by the name it has over PCI."""
        computer = self.computer
        name = name if computer.has(name) else _OVER_MMIO.get(name, name)
        if computer.has(name):
            computer.write(name, value)
        elif computer.has(f"{name}_low"):
            computer.write(f"{name}_low", value & 0xFFFF_FFFF)
            computer.write(f"{name}_high", value >> 32)

    def expect(self, name: str, value: int) -> None:
        """Read a register, and hold it against a value."""
        computer = self.computer
        name = name if computer.has(name) else _OVER_MMIO.get(name, name)
        if computer.has(name) and (found := computer.read(name)) != value:
            raise Failed(f"{name} is {found:#x}, not {value:#x}")

    def set_up(self) -> None:
        """Bring the disk up, and see that each step has had its effect."""
        self.write("pci_command", 0x6)
        self.reset()
        self.write("pci_msix_control", MSIX_ENABLE if self.msix else 0)
        if self.msix:
            self.write("config_msix_vector", 0)
            self.expect("config_msix_vector", 0)
        status = Status.ACKNOWLEDGE | Status.DRIVER
        self.write("device_status", status)
        wanted = self.features | Feature.VERSION_1 | Feature.RING_RESET | self.computer.device.features
        for select in (0, 1):
            self.write("driver_feature_select", select)
            self.write("driver_feature", wanted >> 32 * select & 0xFFFF_FFFF)
        self.write("device_status", status | Status.FEATURES_OK)
        self.expect("device_status", status | Status.FEATURES_OK)
        self.expect("capacity", SECTORS)
        self.lanes = []
        for index in range(len(self.computer.doorbells)):
            self.lanes.append(self.enable(index))
        self.write("device_status", status | Status.FEATURES_OK | Status.DRIVER_OK)
        self.expect("device_status", status | Status.FEATURES_OK | Status.DRIVER_OK)

    def enable(self, index: int) -> Lane:
        """Lay a queue out, and tell the device where it is."""
        lane = Lane(self.computer, index, self.features, self.size, self.contents)
        queue = lane.queue
        queue.ask()
        self.write("queue_select", index)
        self.write("queue_size", self.size)
        self.write("queue_desc", queue.desc)
        self.write("queue_driver", queue.avail)
        self.write("queue_device", queue.used)
        if self.msix:
            self.write("queue_msix_vector", index + 1)
            self.expect("queue_msix_vector", index + 1)
        self.write("queue_enable", 1)
        self.expect("queue_enable", 1)
        return lane

    def stop(self, index: int) -> None:
        """Reset one queue (virtio 1.2 §2.6.1)."""
        self.write("queue_select", index)
        self.write("queue_reset", 1)
        self.expect("queue_reset", 0)
        self.expect("queue_enable", 0)

    def reset(self) -> None:
        """Reset the device."""
        self.write("device_status", 0)
        self.expect("device_status", 0)
        self.write("queue_select", 0)
        self.expect("queue_enable", 0)

    # requests

    def work(self, rounds: int, together: int, *, meanwhile: int = 0) -> None:
        """Do requests, some at a time; and while there is no device, one more at each of its deaths."""
        self._more = meanwhile
        self.computer.meanwhile = self._one_more
        for _ in range(rounds):
            for lane in self.lanes:
                for _ in range(together):
                    lane.submit()
            self.wait()
        self.computer.meanwhile = lambda: None

    def _one_more(self) -> None:
        if self._more:
            self._more -= 1
            self.lanes[-1].submit()

    def wait(self) -> None:
        """Return when nothing is under way any more."""
        for _ in range(NAPS):
            if not any(lane.under_way for lane in self.lanes):
                return
            if not self.wake():
                left = {lane.index: list(lane.under_way.values()) for lane in self.lanes}
                raise Failed(f"asleep for ever, with {left} under way")
        raise Failed("woken, and nothing there")

    def wake(self) -> bool:
        """Sleep until an interrupt, and serve it; return False if none comes."""
        sources = self.computer.interrupts()
        if not sources:
            return False
        causes = 0
        if 0 in sources and not self.msix:
            causes = self.computer.read("isr_status")
            if self.computer.has("interrupt_ack"):
                self.computer.write("interrupt_ack", causes)
        self.config_interrupts += bool(causes & ISR_CONFIG or (self.msix and 1 in sources))
        for lane in self.lanes:
            if causes & ISR_QUEUE or (self.msix and lane.index + 2 in sources):
                lane.collect()
        return True

    def check(self) -> None:
        """See that nothing is left over, that all descriptors are there, and that the disk has what it should."""
        for lane in self.lanes:
            if lane.queue.collect() or lane.queue.outstanding:
                raise Failed(f"queue {lane.index}: something is left")
            while lane.submit():
                pass
        self.wait()
        if self.computer.content.data != self.contents:
            wrong = [s for s in range(SECTORS) if self._sector(self.contents, s) != self._sector(None, s)]
            raise Failed(f"sectors {wrong} of the disk are not what was written")

    def _sector(self, data: bytearray | None, sector: int) -> bytes:
        data = self.computer.content.data if data is None else data
        return bytes(data[sector * SECTOR : (sector + 1) * SECTOR])

    def break_ring(self) -> None:
        """Make a chain available that is none, and ring."""
        queue = self.lanes[0].queue
        if isinstance(queue, PackedDriverQueue):
            queue.offer(0, [(BASE - 16, 16, 0)])
        else:
            queue.describe(queue.desc, BASE - 16, 16, 0, 0)
            queue.offer(0)
        self.computer.ring(0)
