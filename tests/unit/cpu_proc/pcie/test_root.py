"""Configuration space, BARs, MSI-X and INTx of a function whose device is a page and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc import hart as hart_module
from cpu_proc import memory_map as mm
from cpu_proc.pcie.function import Function
from cpu_proc.pcie.root import MemoryWindow, Root
from cpu_proc.platform.aia import Imsic
from cpu_proc.platform.mmio import AddressSpace
from protocol.layout import DevicePage, IrqPage
from tests.unit.cpu_proc.harness import Bench, anonymous
from tests.unit.cpu_proc.pcie import fake_device as fake

SLOT = 3
CONFIG = SLOT << 15
COMMAND, BAR0, BAR1, BAR4 = CONFIG + 4, CONFIG + 0x10, CONFIG + 0x14, CONFIG + 0x20
MESSAGE_CONTROL = CONFIG + fake.MSIX_CAP + 2
ADDRESS0, ADDRESS1 = 0x4000_0000, 0x4000_1000
ENABLE, MASK_ALL = 0x8000, 0x4000
INTX = mm.PCIE_IRQ + SLOT % 4
CALLS = 2


@dataclass
class Plant:
    """A root with one function."""

    root: Root
    function: Function
    link: fake.FakeLink
    irq: IrqPage
    space: AddressSpace
    bench: Bench
    high: MemoryWindow
    low: MemoryWindow
    lines: dict[int, int] = field(default_factory=dict)
    rows: list[list[int]] = field(default_factory=list)

    def enable(self) -> None:
        """Place the BARs and let them decode."""
        self.root.write(BAR0, 4, ADDRESS0)
        self.root.write(BAR1, 4, ADDRESS1)
        self.root.write(BAR4, 8, HIGH.base)
        self.root.write(COMMAND, 2, 6)

    def read(self, address: int, size: int) -> int:
        """Read as a hart does."""
        return self.space.read(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write as a hart does."""
        self.space.write(address, size, value)

    def vector(self, number: int, identity: int, masked: int = 0) -> None:
        """Set up one entry of the MSI-X table."""
        entry = ADDRESS1 + 16 * number
        for offset, value in ((0, mm.IMSIC_S.base & 0xFFFF_FFFF), (4, 0), (8, identity), (12, masked)):
            self.write(entry + offset, 4, value)

    def message(self, vector: int) -> None:
        """Do what a device does to send one."""
        source = self.function.page.irq_base + 1 + vector
        self.irq.raise_(source, self.irq.word(source) + 1)
        self.root.scan()

    def call(self, number: int) -> None:
        """Do what the thread of the calls does when a back-end has written one."""
        source = self.function.page.irq_base + 1 + fake.VECTORS + number
        self.irq.raise_(source, self.irq.word(source) + 1)
        self.root.scan()

    @property
    def delivered(self) -> list[int]:
        """Return the identities pending in the hart's interrupt file, and clear them."""
        self.bench.hart.pending_enabled()  # collects what was posted
        found = []
        for word in range(4):
            bits = self.bench[f"SI_EIP{word}"]
            found += [64 * word + bit for bit in range(64) if bits >> bit & 1]
            self.bench[f"SI_EIP{word}"] = 0
        return found


HIGH = mm.pcie_high(4 << 20)


@pytest.fixture
def plant(bench: Bench) -> Iterator[Plant]:
    """Return the root with a fresh function in slot 3."""
    irq = IrqPage(anonymous(IrqPage.SIZE))
    page = fake.make_page(irq_base=8)
    function = Function("dev0", SLOT, page, fake.DOORBELLS, lambda _who: None, CALLS)
    function.page.irq_count += CALLS
    space = AddressSpace()
    lines: dict[int, int] = {}
    rows: list[list[int]] = []

    root = Root(space, irq, [mm.PCIE_MMIO, HIGH], lines.__setitem__, lambda: rows.__setitem__(slice(None), root.rows()))
    low, high = MemoryWindow(root, mm.PCIE_MMIO.base), MemoryWindow(root, HIGH.base)
    space.add(mm.PCIE_ECAM, root, "ecam")
    space.add(mm.PCIE_MMIO, low, "low")
    space.add(HIGH, high, "high")
    space.add(mm.IMSIC_S, Imsic([bench.hart], "SI"), "imsic")
    link: Any = fake.FakeLink(function.page)
    function.connect(link, os.getpid(), 1)
    root.add(function)
    yield Plant(root, function, link, irq, space, bench, high, low, lines, rows)
    function.close()
    function.release()
    irq.shared.close()


