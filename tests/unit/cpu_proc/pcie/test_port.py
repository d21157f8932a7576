"""A root port with a hot-plug slot: what is found behind it, and the sequences of Linux's pciehp (pciehp_hpc.c)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc import memory_map as mm
from cpu_proc.pcie import hot_plug as hp
from cpu_proc.pcie.port import Card, Port
from cpu_proc.pcie.root import Root
from cpu_proc.platform.aia import Imsic
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.saving import _fields, _set_fields
from protocol import messages
from protocol.layout import IrqPage
from tests.unit.cpu_proc.harness import Bench, anonymous
from tests.unit.cpu_proc.pcie import fake_device as fake

PORT = 16 << 15
BUS = 5
BEHIND = BUS << 20
WINDOW, HIGH = 0x4020_0000, mm.pcie_high(4 << 20)
IDENTITY = 33
LISTENING = hp.BUTTON_ENABLE | hp.LINK_ENABLE | hp.COMMAND_ENABLE | hp.INTERRUPT_ENABLE
CONTROL_MASK_OF_DRIVER = 0x0400 | 0x0300 | 0x00C0 | LISTENING | hp.PRESENCE_ENABLE


@dataclass
class Plant:
    """A root with two ports, one function on bus 0 that is not there, and a card outside of the slots."""

    root: Root
    card: Card
    link: fake.FakeLink
    space: AddressSpace
    bench: Bench
    lines: dict[int, int] = field(default_factory=dict)
    seen: int = 0
    """Events that the driver has cleared and not acted on."""

    @property
    def port(self) -> Port:
        """The first port."""
        return self.root.ports[0]

    def read(self, register: int, size: int = 2) -> int:
        """Read configuration space of the port."""
        return self.root.read(PORT + register, size)

    def write(self, register: int, value: int, size: int = 2) -> None:
        """Write configuration space of the port."""
        self.root.write(PORT + register, size, value)

    def assign(self) -> None:
        """Do what a guest does at boot: bus numbers, windows, decoding, one message."""
        self.write(0x18, BUS << 16 | BUS << 8, 4)
        self.write(0x20, (WINDOW >> 16 & 0xFFF0) | (WINDOW + 0x10_0000 & 0xFFF0_0000), 4)
        self.write(0x24, (HIGH.base >> 16 & 0xFFF0) | (HIGH.base & 0xFFF0_0000), 4)
        self.write(0x28, HIGH.base >> 32, 4)
        self.write(0x2C, HIGH.base >> 32, 4)
        self.write(0x04, 6)
        self.write(0x44, mm.IMSIC_S.base, 4)
        self.write(0x4C, IDENTITY)
        self.write(0x42, 1)

    def place(self) -> None:
        """Place the BARs of the card and let them decode."""
        for register, value in ((0x10, WINDOW), (0x14, WINDOW + 0x1000), (0x20, HIGH.base)):
            self.root.write(BEHIND + register, 4, value & 0xFFFF_FFFF)
        self.root.write(BEHIND + 0x24, 4, HIGH.base >> 32)
        self.root.write(BEHIND + 0x04, 2, 6)

    def interrupts(self) -> int:
        """Return how often the port's message came since the last look: 0 or 1."""
        self.bench.hart.pending_enabled()
        bit = self.bench["SI_EIP0"] >> IDENTITY & 1
        self.bench["SI_EIP0"] = 0
        return bit

    # as the driver does it

    def command(self, bits: int, mask: int) -> None:
        """Write Slot Control and wait for the command to complete (pcie_do_write_cmd)."""
        before = self.read(hp.SLOT_CONTROL)
        self.write(hp.SLOT_STATUS, hp.COMMAND_COMPLETED)
        self.write(hp.SLOT_CONTROL, before & ~mask | bits & mask)
        enables = hp.COMMAND_ENABLE | hp.INTERRUPT_ENABLE
        if self.read(hp.SLOT_CONTROL) & enables == enables:
            assert self.interrupts()
        self.handle()
        assert self.seen & hp.COMMAND_COMPLETED
        self.seen &= ~hp.COMMAND_COMPLETED

    def probe(self) -> None:
        """Take the port over: an empty slot that is powered is switched off (pcie_init, pcie_enable_notification)."""
        self.write(hp.SLOT_STATUS, 0x011B)
        if not self.read(hp.SLOT_STATUS) & hp.PRESENT:
            self.command(hp.POWER_OFF, hp.POWER_OFF)
        self.command(LISTENING, CONTROL_MASK_OF_DRIVER & ~0x07C0)

    def handle(self) -> None:
        """Read and clear the events, until there are none (pciehp_isr)."""
        while events := self.read(hp.SLOT_STATUS) & 0x011B:
            self.write(hp.SLOT_STATUS, events)
            self.seen |= events

    def events(self) -> int:
        """Return the events since the last look."""
        self.handle()
        found, self.seen = self.seen, 0
        return found

    def power_on(self) -> None:
        """Switch the slot on, indicator blinking, then on (board_added)."""
        self.command(0, hp.POWER_OFF)
        self.command(0x0200, 0x0300)

    def power_off(self) -> None:
        """Switch the slot off, then the indicator (remove_board)."""
        self.command(hp.POWER_OFF, hp.POWER_OFF)
        self.events()
        self.command(0x0300, 0x0300)


