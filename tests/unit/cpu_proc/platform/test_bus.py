"""The platform bus: where its devices are, what their nodes say, and what is refused there."""

from __future__ import annotations

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.boot.fdt import Node
from cpu_proc.device_memory import DeviceMemory
from cpu_proc.place import Place
from cpu_proc.platform.bus import SLOTS, Memories, PlatformDevice, add_nodes, properties
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.plic import Plic
from cpu_proc.platform.wired import Slots
from protocol.errors import ProtocolError
from protocol.layout import BarFlags, DevicePage, IrqPage
from protocol.memory import sealed
from tests.unit.cpu_proc.pcie.fake_device import anonymous


class Wires:
    """Notes what is pulled."""

    def __init__(self) -> None:
        self.levels: list[tuple[int, int]] = []

    def set_line(self, wire: int, level: int) -> None:
        """Note it."""
        self.levels.append((wire, level))


def make_sharing(irq: IrqPage, slot: int = 1, size: int = 1 << 20) -> PlatformDevice:
    """Return a device with memory and two calls."""
    page = DevicePage(anonymous(0x1_0000, "device"))
    page.format()
    page.bar(0).set(16, 0x4000, 0x5000, 0)
    page.bar(1).set(size, 0, 0, BarFlags.MEMORY)
    page.irq_base, page.irq_count, page.calls = 8, 3, 2
    device = PlatformDevice("shm0", slot, page.shared, 0, lambda _who: None, 2)
    device.memory[1] = DeviceMemory(sealed("test", size), size, writable=True)
    device.node = properties({"compatible": "qemu,ivshmem-flat"})
    device.last_words = [0, 0, 0]
    return device


def test_memory_has_a_place_of_its_own_which_the_node_says() -> None:
    irq = IrqPage(anonymous(IrqPage.SIZE, "irq"))
    space = AddressSpace()
    memories = Memories(space)
    devices = [make_sharing(irq, slot, size) for slot, size in ((1, 4096), (2, 1 << 20), (3, 256 << 20))]
    for device in devices:
        memories.place(device)
        memories.place(device)
        device.settle()
    base = mm.PLATFORM_MEMORY.base
    assert [device.bar_address(1) for device in devices] == [base, base + (1 << 20), 0]  # the last has no room
    assert space.read(base + (1 << 20), 4) == 0  # there, so that a store that the memory does not take is no fault
    soc = Node()
    add_nodes(soc, devices[1:2], controller=9, kind=(4,))
    node = soc.children["ivshmem-flat@4200000"].properties
    assert node["reg"] == [0, 0x420_0000, 0, 16, 0, base + (1 << 20), 0, 1 << 20]
    assert node["interrupts"] == [66, 1]  # an edge
    add_nodes(soc, devices[:1], controller=9, kind=())
    assert soc.children["ivshmem-flat@4100000"].properties["interrupts"] == [65]
    for device in devices:
        device.close()
        device.release()


def test_a_call_is_an_edge_that_is_not_lost_while_another_is_served() -> None:
    irq = IrqPage(anonymous(IrqPage.SIZE, "irq"))
    wires = Wires()
    slots = Slots(AddressSpace(), irq, wires.set_line, lambda: None, slots=SLOTS, first_wire=mm.PLATFORM_IRQ, empty={})
    device = make_sharing(irq)
    slots.add(device)
    wires.levels.clear()
    for source in (9, 10):
        irq.raise_(source, irq.word(source) + 1)
        slots.scan()
        slots.scan()
    wire = mm.PLATFORM_IRQ + 1
    assert wires.levels == [(wire, 1), (wire, 0)] * 2
    assert device.counters["calls"] == 2

    plic = Plic(1, lambda *_: None)
    plic.feel_edges(wire)
    plic.write(4 * wire, 4, 1)
    plic.write(0x2080 + wire // 32 * 4, 4, 1 << wire % 32)
    for level in (1, 0):
        plic.set_line(wire, level)
    assert plic.read(0x20_1004, 4) == wire
    for level in (1, 0):
        plic.set_line(wire, level)
    assert plic.read(0x20_1004, 4) == 0
    plic.write(0x20_1004, 4, wire)
    assert plic.read(0x20_1004, 4) == wire
    device.close()
    device.release()


def make_device(slot: int, size: int) -> PlatformDevice:
    page = DevicePage(anonymous(0x20_0000 + 2 * size, "device"))
    page.format()
    page.bar(0).set(size, 0x4000, 0x4000 + size, 0)
    page.irq_base, page.irq_count = 8, 1
    device = PlatformDevice("timer0", slot, page.shared, 0, lambda _who: None)
    device.settle()
    return device


def test_slots_do_not_overlap_and_have_wires_of_their_own() -> None:
    assert len(SLOTS) == mm.PLATFORM_SLOTS
    assert SLOTS[-1][0].base + SLOTS[-1][0].size == mm.PLATFORM.base + mm.PLATFORM.size
    assert mm.PCIE_IRQ + 4 <= mm.PLATFORM_IRQ
    assert mm.PLATFORM_IRQ + mm.PLATFORM_SLOTS <= mm.WIRED_SOURCES
    assert str(Place.parse("platform3")) == "platform@4300000"
    assert Place.parse("platform32") is None


def test_a_node_says_what_the_device_says_and_where_it_is() -> None:
    device = make_device(2, 0x1000)
    device.node = properties({"compatible": ["acme,timer-2", "acme,timer"], "clock-frequency": 1000, "wakeup": True})
    soc = Node()
    add_nodes(soc, [device], controller=9, kind=(4,))
    assert soc.children["timer-2@4200000"].properties == {
        "compatible": ["acme,timer-2", "acme,timer"],
        "clock-frequency": 1000,
        "wakeup": None,
        "reg": [0, 0x420_0000, 0, 0x1000],
        "interrupts": [66, 4],
        "interrupt-parent": 9,
    }
    device.close()
    device.release()


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"compatible": []},
        {"compatible": "a,b", "reg": 1},
        {"compatible": "a,b", "x" * 32: 1},
        {"compatible": "a,b", "n\0": 1},
        {"compatible": "a\0b"},
        {"compatible": "a,b", "size": -1},
        {"compatible": "a,b", "size": [1 << 32]},
        {"compatible": "a,b", "size": 1.5},
        {"compatible": "a,b"} | {f"p{i}": i for i in range(64)},
    ],
)
def test_what_no_tree_can_have_is_refused(node: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="node"):
        properties(node)


def test_a_device_larger_than_its_slot_is_nowhere() -> None:
    device = make_device(0, 0x20_0000)
    assert device.bar_address(0) == 0
    device.close()
    device.release()