# configuration space


def test_host_bridge_and_empty_slots(plant: Plant) -> None:
    assert plant.root.read(0, 4) == 0x0008_1B36
    assert plant.root.read(2, 2) == 0x0008
    assert plant.root.read(0x0B, 1) == 0x06
    assert plant.space.read(mm.PCIE_ECAM.base + (5 << 15), 4) == 0xFFFF_FFFF
    assert plant.space.read(mm.PCIE_ECAM.base + CONFIG + 0x1000, 4) == 0xFFFF_FFFF  # function 1
    assert plant.space.read(mm.PCIE_ECAM.base + (1 << 20) + CONFIG, 2) == 0xFFFF  # bus 1
    plant.root.write(0, 4, 0xFFFF_FFFF)
    assert plant.root.read(0, 4) == 0x0008_1B36


@pytest.mark.parametrize("size", [1, 2, 4])
def test_config_writes_change_masked_bits_alone(plant: Plant, size: int) -> None:
    before = plant.function.shared.bytes(DevicePage.CONFIG, 0x100)
    mask = plant.function.shared.bytes(DevicePage.CONFIG_MASK, 0x100)
    for value in (0xFFFF_FFFF, 0):
        for offset in range(0, 0x100, size):
            plant.root.write(CONFIG + offset, size, value & (1 << 8 * size) - 1)
        after = plant.function.shared.bytes(DevicePage.CONFIG, 0x100)
        expected = bytes(b & ~m & 255 | value & m & 255 for b, m in zip(before, mask, strict=True))
        assert after == expected


@pytest.mark.parametrize(("register", "size"), [(BAR0, fake.BAR0_SIZE), (BAR1, fake.BAR1_SIZE)])
def test_sizing_a_32_bit_bar(plant: Plant, register: int, size: int) -> None:
    plant.root.write(register, 4, 0xFFFF_FFFF)
    assert (~plant.root.read(register, 4) & 0xFFFF_FFFF) + 1 == size


def test_sizing_a_64_bit_bar_by_halves(plant: Plant) -> None:
    plant.root.write(BAR4, 4, 0xFFFF_FFFF)
    plant.root.write(BAR4 + 4, 4, 0xFFFF_FFFF)
    raw = plant.root.read(BAR4, 4) | plant.root.read(BAR4 + 4, 4) << 32
    assert raw & 15 == 4
    assert (~(raw & ~15) & (1 << 64) - 1) + 1 == fake.BAR4_SIZE


# BARs


def test_bar_decodes_only_while_memory_is_enabled(plant: Plant) -> None:
    plant.enable()
    assert plant.read(ADDRESS0, 4) == 0x5566_7788
    plant.root.write(COMMAND, 2, 0)
    assert plant.read(ADDRESS0, 4) == 0xFFFF_FFFF
    assert len(plant.rows) == 1  # configuration space alone
    plant.root.write(COMMAND, 2, 2)
    assert plant.read(ADDRESS0, 4) == 0x5566_7788


def test_bar_moves(plant: Plant) -> None:
    plant.enable()
    plant.write(HIGH.base + 0x10, 4, 0xABCD)
    plant.root.write(BAR4, 8, HIGH.base + 0x10_0000)
    assert plant.read(HIGH.base + 0x10, 4) == 0xFFFF_FFFF
    assert plant.read(HIGH.base + 0x10_0010, 4) == 0xABCD
    bases = [row[0] for row in plant.rows]
    assert HIGH.base + 0x10_0000 in bases
    assert HIGH.base not in bases


@pytest.mark.parametrize("address", [0, 0xFFFF_FFFF_FFFF_C000, 0x8000_0000, 0x1000_0000])
def test_bar_outside_the_windows_is_not_decoded(plant: Plant, address: int) -> None:
    plant.enable()
    plant.root.write(BAR4, 8, address)
    assert all(row[0] != address for row in plant.rows)