@pytest.fixture
def plant(bench: Bench) -> Iterator[Plant]:
    """Return a root with two ports, and a card."""
    irq = IrqPage(anonymous(IrqPage.SIZE))
    page = fake.make_page(irq_base=8)
    space = AddressSpace()
    lines: dict[int, int] = {}
    root = Root(space, irq, [mm.PCIE_MMIO, HIGH], lines.__setitem__, lambda: None, ports=2)
    space.add(mm.PCIE_ECAM, root, "ecam")
    space.add(mm.IMSIC_S, Imsic([bench.hart], "SI"), "imsic")
    card = Card("dev0", 0, page, fake.DOORBELLS, lambda _who: None)
    card.port = root.ports[0]
    link: Any = fake.FakeLink(card.page)
    card.connect(link, os.getpid(), 1)
    yield Plant(root, card, link, space, bench, lines)
    card.close()
    card.release()
    irq.shared.close()


def resets(plant: Plant) -> int:
    """Return how often the device was reset."""
    return sum(isinstance(m, messages.Barrier) and m.what == "reset" for m in plant.link.sent)


def test_a_port_looks_like_qemus(plant: Plant) -> None:
    assert plant.read(0x00, 4) == 0x000C_1B36
    assert plant.read(0x08, 4) == 0x0604_0000
    assert plant.read(0x0E, 1) & 0x7F == 1
    assert plant.root.read((17 << 15) + 2, 2) == 0x000C
    assert plant.root.read((18 << 15) + 2, 2) & 0xFFFF == 0xFFFF
    found, at = {}, plant.read(0x34, 1)
    while at:
        found[plant.read(at, 1)] = at
        at = plant.read(at + 1, 1)
    assert set(found) == {0x01, 0x05, 0x10}
    assert plant.read(found[0x10] + 2) == 0x0142
    capabilities = plant.read(hp.SLOT_CAPABILITIES, 4)
    assert capabilities & 0x7F == 0x7B
    assert capabilities >> 19 == 1
    assert plant.read(0x100, 4) == 0


def test_there_is_no_io_window(plant: Plant) -> None:
    plant.write(0x1C, 0xE0F0)
    plant.write(0x30, 0xFFFF_FFFF, 4)
    assert plant.read(0x1C) == 0
    assert plant.read(0x30, 4) == 0


def test_a_card_is_found_under_the_number_of_its_bus_alone(plant: Plant) -> None:
    plant.root.add(plant.card)
    assert plant.card.ecam is None
    assert plant.root.read(BEHIND, 4) == -1
    plant.assign()
    assert plant.root.read(BEHIND, 4) == 0x11E8_1234
    assert plant.root.read(BEHIND + (1 << 15), 4) == -1  # device 1
    assert plant.root.read(BEHIND + (1 << 12), 4) == -1  # function 1
    assert plant.root.rows()[0][0] == mm.PCIE_ECAM.base + BEHIND
    plant.write(0x19, BUS + 1, 1)
    assert plant.root.read(BEHIND, 4) == -1
    assert plant.root.read((BUS + 1) << 20, 4) == 0x11E8_1234


