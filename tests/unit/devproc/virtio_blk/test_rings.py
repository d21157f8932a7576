"""What a driver may agree on about rings, on a disk: kinds, order, reset of one queue."""

from __future__ import annotations

import threading

import pytest

from devproc.packed_driver_queue import lay_out
from devproc.poke import settle
from devproc.virtio_blk.backing import Views
from devproc.virtio_blk.spec import Type
from devproc.virtio_spec import Feature
from tests.unit.devproc.virtio_blk.conftest import MakeDisk
from tests.unit.devproc.virtio_blk.platter import Platter

KINDS = [0, int(Feature.RING_PACKED)]


@pytest.mark.parametrize("features", KINDS)
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_queue_is_reset_alone_and_begins_anew_elsewhere(make: MakeDisk, transport: str, features: int) -> None:
    """virtio 1.2 §2.6.1: nothing of before is done or told, and place, size and positions are new."""
    disk = make(transport=transport, features=features | Feature.RING_RESET)
    device, old = disk.device, disk.queue
    for _ in range(3):
        assert disk.request(Type.OUT, 1, out=b"a" * 512) == ("ok", b"")
    old.add([(old.lend(16), 16)], [(old.lend(1), 1)])
    before = device.machine.memory.read(old.desc, old.scratch - old.desc)
    interrupts = bytes(device.machine.irq.shared.u8)

    disk.write("queue_select", 0)
    disk.write("queue_reset", 1)

    assert (device.get_register("queue_reset"), device.records[0].enabled) == (0, 0)
    device.pending.add(0)  # a doorbell that comes too late
    settle(device)
    assert device.machine.memory.read(old.desc, old.scratch - old.desc) == before
    assert bytes(device.machine.irq.shared.u8) == interrupts
    memory = device.machine.memory
    disk.queue = lay_out(memory, memory.base + 0x8_0000, 8, features)
    disk.enable()
    assert disk.request(Type.IN, 1, size=512) == ("ok", b"a" * 512)
    assert device.records[0].size == 8
    assert device.counters["bad_accesses"] == 0


@pytest.mark.parametrize("features", KINDS)
def test_without_the_feature_a_queue_is_not_reset(make: MakeDisk, features: int) -> None:
    disk = make(features=features)

    disk.write("queue_reset", 1)

    assert disk.device.records[0].enabled == 1
    assert disk.request(Type.IN, 1, size=512)[0] == "ok"


@pytest.mark.parametrize("features", KINDS)
def test_a_packed_queue_has_any_size_and_a_split_one_a_power_of_two(make: MakeDisk, features: int) -> None:
    disk = make(features=features | Feature.RING_RESET)
    disk.write("queue_select", 0)
    disk.write("queue_reset", 1)
    memory = disk.device.machine.memory
    disk.queue = lay_out(memory, memory.base + 0x8_0000, 5, features)

    disk.enable()

    assert disk.device.records[0].size == (5 if features else 256)
    if features:
        for _ in range(7):
            assert disk.request(Type.IN, 1, size=512)[0] == "ok"


class Slow(Platter):
    """A platter whose first sector waits."""

    def __init__(self) -> None:
        super().__init__(64)
        self.go = threading.Event()

    def read(self, views: Views, offset: int) -> None:
        """Read; sector 0 only after ``go``."""
        if offset == 0:
            assert self.go.wait(10)
        super().read(views, offset)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("features", KINDS)
def test_requests_come_back_in_order_if_that_was_agreed_on(make: MakeDisk, features: int, in_order: bool) -> None:
    slow = Slow()
    disk = make(slow, threads=2, in_order=in_order, features=features | Feature.RING_INDIRECT_DESC)
    queue, device = disk.queue, disk.device
    status = queue.lend(1)
    heads = []
    for sector in (0, 1, 2):
        header, data = queue.lend(16), queue.lend(512)
        device.machine.memory.write(header, bytes(8) + sector.to_bytes(8, "little"))
        heads.append(queue.add([(header, 16)], [(data, 512), (status, 1)]))
    device.pending.add(0)
    while device.pending:
        device.doorbell(device.pending.pop())

    while device.pool.busy > 1:
        device._poll.poll()
        device._collect()

    early = [head for head, _ in queue.collect()]
    slow.go.set()
    device.drain()
    late = [head for head, _ in queue.collect()]
    assert bool(device.offered & Feature.IN_ORDER) == in_order
    assert late == (heads if in_order else heads[:1])
    assert sorted(early) == ([] if in_order else sorted(heads[1:]))