def test_access_across_the_end_of_a_bar_reaches_nothing(plant: Plant) -> None:
    plant.enable()
    plant.root.write(BAR1, 4, 0x4800_0000)
    assert plant.low.read(fake.BAR0_SIZE - 2, 4) & 0xFFFF_FFFF == 0xFFFF_FFFF
    plant.low.write(fake.BAR0_SIZE - 2, 4, 0)
    assert plant.link.sent == []


def test_registers_go_over_the_link_in_order(plant: Plant) -> None:
    plant.enable()
    plant.write(ADDRESS0 + 8, 4, 0x1234_5678)
    plant.write(ADDRESS0 + 12, 1, 0xFF)
    assert plant.read(ADDRESS0 + 8, 8) == 0x1122_3344_5566_7788
    shown = [(type(m).__name__, m.bar, m.offset, m.size, getattr(m, "value", None)) for m in plant.link.sent]
    assert shown == [("Write", 0, 8, 4, 0x1234_5678), ("Write", 0, 12, 1, 0xFF), ("Read", 0, 8, 8, None)]


def test_doorbell_rings_its_eventfd(plant: Plant) -> None:
    plant.enable()
    plant.write(ADDRESS0 + 0x804, 2, 1)
    plant.write(ADDRESS0 + 0x804, 2, 1)
    plant.write(ADDRESS0 + 0x80C, 4, 1)  # past the last
    assert os.eventfd_read(plant.function.doorbells[1]) == 2
    for quiet in (0, 2):
        with pytest.raises(BlockingIOError):
            os.eventfd_read(plant.function.doorbells[quiet])
    assert plant.link.sent == []


def test_a_store_that_rings_is_kept_too(plant: Plant) -> None:
    plant.enable()
    plant.write(ADDRESS0 + 0x808, 4, 0x1234)
    assert plant.read(ADDRESS0 + 0x808, 4) == 0x1234
    assert os.eventfd_read(plant.function.doorbells[2]) == 1
    assert plant.link.sent == []


def test_nothing_reads_as_zero_and_drops(plant: Plant) -> None:
    plant.enable()
    assert plant.read(ADDRESS0 + 0x900, 4) == 0
    plant.write(ADDRESS0 + 0x900, 4, 5)
    assert plant.link.sent == []
    assert plant.function.counters["undefined"] == 2


def test_page_read_waits_for_posted_writes(plant: Plant) -> None:
    plant.enable()
    plant.function.page.posted = 5
    plant.read(HIGH.base, 4)
    assert [type(m).__name__ for m in plant.link.sent] == ["Barrier"]


def test_writes_without_a_device_are_sent_to_the_next(plant: Plant) -> None:
    plant.enable()
    plant.function.lose()
    plant.write(ADDRESS0, 4, 1)
    plant.write(ADDRESS0 + 4, 4, 2)
    link: Any = fake.FakeLink(plant.function.page)
    plant.function.connect(link, os.getpid(), 2)
    assert [(m.epoch, m.offset, m.value) for m in link.sent] == [(2, 0, 1), (2, 4, 2)]


# MSI-X


def test_message_reaches_the_interrupt_file(plant: Plant) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.vector(2, 77)
    plant.message(2)
    assert plant.delivered == [77]
    plant.root.scan()
    assert plant.delivered == []


@pytest.mark.parametrize("how", ["entry", "function"])
def test_masked_message_waits_in_the_pending_bits(plant: Plant, how: str) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE | (MASK_ALL if how == "function" else 0))
    plant.vector(1, 55, masked=int(how == "entry"))
    plant.message(1)
    plant.message(1)
    assert plant.delivered == []
    assert plant.read(ADDRESS1 + 0x800, 8) == 2
    if how == "entry":
        plant.write(ADDRESS1 + 16 + 12, 4, 0)
    else:
        plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    assert plant.delivered == [55]
    assert plant.read(ADDRESS1 + 0x800, 8) == 0
    plant.root.scan()
    assert plant.delivered == []


def test_message_while_off_is_lost(plant: Plant) -> None:
    plant.enable()
    plant.vector(0, 9)
    plant.message(0)
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.root.scan()
    assert plant.delivered == []


def test_switching_off_forgets_what_was_pending(plant: Plant) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.vector(0, 9, masked=1)
    plant.message(0)
    plant.root.write(MESSAGE_CONTROL, 2, 0)
    assert plant.read(ADDRESS1 + 0x800, 8) == 0
    plant.write(ADDRESS1 + 12, 4, 0)
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    assert plant.delivered == []


