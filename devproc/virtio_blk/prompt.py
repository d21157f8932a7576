"""Commands of ``--poke`` for a disk: requests through a driver-side queue, with no machine and no CPU."""

from __future__ import annotations

from collections.abc import Callable

from devproc.device import Device
from devproc.driver_queue import DriverQueue
from devproc.host import Commands
from devproc.packed_driver_queue import PackedDriverQueue
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.spec import SECTOR, Type
from devproc.virtio_driver import QUEUE_SIZE, Driver
from devproc.virtio_driver import commands as virtio_commands

_ANSWERS = {0: "ok", 1: "i/o error", 2: "unsupported"}


class Disk(Driver):
    """A driver for one request at a time."""

    def __init__(self, device: BlockDevice, features: int = 0, size: int = QUEUE_SIZE) -> None:
        """Lay out queues of ``size``; ``features`` are those of rings that the driver accepts."""
        super().__init__(device, features, size)
        self._header, self._status = self.queue.lend(16), self.queue.lend(1)
        self._data = self.queue.lend(64 * SECTOR, SECTOR)

    @property
    def queue(self) -> DriverQueue | PackedDriverQueue:
        """The one queue that is used; another may be put in its place."""
        return self.queues[0]

    @queue.setter
    def queue(self, queue: DriverQueue | PackedDriverQueue) -> None:
        self.queues[0] = queue

    def request(self, kind: int, sector: int = 0, *, out: bytes = b"", size: int = 0) -> tuple[str, bytes]:
        """Do one request; return the answer in words, and the data."""
        memory = self.device.machine.memory
        header = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
        memory.write(self._header, header)
        memory.write(self._data, out)
        readable = [(self._header, 16)] + ([(self._data, len(out))] if out else [])
        self.queue.add(readable, [*([(self._data, size)] if size else []), (self._status, 1)])
        if not self.serve():
            return "no answer; the device needs a reset", b""
        status = memory.read(self._status, 1) or b"\xff"
        return _ANSWERS.get(status[0], str(status[0])), memory.read(self._data, size) or b""


def commands(device: Device) -> Commands:
    """Return the commands ``read``, ``write``, ``flush``, ``id``, and those of any virtio device."""
    assert isinstance(device, BlockDevice)
    disk = Disk(device)
    disk.set_up()

    def read(words: list[str]) -> str:
        answer, data = disk.request(Type.IN, int(words[0], 0), size=SECTOR)
        rows = [data[at : at + 16] for at in range(0, len(data), 16)]
        shown = [f"{at * 16:04x}  {row.hex(' ')}" for at, row in enumerate(rows) if any(row)]
        return "\n".join([answer, *shown])

    def write(words: list[str]) -> str:
        data = " ".join(words[1:]).encode()[:SECTOR].ljust(SECTOR, b"\0")
        return disk.request(Type.OUT, int(words[0], 0), out=data)[0]

    def serial(_words: list[str]) -> str:
        answer, data = disk.request(Type.GET_ID, size=20)
        return data.rstrip(b"\0").decode(errors="replace") if answer == "ok" else answer

    found: dict[str, Callable[[list[str]], str]] = {
        "read": read,
        "write": write,
        "flush": lambda _words: disk.request(Type.FLUSH)[0],
        "id": serial,
    }
    return virtio_commands(disk) | found
