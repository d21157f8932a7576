"""A guest that writes anything into the rings of a card at any time, on memory between pages that nobody may touch."""

from __future__ import annotations

import mmap
import random

import pytest

from devproc.machine import Machine
from devproc.network.backend import PLAIN
from devproc.network.frame import FRAME_MAX, HEADER
from devproc.virtio_driver import Driver
from devproc.virtio_net.config import Config
from devproc.virtio_net.device import NetworkCard
from devproc.virtio_spec import Feature, Status
from protocol.memory import GuestMemory, Words
from tests.fuzz.ring_rig import BASE, GUARD, forbid
from tests.unit.devproc.virtio_net.rig import ALL, MAC, RX, TX, Wire, frame

RAM = 0x20_0000
STEPS = 10_000


class Mean:
    """A card, and a guest that plays by no rules; everything follows from the seed."""

    def __init__(self, seed: int, rings: int, transport: str) -> None:
        self.chance = random.Random(seed)
        self.rings, self.transport = rings, transport
        self._map = mmap.mmap(-1, RAM + 2 * GUARD)
        for start in (0, GUARD + RAM):
            forbid(self._map, start, start + GUARD)
        self._whole = memoryview(self._map)
        self.memory = GuestMemory(Words(self._whole[GUARD : GUARD + RAM]), BASE)
        self.wire = Wire(ALL)
        self.device = self._make()
        self.machine = Machine.private(self.device.page_size, memory=self.memory)
        self.device.attach(self.machine)
        self.probe()

    def _make(self) -> NetworkCard:
        return NetworkCard.over(self.transport)(Config(MAC, queues=2), self.wire)

    def probe(self) -> None:
        """Begin anew."""
        self.driver = Driver(self.device, self.rings | int(Feature.RING_INDIRECT_DESC), size=16)
        self.driver.set_up()
        self.room = [queue.lend(0x4000) for queue in self.driver.queues]

    def step(self) -> None:
        """Do something."""
        actions = (self.add, self.add, self.poke, self.poke, self.ring, self.ring, self.hear, self.read, self.wave)
        self.chance.choice(actions)()
        if self.device.device_status & Status.NEEDS_RESET or self.chance.random() < 0.005:
            self.probe()
        if self.chance.random() < 0.01:
            self.die()

    def add(self) -> None:
        queue = self.chance.randrange(len(self.driver.queues))
        pieces = [
            (self.room[queue] + self.chance.randrange(0x2000), self.chance.choice((0, 1, 12, 26, 60, 2000, 0x2000)))
            for _ in range(self.chance.randrange(1, 4))
        ]
        inwards = queue in (0, 2) and self.chance.random() < 0.95
        with_answer = self.chance.random() < (0.1 if queue % 2 else 0.9)
        try:
            self.driver.queues[queue].add([] if inwards else pieces, pieces[:1] if inwards or with_answer else [])
        except IndexError:  # no descriptor is free
            try:
                self.driver.queues[queue].collect()
            except LookupError:  # its own rings are spoilt
                self.probe()

    def poke(self) -> None:
        """Write a word somewhere into the rings or what they lead to, or into a register."""
        if self.chance.random() < 0.1:
            name = self.chance.choice(("queue_select", "queue_reset", "device_status", "queue_size"))
            self.driver.write(name, self.chance.choice((0, 1, 2, 4, 7, 15)))
            return
        queue = self.driver.queues[self.chance.randrange(len(self.driver.queues))]
        at = self.chance.choice((queue.desc, queue.avail, self.room[0], self.room[1])) + self.chance.randrange(0x200)
        width = self.chance.choice((1, 2, 4, 8))
        values = (0, 1, 3, 0x7FFF, 0xFFFF, BASE, BASE + RAM - 8, self.chance.getrandbits(64))
        queue.store(at // width * width, width, self.chance.choice(values) & (1 << 8 * width) - 1)

    def ring(self) -> None:
        self.device.pending.add(self.chance.randrange(5))
        for _ in range(60):
            if not self.device.pending:
                return
            index = self.device.pending.pop()
            if self.device.doorbell(index):
                self.device.pending.add(index)

    def hear(self) -> None:
        size = self.chance.choice((0, 46, 1486, 8000, FRAME_MAX - 14))
        head = bytes([1, self.chance.randrange(6)]) + self.chance.randbytes(10)
        self.device.deliver(frame(bytes(size)), self.chance.choice((PLAIN, head)), self.chance.choice((None, 0, 1)))
        self.device._show()

    def read(self) -> None:
        pair = self.chance.randrange(2)
        pieces = self.device.room(pair, self.chance.choice((HEADER + 60, 2000, 65562)))
        if pieces is not None:
            size = sum(map(len, pieces))
            for piece in pieces:
                piece[:] = bytes(len(piece))
            self.device.filled(pair, self.chance.randrange(HEADER + 14, max(HEADER + 15, size + 1)))
        self.device._show()

    def wave(self) -> None:
        """The network is full, or no more; the cable goes, the machine pauses."""
        self.wire.full = not self.wire.full
        self.device.writable()
        self.device.set_link(up=self.chance.random() < 0.9)
        if self.chance.random() < 0.2:
            self.device.quiesce()
            self.device.resume()

    def die(self) -> None:
        """Be killed; a successor goes on from the page."""
        self.device.release()
        self.device.close()
        self.wire = Wire(ALL)
        self.device = self.driver.device = self._make()
        self.device.attach(self.machine)

    def check(self) -> None:
        """After a reset it is a card again."""
        self.wire.full = False
        self.device.set_link(up=True)
        self.probe()
        self.wire.sent.clear()
        queue = self.driver.queues[TX]
        data = PLAIN + frame()
        offset = self.room[TX] - BASE
        self.memory.ram.u8[offset : offset + len(data)] = data
        queue.add([(self.room[TX], len(data))], [])
        self.driver.serve(TX)
        assert self.wire.sent == [(0, PLAIN, frame())]
        self.driver.queues[RX].add([], [(self.room[RX], 2048)])
        self.driver.serve(RX)
        assert self.device.deliver(frame())
        self.device._show()
        assert [length for _, length in self.driver.queues[RX].collect()] == [HEADER + len(frame())]

    def close(self) -> None:
        self.device.release()
        self.device.close()
        self.machine.close()
        self._whole.release()


@pytest.mark.parametrize("transport", ["pci", "mmio"])
@pytest.mark.parametrize("rings", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_a_guest_does_raises_or_reaches_outside(seed: int, rings: int, transport: str) -> None:
    mean = Mean(seed, rings, transport)
    for _ in range(STEPS):
        mean.step()
    mean.check()
    assert mean.device.counters
    mean.close()
