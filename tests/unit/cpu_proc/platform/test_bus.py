"""The platform bus: where its devices are, what their nodes say, and what is refused there."""

from __future__ import annotations

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.boot.fdt import Node
from cpu_proc.place import Place
from cpu_proc.platform.bus import SLOTS, PlatformDevice, add_nodes, properties
from protocol.errors import ProtocolError
from protocol.layout import DevicePage
from tests.unit.cpu_proc.pcie.fake_device import anonymous


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
