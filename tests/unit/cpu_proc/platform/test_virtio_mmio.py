"""Slots of virtio-mmio: empty ones, and one with a device that is a page and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cpu_proc import memory_map as mm
from cpu_proc import remote as remote_module
from cpu_proc.engine import state as st
from cpu_proc.platform import virtio_mmio
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.virtio_mmio import MmioDevice
from cpu_proc.platform.wired import Slots
from protocol import messages
from protocol.layout import DevicePage, IrqPage, ReadKind, WriteKind, kind
from tests.unit.cpu_proc.harness import anonymous
from tests.unit.cpu_proc.pcie.fake_device import FakeLink

SLOT = 2
BASE = mm.virtio_slot(SLOT).base
IMAGE, KINDS, SIZE = 0x4000, 0x5000, 0x6000
NOTIFY, ACK, PLAIN = 0x50, 0x64, 0x100


@dataclass
class Plant:
    """The slots, with a device in one."""

    slots: Slots
    device: MmioDevice
    link: FakeLink
    irq: IrqPage
    space: AddressSpace
    lines: dict[int, int]
    rows: list[list[int]]


def make_device(bar_size: int = 0x1000) -> MmioDevice:
    """Return a device of one BAR with a doorbell whose value tells."""
    shared = anonymous(SIZE, "device")
    page = DevicePage(shared)
    page.format()
    page.bar(0).set(bar_size, IMAGE, KINDS, 0)
    shared.u8[KINDS : KINDS + 0x1000] = bytes([kind(ReadKind.PAGE, WriteKind.STORE)]) * 0x1000
    shared.u8[KINDS + NOTIFY : KINDS + NOTIFY + 4] = bytes([kind(ReadKind.ZERO, WriteKind.DOORBELL)]) * 4
    shared.u8[KINDS + ACK : KINDS + ACK + 4] = bytes([kind(ReadKind.ZERO, WriteKind.SYNC)]) * 4
    page.doorbells, page.doorbell_bar, page.doorbell_offset, page.doorbell_stride = 2, 0, NOTIFY, 0
    page.irq_base, page.irq_count = 8, 1
    page.initialised = 1
    return MmioDevice("dev0", SLOT, shared, 2, lambda _who: None)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Return the slots."""
    monkeypatch.setattr(remote_module, "_SPARE_CORE", False)  # the link answers, the page does not
    irq, space = IrqPage(anonymous(IrqPage.SIZE)), AddressSpace()
    lines: dict[int, int] = {}
    rows: list[list[int]] = []
    slots = Slots(
        space, irq, lines.__setitem__, lambda: rows.__setitem__(slice(None), slots.rows()),
        slots=virtio_mmio.SLOTS, first_wire=mm.VIRTIO_IRQ, empty=virtio_mmio.EMPTY,
    )  # fmt: skip
    device = make_device()
    link: Any = FakeLink(device.page)
    device.connect(link, os.getpid(), 1)
    slots.add(device)
    yield Plant(slots, device, link, irq, space, lines, rows)
    device.close()
    device.release()
    irq.shared.close()


@pytest.mark.parametrize("slot", [0, 1, 7])
def test_an_empty_slot_has_device_zero(plant: Plant, slot: int) -> None:
    base = mm.virtio_slot(slot).base
    assert [plant.space.read(base + at, 4) for at in (0, 4, 8, 12)] == [0x7472_6976, 2, 0, 0x554D_4551]
    plant.space.write(base + 0x70, 4, 1)
    assert plant.space.read(base + 0x70, 4) == 0


def test_registers_are_the_devices(plant: Plant) -> None:
    plant.space.write(BASE + PLAIN, 4, 0x1234)
    assert plant.space.read(BASE + PLAIN, 4) == 0x1234
    assert plant.device.shared.load(IMAGE + PLAIN, 4) == 0x1234
    assert plant.device.bars() == [(0, BASE, 0x1000)]


def test_compiled_code_gets_the_window_with_a_doorbell_by_value(plant: Plant) -> None:
    (row,) = plant.rows
    assert row[st.W_BASE : st.W_SIZE + 1] == [BASE, 0x1000]
    assert (row[st.W_STORES], row[st.W_DOORBELL_OFFSET], row[st.W_DOORBELL_STRIDE], row[st.W_DOORBELLS]) == (
        1, NOTIFY, 0, 2,
    )  # fmt: skip


def test_the_value_rings(plant: Plant) -> None:
    for value in (1, 0, 0x8007_0001, 2, 0xFFFF_FFFF):  # the upper half is NOTIFICATION_DATA's
        plant.space.write(BASE + NOTIFY, 4, value)
    plant.space.write(BASE + NOTIFY, 2, 0)
    assert [os.eventfd_read(bell) for bell in plant.device.doorbells] == [1, 2]
    assert plant.device.counters["undefined"] == 3


def test_a_synchronous_write_is_followed_by_a_barrier(plant: Plant) -> None:
    plant.space.write(BASE + ACK, 4, 1)
    write, barrier = plant.link.sent
    assert isinstance(write, messages.Write)
    assert (write.bar, write.offset, write.value) == (0, ACK, 1)
    assert isinstance(barrier, messages.Barrier)


def test_the_wire_follows_the_word(plant: Plant) -> None:
    for level in (1, 0, 1):
        plant.irq.raise_(8, level)
        plant.slots.scan()
        assert plant.lines[mm.VIRTIO_IRQ + SLOT] == level


def test_a_device_that_does_not_fill_the_slot_is_left_out(plant: Plant) -> None:
    for size in (0x100, 0x2000):
        device = make_device(size)
        plant.slots.add(device)
        assert plant.rows == []
        assert plant.space.read(BASE + 8, 4) == 0
        device.close()
        device.release()