# calls: eventfds of back-ends, each a message of the vector that the device names


def test_a_call_is_a_message_of_its_vector_wherever_that_points(plant: Plant) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.vector(2, 77)
    plant.vector(3, 78)
    plant.function.page.set_call_vector(0, 2)
    plant.function.page.set_call_vector(1, 2)
    plant.call(0)
    assert plant.delivered == [77]
    plant.call(1)
    assert plant.delivered == [77]
    plant.function.page.set_call_vector(1, 3)
    plant.call(1)
    assert plant.delivered == [78]
    assert plant.function.counters["calls"] == 3
    plant.root.scan()
    assert plant.delivered == []


def test_a_masked_call_is_pending_and_may_change_its_vector_meanwhile(plant: Plant) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.vector(1, 55, masked=1)
    plant.vector(2, 56, masked=1)
    plant.function.page.set_call_vector(0, 1)
    plant.call(0)
    plant.call(0)
    assert plant.delivered == []
    assert plant.read(ADDRESS1 + 0x800, 8) == 2
    plant.function.page.set_call_vector(0, 2)
    plant.write(ADDRESS1 + 16 + 12, 4, 0)
    assert plant.delivered == []
    assert plant.read(ADDRESS1 + 0x800, 8) == 4
    plant.write(ADDRESS1 + 32 + 12, 4, 0)
    assert plant.delivered == [56]
    assert plant.read(ADDRESS1 + 0x800, 8) == 0


@pytest.mark.parametrize("vector", [fake.VECTORS, 0xFFFF])
def test_a_call_without_a_vector_is_dropped(plant: Plant, vector: int) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    plant.vector(0, 9)
    plant.function.page.set_call_vector(0, vector)
    plant.call(0)
    plant.function.page.set_call_vector(0, 0)
    plant.root.scan()
    assert plant.delivered == []


@pytest.mark.parametrize("target", [ADDRESS1 + 8, mm.PCIE_ECAM.base + CONFIG + 4, ADDRESS0, 0x8000_0000, 0xFFFF_FFFC])
def test_message_to_anything_else_is_lost(plant: Plant, target: int) -> None:
    plant.enable()
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    for vector in range(fake.VECTORS):
        plant.vector(vector, 9)
        plant.write(ADDRESS1 + 16 * vector, 4, target)
    plant.message(0)
    assert plant.delivered == []
    assert plant.root.lost_messages == 1


def test_pending_bits_are_read_only(plant: Plant) -> None:
    plant.enable()
    plant.write(ADDRESS1 + 0x800, 8, 15)
    assert plant.read(ADDRESS1 + 0x800, 8) == 0


# INTx


def test_line_follows_the_level_word(plant: Plant) -> None:
    plant.enable()
    source = plant.function.page.irq_base
    plant.irq.raise_(source, 1)
    plant.root.scan()
    assert plant.lines[INTX] == 1
    plant.root.write(COMMAND, 2, 0x406)  # interrupt disable
    assert plant.lines[INTX] == 0
    plant.root.write(COMMAND, 2, 6)
    assert plant.lines[INTX] == 1
    plant.irq.raise_(source, 0)
    plant.root.scan()
    assert plant.lines[INTX] == 0


# whatever comes


