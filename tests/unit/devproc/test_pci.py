"""Configuration space, BARs and MSI-X of a function, as they are in the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devproc.machine import Machine
from devproc.pci import MSIX_CAP, PciDevice
from devproc.registers import Bar, Register
from protocol.errors import ConfigError, VersionMismatch
from protocol.layout import CONFIG_BAR, DevicePage, ReadKind, WriteKind, kind


class Function(PciDevice):
    """A function with three vectors."""

    vendor, device, class_code = 0x1234, 0x5678, 0x02_0000
    vectors = 3
    bar0 = Bar(size=0x1000)
    bar2 = Bar(size=0x10000, bits64=True, prefetchable=True)
    level = Register(bar0, 0, mask=1)


@pytest.fixture
def function() -> Iterator[Function]:
    """Return an attached function."""
    device = Function()
    machine = Machine.private(device.page_size)
    device.attach(machine)
    yield device
    device.release()
    machine.close()


def mask_at(device: PciDevice, offset: int, size: int) -> int:
    """Return the write mask of configuration space."""
    return int.from_bytes(device.shared.bytes(DevicePage.CONFIG_MASK + offset, size), "little")


def test_header_and_masks(function: Function) -> None:
    assert function.read(CONFIG_BAR, 0x00, 4) == 0x5678_1234
    assert function.read(CONFIG_BAR, 0x08, 4) == 0x0200_0000
    assert function.read(CONFIG_BAR, 0x2C, 4) == 0x5678_1234
    assert function.read(CONFIG_BAR, 0x18, 4) == 0xC
    assert mask_at(function, 0x00, 4) == 0
    assert mask_at(function, 0x04, 2) == 0x406
    assert mask_at(function, 0x10, 4) == 0xFFFF_F000
    assert mask_at(function, 0x18, 8) == 0xFFFF_FFFF_FFFF_0000
    assert mask_at(function, 0x3C, 2) == 0xFF


def capabilities(device: PciDevice) -> dict[int, int]:
    """Return the offset of each capability by its number."""
    found, at = {}, device.read(CONFIG_BAR, 0x34, 1)
    while at:
        found[device.read(CONFIG_BAR, at, 1)] = at
        at = device.read(CONFIG_BAR, at + 1, 1)
    return found


def test_behind_a_port_a_function_is_an_express_endpoint(function: Function) -> None:
    assert set(capabilities(function)) == {0x11}
    device = Function()
    machine = Machine.private(device.page_size)
    machine.page.express = 1
    device.attach(machine)
    found = capabilities(device)
    assert set(found) == {0x01, 0x10, 0x11}
    express = found[0x10]
    assert device.read(CONFIG_BAR, express + 2, 2) == 2  # version 2, endpoint
    assert device.read(CONFIG_BAR, express + 0x12, 2) == 0x11  # x1 at 2.5 GT/s, as the port
    assert mask_at(device, express + 0x08, 2) == 0x081F
    assert mask_at(device, found[0x01] + 4, 2) == 3
    assert mask_at(device, express + 0x0C, 4) == 0
    device.release()
    machine.close()


class Endpoint(Function):
    """A function that is an endpoint wherever it is."""

    own_express = True

    def capabilities(self) -> dict[int, bytes]:
        return super().capabilities() | {0xE0: bytes([0x10]) + bytes(19)}


def test_a_function_with_an_express_capability_of_its_own_keeps_that_alone() -> None:
    device = Endpoint()
    machine = Machine.private(device.page_size)
    machine.page.express = 1
    device.attach(machine)
    assert capabilities(device) == {0x11: MSIX_CAP, 0x10: 0xE0}
    device.release()
    machine.close()


def test_every_writable_byte_of_configuration_space_is_stored_by_the_cpu(function: Function) -> None:
    for offset in range(0x1000):
        byte = function.shared.u8[DevicePage.CONFIG_KINDS + offset]
        wanted = WriteKind.STORE if mask_at(function, offset, 1) else WriteKind.DROP
        assert byte & 15 == ReadKind.PAGE
        assert mask_at(function, offset, 1) == 0 or byte >> 4 == wanted


def test_msix_table_and_pending_bits(function: Function) -> None:
    page = function.machine.page
    entry = page.bar(1)
    assert (page.msix_vectors, page.msix_bar, page.msix_table, page.msix_pba) == (3, 1, 0, 0x800)
    assert page.msix_cap == MSIX_CAP == function.read(CONFIG_BAR, 0x34, 1)
    assert entry.size == 0x1000
    assert function.shared.u8[entry.kinds] == kind(ReadKind.PAGE, WriteKind.STORE)
    assert function.shared.u8[entry.kinds + 3 * 16] == kind(ReadKind.ZERO, WriteKind.DROP)
    assert function.shared.u8[entry.kinds + 0x800] == kind(ReadKind.PAGE, WriteKind.DROP)
    assert [function.read(1, 16 * vector + 12, 4) for vector in range(3)] == [1, 1, 1]
    assert function.read(CONFIG_BAR, MSIX_CAP, 4) == 0x0002_0011


def test_many_vectors_get_a_larger_bar() -> None:
    device = Function()
    device.vectors = 300

    assert device.msix_pba == 8192
    assert device.bars()[1].size == 16384


def test_interrupts_count_messages_and_hold_the_line(function: Function) -> None:
    irq = function.machine.irq
    function.interrupt(1)
    assert irq.word(2) == 0
    function.pci_msix_control |= 0x8000

    function.interrupt(1)
    function.interrupt(1)
    function.line(True)

    assert (irq.word(0), irq.word(2)) == (1, 2)
    assert function.pci_status & 8
    function.line(False)
    assert irq.word(0) == 0


def test_a_successor_goes_on_and_another_shape_is_refused() -> None:
    first, second, other = Function(), Function(), Function()
    other.vectors = 2
    machine = Machine.private(first.page_size)
    assert first.attach(machine) is False
    first.level = 1
    first.pci_command = 6
    first.release()

    assert second.attach(machine) is True

    assert (second.level, second.pci_command) == (1, 6)
    second.release()
    with pytest.raises(VersionMismatch):
        other.attach(machine)
    machine.close()


def test_reset_is_power_on_and_forget_ignores_the_page() -> None:
    device = Function()
    machine = Machine.private(device.page_size)
    device.attach(machine)
    device.level = 1
    device.reset()
    assert device.level == 0
    device.level = 1
    device.release()
    device.forget = True

    assert device.attach(machine) is False

    assert device.level == 0
    device.release()
    machine.close()


def test_page_too_small_is_refused() -> None:
    device = Function()
    machine = Machine.private(device.page_size - 0x1000)
    with pytest.raises(ConfigError):
        device.attach(machine)
    machine.close()
