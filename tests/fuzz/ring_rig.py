"""A disk in this process for a hostile guest: guest RAM between pages that nobody may touch, with such a hole in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from devproc.machine import Machine
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice, open_device
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import SECTOR, Type
from devproc.virtio_spec import Status
from protocol.memory import GuestMemory, Words

BASE, RAM, GUARD = 0x8000_0000, 0x4_0000, 0x1_0000
HOLE = (0x3_0000, 0x3_2000)
SECTORS = 64
SLOTS = 32
SLOT = 0x400
TURNS = 50  # of a doorbell, until everything that was there is served


class Failed(Exception):
    """The device did what it must not do."""


def forbid(place: mmap.mmap, start: int, end: int) -> None:
    """Take all access to a part of a mapping away: whoever tries ends by SIGSEGV, the kernel by EFAULT."""
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    if libc.mprotect(ctypes.c_void_p(address + start), ctypes.c_size_t(end - start), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


class Rig:
    """A device over ``transport`` with its machine; ``probe`` makes it ready, and what follows may be anything."""

    def __init__(self, folder: Path, transport: str, *, in_order: bool) -> None:
        self.image = folder / f"{transport}.raw"
        self.image.write_bytes(os.urandom(SECTORS * SECTOR))
        config = Config(image=self.image, threads=1, queue_size=16, in_order=in_order)
        self.device: BlockDevice = open_device(config, transport)
        self._map = mmap.mmap(-1, RAM + 2 * GUARD)
        for start, end in ((0, GUARD), (GUARD + RAM, RAM + 2 * GUARD), (GUARD + HOLE[0], GUARD + HOLE[1])):
            forbid(self._map, start, end)
        self._whole = memoryview(self._map)
        self.memory = GuestMemory(Words(self._whole[GUARD : GUARD + RAM]), BASE, [HOLE])
        self.machine = Machine.private(self.device.page_size, memory=self.memory)
        self.device.attach(self.machine)
        self.disk: Disk
        self.slots: list[int] = []
        self.features = 0
        self.size = 4

    def close(self) -> None:
        """Give everything back."""
        self.device.detach()
        self.device.release()
        self.device.close()
        self.machine.close()
        self._whole.release()

    # the guest's part

    def probe(self) -> None:
        """Reset the device and set it up, with a ring of the kind and size that are wanted."""
        self.disk = Disk(self.device, self.features, self.size)
        first = self.disk.queue.lend(SLOT * SLOTS, SLOT)
        if first + SLOT * SLOTS - BASE > HOLE[0]:
            raise Failed("the rings reach the hole")  # of this test
        self.slots = [first + SLOT * number for number in range(SLOTS)]
        self.disk.set_up()

    @property
    def serving(self) -> bool:
        """Whether the device would serve a request."""
        queue = self.device.queues.get(0)
        status = self.device.device_status
        return bool(queue and not queue.broken and status & Status.DRIVER_OK and not status & Status.NEEDS_RESET)

    def ring(self) -> None:
        """Ring the doorbell, and serve it as the device loop does."""
        self.device.pending.add(0)
        for _ in range(TURNS):
            if not self.device.pending:
                return
            index = self.device.pending.pop()
            if self.device.doorbell(index):
                self.device.pending.add(index)
        raise Failed(f"after {TURNS} turns there is still something to be served")

    def die(self) -> None:
        """Go on as a successor does, after host I/O whose results nobody has seen."""
        device = self.device
        while device.pool.busy:
            device._poll.poll()
            device.pool.finished()
        device.queues.clear()
        device.pending.clear()
        device.recover()

    def check(self) -> None:
        """Check that after all this the disk is one: a request is done, and nothing was touched outside of RAM."""
        self.device.drain()
        self.size = 4
        self.probe()
        memory = self.memory
        sector, data = SECTORS // 2, os.urandom(SECTOR)
        if self.disk.request(Type.OUT, sector, out=data)[0] != "ok":
            raise Failed("a write after a reset fails")
        if self.disk.request(Type.IN, sector, size=SECTOR) != ("ok", data):
            raise Failed("a read after a reset gives something else")
        if memory is not self.machine.memory or self.image.stat().st_size != SECTORS * SECTOR:
            raise Failed("the image has another size")
        if self.device.counters["host_error_EFAULT"]:
            raise Failed("host I/O reached for memory that is not RAM")
