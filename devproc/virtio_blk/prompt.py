"""Commands of ``--poke`` for a disk: requests through a driver-side queue, with no machine and no CPU."""

from __future__ import annotations

from collections.abc import Callable

from devproc.device import Device
from devproc.host import Commands
from devproc.packed_driver_queue import lay_out
from devproc.poke import settle
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.spec import SECTOR, Type
from devproc.virtio_spec import Feature, Status

_QUEUE_SIZE = 4
_OVER_MMIO = {"queue_size": "queue_num", "queue_enable": "queue_ready"}
_ANSWERS = {0: "ok", 1: "i/o error", 2: "unsupported"}


class Disk:
    """A driver for one request at a time."""

    def __init__(self, device: BlockDevice, features: int = 0, size: int = _QUEUE_SIZE) -> None:
        """Lay out a queue of ``size``; ``features`` are those of rings that the driver accepts."""
        self.device = device
        self._features = features
        memory = device.machine.memory
        self.queue = lay_out(memory, memory.base, size, features)
        self._header, self._status = self.queue.lend(16), self.queue.lend(1)
        self._data = self.queue.lend(64 * SECTOR, SECTOR)

    def set_up(self, without: int = 0) -> None:
        """Do what a driver does at probe, register by register, ``without`` some features."""
        self.write("pci_command", 0x6)
        self.write("device_status", 0)
        self.write("device_status", Status.ACKNOWLEDGE | Status.DRIVER)
        for select in (0, 1):
            self.write("driver_feature_select", select)
            wanted = (self.device.features | Feature.VERSION_1 | self._features) & ~without
            self.write("driver_feature", wanted >> 32 * select & 0xFFFF_FFFF)
        self.write("device_status", Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        self.enable()
        self.write("device_status", self.device.device_status | Status.DRIVER_OK)

    def enable(self) -> None:
        """Tell the device where the queue is."""
        self.write("queue_select", 0)
        self.write("queue_size", self.queue.size)
        self.write("queue_desc", self.queue.desc)
        self.write("queue_driver", self.queue.avail)
        self.write("queue_device", self.queue.used)
        self.write("queue_enable", 1)

    def write(self, name: str, value: int) -> None:
        """Write a register, by the name it has over PCI."""
        known = self.device.registers.by_name
        name = name if name in known else _OVER_MMIO.get(name, name)
        if name in known:
            self.device.set_register(name, value)
        elif f"{name}_low" in known:
            self.device.set_register(f"{name}_low", value & 0xFFFF_FFFF)
            self.device.set_register(f"{name}_high", value >> 32)

    def request(self, kind: int, sector: int = 0, *, out: bytes = b"", size: int = 0) -> tuple[str, bytes]:
        """Do one request; return the answer in words, and the data."""
        memory = self.device.machine.memory
        header = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
        memory.write(self._header, header)
        memory.write(self._data, out)
        readable = [(self._header, 16)] + ([(self._data, len(out))] if out else [])
        self.queue.add(readable, [*([(self._data, size)] if size else []), (self._status, 1)])
        self.device.pending.add(0)
        settle(self.device)
        if not self.queue.collect():
            return "no answer; the device needs a reset", b""
        status = memory.read(self._status, 1) or b"\xff"
        return _ANSWERS.get(status[0], str(status[0])), memory.read(self._data, size) or b""


def commands(device: Device) -> Commands:
    """Return the commands ``read``, ``write``, ``flush``, ``id``."""
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
    return found
