"""A driver for any virtio device, in the process of the device: for ``--poke`` and for tests.

It does register by register what a driver does at probe (virtio 1.2 §3.1), over PCI and MMIO alike, lays queues out in
private memory, and has requests served at once.
"""

from __future__ import annotations

from devproc.host import Commands
from devproc.packed_driver_queue import lay_out
from devproc.poke import settle
from devproc.virtio import VirtioDevice
from devproc.virtio_spec import Feature, Status

QUEUE_SIZE = 4
_ROOM = 0x4_0000  # for a queue and what it lends
_MOST = 0x2_0000  # bytes of a request in one direction
_OVER_MMIO = {"queue_size": "queue_num", "queue_enable": "queue_ready"}


class Driver:
    """Drives the queues of ``device`` from 0 on, as many as its memory has room for."""

    def __init__(self, device: VirtioDevice, features: int = 0, size: int = QUEUE_SIZE) -> None:
        """Lay out queues of ``size``; ``features`` are those of rings that the driver accepts."""
        self.device = device
        self._features = features
        memory = device.machine.memory
        count = min(device.queue_count, memory.size // _ROOM)
        self.queues = [lay_out(memory, memory.base + index * _ROOM, size, features) for index in range(count)]

    def set_up(self, without: int = 0) -> None:
        """Bring the device up, ``without`` some features."""
        self.write("pci_command", 0x6)
        self.write("device_status", 0)
        self.write("device_status", Status.ACKNOWLEDGE | Status.DRIVER)
        for select in (0, 1):
            self.write("driver_feature_select", select)
            wanted = (self.device.features | Feature.VERSION_1 | self._features) & ~without
            self.write("driver_feature", wanted >> 32 * select & 0xFFFF_FFFF)
        self.write("device_status", Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        for index in range(len(self.queues)):
            self.enable(index)
        self.write("device_status", self.device.device_status | Status.DRIVER_OK)

    def enable(self, index: int = 0) -> None:
        """Tell the device where a queue is."""
        queue = self.queues[index]
        self.write("queue_select", index)
        self.write("queue_size", queue.size)
        self.write("queue_desc", queue.desc)
        self.write("queue_driver", queue.avail)
        self.write("queue_device", queue.used)
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

    def serve(self, index: int = 0) -> list[tuple[int, int]]:
        """Ring the doorbell, and return what came back: head and bytes written."""
        self.device.ring(index)
        settle(self.device)
        return self.queues[index].collect()


class Requests:
    """Whole requests for the prompt, one at a time: bytes out, bytes in."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._places = [(queue.lend(_MOST // 4), queue.lend(_MOST // 4)) for queue in driver.queues]

    def do(self, index: int, out: bytes, size: int) -> bytes | None:
        """Send ``out`` with room for ``size`` bytes; return what was written, or ``None`` without an answer.

        Raises:
            ValueError: there is no such queue, or more bytes than have room.
        """
        if not 0 <= index < len(self._places):
            raise ValueError(f"queue {index}, there are {len(self._places)}")
        if not out and not size:
            raise ValueError("nothing to send: bytes in hexadecimal, +BYTES for room to write")
        if max(len(out), size) > _MOST // 4:
            raise ValueError(f"{_MOST // 4} bytes each way at most")
        there, back = self._places[index]
        memory = self._driver.device.machine.memory
        memory.write(there, out)
        readable, writable = [(there, len(out))] if out else [], [(back, size)] if size else []
        self._driver.queues[index].add(readable, writable)
        answers = self._driver.serve(index)
        return memory.read(back, min(size, answers[0][1])) if answers else None


def commands(driver: Driver) -> Commands:
    """Return the commands of any virtio device: ``setup``, ``queues``, ``send``."""
    requests: list[Requests] = []

    def setup(_words: list[str]) -> str:
        driver.set_up()
        return f"features {driver.device.negotiated:#x}, {len(driver.queues)} queues of {driver.queues[0].size}"

    def queues(_words: list[str]) -> str:
        return "\n".join(
            " ".join(f"{name}={value:#x}" for name, value in table.items()) for table in driver.device.queue_tables()
        )

    def send(words: list[str]) -> str:
        """``send QUEUE [HEX…] [+BYTES]``: readable bytes, then how many may be written."""
        if not driver.device.negotiated:
            return "set the device up first: setup"
        if not requests:
            requests.append(Requests(driver))
        size = sum(int(word[1:], 0) for word in words[1:] if word.startswith("+"))
        out = bytes.fromhex("".join(word for word in words[1:] if not word.startswith("+")))
        answer = requests[0].do(int(words[0], 0), out, size)
        if answer is None:
            return f"no answer; status {driver.device.device_status:#x}"
        return f"{len(answer)} bytes: {answer.hex(' ')}"

    return {"setup": setup, "queues": queues, "send": send}
