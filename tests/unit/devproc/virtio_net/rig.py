"""A card with a driver on the one side and a network that a test plays on the other."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from devproc.descriptors import Descriptors
from devproc.machine import Machine
from devproc.network.backend import PLAIN, Base, Buffer, Card, Pieces
from devproc.network.features import GUEST, HOST
from devproc.network.frame import HEADER
from devproc.virtio_driver import Driver
from devproc.virtio_net.config import Config
from devproc.virtio_net.device import NetworkCard

MAC = bytes.fromhex("525400aabbcc")
PEER = bytes.fromhex("020000000001")
ROOM = 2048
RX, TX = 0, 1


def frame(payload: bytes = b"hello", to: bytes = MAC, source: bytes = PEER, kind: int = 0x88B5) -> bytes:
    """Return an Ethernet frame."""
    return to + source + kind.to_bytes(2, "big") + payload


class Wire(Base):
    """A network in the test's hands."""

    def __init__(self, offloads: int = 0, *, keeps: bool = False) -> None:
        self.offloads = offloads
        self.sent: list[tuple[int, bytes, bytes]] = []
        self.full = False
        self.wanted = True
        self.agreed: list[int] = []
        self.used: list[int] = []
        self._keeps = keeps
        self._kept: list[tuple[int, bytes, Pieces]] = []

    def start(self, card: Card, descriptors: Descriptors) -> None:
        self.card = card

    def send(self, pair: int, header: Buffer, pieces: Pieces) -> bool:
        if self.full:
            return False
        self._kept.append((pair, bytes(header), pieces))
        if not self._keeps:
            self.flush()
        return True

    def flush(self) -> None:
        self.sent += [(pair, header, b"".join(pieces)) for pair, header, pieces in self._kept]
        self._kept.clear()

    def listen(self, *, wanted: bool) -> None:
        self.wanted = wanted

    def agree(self, features: int) -> None:
        self.agreed.append(features)

    def use(self, pairs: int) -> None:
        self.used.append(pairs)

    def describe(self) -> str:
        return "a test"


class Rig:
    """A card in a machine of its own, closed by ``close_all`` at the end of a test."""

    made: ClassVar[list[Rig]] = []

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        transport: str = "pci",
        queues: int = 1,
        without: int = 0,
        size: int = 16,
        rings: int = 0,
        lend: int = ROOM,
        standby: bool = False,
    ) -> None:
        self.wire = wire or Wire()
        config = Config(MAC, queues=queues, standby=standby)
        self.transport, self.config = transport, config
        self.device = NetworkCard.over(transport)(config, self.wire)
        self.machine = Machine.private(self.device.page_size, 4 << 20)
        self.device.attach(self.machine)
        self.made.append(self)
        self.start(without=without, size=size, rings=rings, lend=lend)

    def start(self, *, without: int = 0, size: int = 16, rings: int = 0, lend: int = ROOM) -> None:
        """Have a driver begin."""
        self.driver = Driver(self.device, rings, size=size)
        self.driver.set_up(without)
        self.room = [queue.lend(lend) for queue in self.driver.queues]
        self.more = [queue.lend(lend) for queue in self.driver.queues]

    @classmethod
    def close_all(cls) -> None:
        """Close them."""
        while cls.made:
            rig = cls.made.pop()
            rig.device.release()
            rig.device.close()
            rig.machine.close()

    @property
    def listens(self) -> bool:
        """Whether the card hears its network."""
        return self.wire.wanted

    def successor(self) -> NetworkCard:
        """Let the process die, and another one go on from the page."""
        self.device.release()
        self.device.close()
        self.wire = Wire(self.wire.offloads)
        self.device = self.driver.device = NetworkCard.over(self.transport)(self.config, self.wire)
        self.device.attach(self.machine)
        return self.device

    def offer(self, *sizes: int, queue: int = RX) -> list[int]:
        """Offer buffers to receive into; return where they are."""
        at, places = self.room[queue], []
        for size in sizes:
            self.driver.queues[queue].add([], [(at, size)])
            places.append(at)
            at += size
        self.driver.serve(queue)
        return places

    def take(self, queue: int = RX) -> list[tuple[int, int]]:
        """Return what came back from the device: heads and lengths."""
        return self.driver.queues[queue].collect()

    def read(self, gpa: int, length: int) -> bytes:
        return self.machine.memory.ram.bytes(gpa - self.machine.memory.base, length)

    def write(self, gpa: int, data: bytes) -> None:
        offset = gpa - self.machine.memory.base
        self.machine.memory.ram.u8[offset : offset + len(data)] = data

    def send(self, data: bytes, header: bytes = PLAIN, queue: int = TX, *, cut: tuple[int, ...] = ()) -> None:
        """Send a frame, in as many buffers as ``cut`` says where."""
        whole = header + data
        at = self.room[queue]
        self.write(at, whole)
        edges = [0, *cut, len(whole)]
        self.driver.queues[queue].add([(at + a, b - a) for a, b in pairwise(edges)], [])
        self.driver.serve(queue)

    def hear(self, data: bytes, header: bytes = PLAIN) -> bool:
        """Have a frame come from the wire."""
        taken = self.wire.card.deliver(data, header)
        self.device._show()
        return taken

    def command(self, which: int, command: int, data: bytes, *, room: int = 1, queue: int = -1) -> int | None:
        """Give a command; return its answer."""
        index = queue if queue >= 0 else self.device.control_queue
        at, back = self.room[index], self.more[index]
        self.write(at, bytes([which, command]) + data)
        self.write(back, b"\xee")
        self.driver.queues[index].add([(at, 2 + len(data))], [(back, room)] if room else [])
        used = self.driver.serve(index)
        assert len(used) == 1
        return self.read(back, 1)[0] if used[0][1] else None


ALL = int(HOST | GUEST)
__all__ = ["ALL", "HEADER", "MAC", "PEER", "PLAIN", "ROOM", "RX", "TX", "Rig", "Wire", "frame"]