def test_bars_are_decoded_within_the_windows_alone(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.place()
    assert plant.root.memory_read(WINDOW, 4) == 0x5566_7788
    assert [row[0] for row in plant.root.rows()[1:]] == [WINDOW, WINDOW + 0x1000, HIGH.base]
    plant.root.write(BEHIND + 0x10, 4, WINDOW + 0x20_0000)
    assert plant.root.memory_read(WINDOW + 0x20_0000, 4) == -1
    plant.root.write(BEHIND + 0x10, 4, WINDOW)
    plant.write(0x22, (WINDOW >> 16) - 0x10)  # the limit below the base
    assert plant.root.memory_read(WINDOW, 4) == -1
    assert [row[0] for row in plant.root.rows()[1:]] == [HIGH.base]
    plant.write(0x04, 4)
    assert plant.root.rows()[1:] == []


def test_a_guest_without_a_driver_finds_what_is_plugged_in(plant: Plant) -> None:
    plant.assign()
    plant.root.add(plant.card)
    assert plant.port.hot_plug.link
    assert not plant.interrupts()
    assert plant.root.read(BEHIND, 4) == 0x11E8_1234
    assert plant.read(hp.LINK_STATUS) == 0x2011
    plant.root.remove(plant.card)
    assert plant.root.read(BEHIND, 4) == -1
    assert plant.read(hp.LINK_STATUS) == 0


def test_plugging_with_a_driver(plant: Plant) -> None:
    plant.assign()
    plant.probe()
    assert not plant.port.hot_plug.powered
    plant.root.add(plant.card)
    assert plant.interrupts()
    assert plant.events() & (hp.PRESSED | hp.PRESENCE_CHANGED) == hp.PRESSED | hp.PRESENCE_CHANGED
    assert plant.root.read(BEHIND, 4) == -1  # no power
    plant.power_on()
    assert plant.events() & hp.LINK_CHANGED
    assert plant.read(hp.LINK_STATUS) & 0x23F0 == 0x2010
    assert plant.root.read(BEHIND, 4) == 0x11E8_1234
    plant.command(0x0100, 0x0300)
    assert plant.port.hot_plug.indicator == "on"


def test_unplugging_with_a_driver(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.root.reset()
    plant.assign()
    plant.probe()
    assert plant.port.hot_plug.powered
    plant.root.press(plant.port)
    assert plant.interrupts()
    assert plant.events() == hp.PRESSED
    plant.command(0x0200, 0x0300)
    assert (plant.port.hot_plug.indicator, plant.port.hot_plug.let_go) == ("blinking", False)
    assert resets(plant) == 0
    plant.power_off()
    assert resets(plant) == 1
    assert plant.port.hot_plug.let_go
    assert plant.root.read(BEHIND, 4) == -1
    plant.root.remove(plant.card)
    assert plant.events() == hp.PRESENCE_CHANGED
    assert not plant.interrupts()


def test_a_slot_that_is_switched_off_and_on_has_its_card_reset_and_there(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.probe()
    plant.power_off()
    plant.power_on()
    assert resets(plant) == 1
    assert plant.root.read(BEHIND, 4) == 0x11E8_1234


def test_a_surprise_is_told(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.place()
    plant.probe()
    plant.root.remove(plant.card)
    assert plant.interrupts()
    assert plant.events() == hp.PRESENCE_CHANGED | hp.LINK_CHANGED
    assert plant.root.memory_read(WINDOW, 4) == -1
    assert plant.root.rows() == []
    assert resets(plant) == 0


@pytest.mark.parametrize(("register", "bit"), [(hp.BRIDGE_CONTROL, hp.BUS_RESET), (hp.LINK_CONTROL, hp.LINK_DISABLE)])
def test_a_link_that_goes_down_resets_the_card(plant: Plant, register: int, bit: int) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.write(register, bit)
    assert resets(plant) == 1
    assert plant.root.read(BEHIND, 4) == -1
    plant.write(register, 0)
    assert plant.root.read(BEHIND, 4) == 0x11E8_1234
    assert resets(plant) == 1


def test_a_message_is_sent_once_for_each_time_the_condition_comes_true(plant: Plant) -> None:
    plant.assign()
    plant.probe()
    plant.root.press(plant.port)
    assert plant.interrupts()
    plant.root.press(plant.port)
    assert not plant.interrupts()
    plant.write(0x50, 1, 4)  # masked
    assert plant.read(0x54, 4) == 1
    plant.write(0x50, 0, 4)
    assert plant.interrupts()
    assert plant.read(0x54, 4) == 0
    plant.write(hp.SLOT_STATUS, hp.PRESSED)
    plant.root.press(plant.port)
    assert plant.interrupts()
    plant.write(hp.SLOT_STATUS, hp.PRESSED)
    plant.write(0x04, 2)  # no bus master: no message leaves
    plant.root.press(plant.port)
    assert not plant.interrupts()


def test_without_messages_the_wire_follows_the_condition(plant: Plant) -> None:
    plant.assign()
    plant.write(0x42, 0)
    plant.write(hp.SLOT_CONTROL, LISTENING & ~hp.COMMAND_ENABLE)
    wire = mm.PCIE_IRQ + (16 + plant.read(0x3D, 1) - 1) % 4
    plant.root.press(plant.port)
    assert plant.lines[wire] == 1
    assert plant.read(0x06) & 8
    plant.write(0x04, 0x0406)
    assert plant.lines[wire] == 0
    plant.write(0x04, 6)
    assert plant.lines[wire] == 1
    plant.write(hp.SLOT_STATUS, hp.PRESSED)
    assert plant.lines[wire] == 0


def test_a_card_pulls_a_wire_of_its_ports_slot_and_not_the_ports_own(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.assign()
    wire = mm.PCIE_IRQ + 16 % 4
    irq: IrqPage = plant.root._irq
    irq.raise_(plant.card.page.irq_base, 1)
    plant.root.scan()
    assert plant.lines[wire] == 1
    assert plant.read(0x3D, 1) != 1
    assert plant.read(0x0E, 1) & 0x80  # only a device that may have more functions uses other pins than INTA
    plant.root.remove(plant.card)
    assert plant.lines[wire] == 0


@pytest.mark.parametrize(
    ("command", "message_control", "unused"),
    [(0, 0, True), (2, 0, True), (4, 0, False), (6, 0x8000, False), (2, 0x8000, False)],
    ids=["no driver", "decoding alone", "master", "both", "messages"],
)
def test_who_uses_a_card_masters_the_bus_or_takes_messages(
    plant: Plant, command: int, message_control: int, unused: bool
) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.root.write(BEHIND + 0x04, 2, command)
    plant.root.write(BEHIND + fake.MSIX_CAP + 2, 2, message_control)
    assert plant.card.unused is unused


def test_a_reset_leaves_the_card_and_no_event(plant: Plant) -> None:
    plant.root.add(plant.card)
    plant.assign()
    plant.probe()
    plant.power_off()
    plant.root.reset()
    assert plant.read(hp.SLOT_STATUS) == hp.PRESENT
    assert plant.port.hot_plug.powered
    assert plant.port.hot_plug.link
    assert plant.port.bus == 0
    assert not plant.root.ports[1].hot_plug.link


def test_the_registers_are_saved(plant: Plant) -> None:
    plant.assign()
    plant.probe()
    saved = _fields(plant.port)
    shown = [plant.read(register, 4) for register in range(0, 0x100, 4)]
    plant.root.reset()
    assert shown != [plant.read(register, 4) for register in range(0, 0x100, 4)]
    _set_fields(plant.port, saved)
    assert shown == [plant.read(register, 4) for register in range(0, 0x100, 4)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.lists(
        some.tuples(some.sampled_from(["write", "read", "plug", "pull", "press"]), some.integers(0, 0xFF), some.data())
    )
)
def test_no_access_of_any_kind_fails(plant: Plant, steps: list[tuple[str, int, some.DataObject]]) -> None:
    for what, register, data in steps:
        size = data.draw(some.sampled_from([1, 2, 4, 8]))
        if what == "write":
            plant.write(register, data.draw(some.integers(0, (1 << 8 * size) - 1)), size)
        elif what == "read":
            assert plant.read(register, size) >= 0
        elif what == "plug" and plant.port.card is None:
            plant.root.add(plant.card)
        elif what == "pull" and plant.port.card:
            plant.root.remove(plant.card)
        elif what == "press":
            plant.root.press(plant.port)
        plant.root.rows()
        assert plant.port.hot_plug.link <= plant.port.hot_plug.powered
        assert plant.port.hot_plug.present == (plant.port.card is not None)
    if plant.port.card:
        plant.root.remove(plant.card)