addresses = some.one_of(
    some.integers(0, mm.PCIE_ECAM.size - 1).map(lambda o: mm.PCIE_ECAM.base + o),
    some.integers(0, 0xFFF).map(lambda o: mm.PCIE_ECAM.base + CONFIG + o),
    some.integers(0, 0x2FFF).map(lambda o: ADDRESS0 + o),
    some.integers(0, 0x5000).map(lambda o: HIGH.base + o),
    some.sampled_from([BAR0, BAR1, BAR4, BAR4 + 4, COMMAND, MESSAGE_CONTROL]).map(lambda o: mm.PCIE_ECAM.base + o),
)
accesses = some.lists(
    some.tuples(addresses, some.sampled_from([1, 2, 4, 8]), some.none() | some.integers(0, (1 << 64) - 1)), max_size=30
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(accesses, some.lists(some.integers(0, fake.VECTORS - 1), max_size=3))
def test_no_access_of_any_size_and_alignment_fails(
    plant: Plant, todo: list[tuple[int, int, int | None]], vectors: list[int]
) -> None:
    plant.enable()
    for address, size, value in todo:
        if value is None:
            assert 0 <= plant.read(address, size) < 1 << 8 * size
        else:
            plant.write(address, size, value & (1 << 8 * size) - 1)
        for vector in vectors:
            plant.message(vector)
    for row in plant.rows:
        assert row[0] >= 0x3000_0000


def numbers(page: DevicePage) -> list[str]:
    return [field.name for field in page.fields() if field.writer == "device" and field.name != "initialised"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.data())
def test_no_page_a_device_can_write_fails_the_cpu_process(plant: Plant, data: some.DataObject) -> None:
    """A device that writes nonsense into its page hurts itself alone: no exception, no address outside the page."""
    wild = some.one_of(some.integers(0, 64), some.integers(0, fake.SIZE * 2), some.integers(0, (1 << 64) - 1))
    page = plant.function.page
    saved = bytes(page.shared.u8)
    plant.enable()
    try:
        for name in data.draw(some.lists(some.sampled_from(numbers(page)), max_size=3)):
            setattr(page, name, data.draw(wild))
        page.processed = page.posted
        bar = data.draw(some.integers(0, 5))
        if data.draw(some.booleans()):
            page.bar(bar).set(data.draw(wild), data.draw(wild), data.draw(wild), data.draw(some.integers(0, 15)))
        if data.draw(some.booleans()):  # the nonsense was there when it attached
            plant.root.add(plant.function)
        plant.root.write(COMMAND, 2, 6)
        host = hart_module.address_of(page.shared)
        for row in plant.rows:
            assert host <= row[2] <= host + fake.SIZE - row[1]
            assert host <= row[3] <= host + fake.SIZE - row[1]
        for address in (ADDRESS0, ADDRESS1, HIGH.base, mm.PCIE_ECAM.base + CONFIG):
            plant.read(address, 4)
            plant.write(address + 8, 4, 0)
        for vector in range(fake.VECTORS):
            plant.message(vector)
        plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    finally:
        page.shared.u8[:] = saved
        plant.root.add(plant.function)


def test_functions_of_one_slot_are_told_apart_and_share_its_wires() -> None:
    irq, lines = IrqPage(anonymous(IrqPage.SIZE)), dict[int, int]()
    root = Root(AddressSpace(), irq, [mm.PCIE_MMIO], lines.__setitem__, lambda: None)
    made = []
    for number in (0, 5):
        page = fake.make_page(irq_base=8 + 16 * number)
        made.append(Function(f"dev{number}", SLOT, page, fake.DOORBELLS, lambda _who: None))
        made[-1].function = number
        root.add(made[-1])

    root.write(COMMAND + 5 * 0x1000, 2, 2)
    assert [root.read(CONFIG + number * 0x1000, 4) for number in (0, 1, 5)] == [0x11E8_1234, -1, 0x11E8_1234]
    assert [root.read(COMMAND + number * 0x1000, 2) for number in (0, 5)] == [0, 2]
    assert len({row[0] for row in root.rows()}) == 2

    for levels, wire in (((1, 1), 1), ((0, 1), 1), ((0, 0), 0), ((1, 0), 1)):
        for function, level in zip(made, levels, strict=True):
            irq.raise_(function.page.irq_base, level)
        root.scan()
        assert lines[INTX] == wire


class Watched(Function):
    """A function that says when its words are looked at."""

    looks: ClassVar[list[str]] = []

    def words(self, irq: IrqPage) -> list[int]:
        self.looks.append(self.id)
        return super().words(irq)


def test_a_message_costs_no_look_at_other_functions_and_none_is_forgotten(plant: Plant) -> None:
    for number in range(1, 8):
        function = Watched(f"o{number}", SLOT, fake.make_page(irq_base=64 + 8 * number), 0, lambda _who: None)
        function.function = number
        plant.root.add(function)
    plant.root.scan()  # who was added is looked at once
    plant.enable()
    plant.vector(1, 40)
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE | MASK_ALL)
    Watched.looks.clear()

    plant.message(1)
    plant.root.scan()
    assert plant.delivered == []
    plant.root.write(MESSAGE_CONTROL, 2, ENABLE)
    assert plant.delivered == [40]
    assert Watched.looks == []
