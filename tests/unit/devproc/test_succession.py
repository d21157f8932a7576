"""Pages of one layout taken over by devices of another: values by name, conversions, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devproc.before import Before, Layout, converts
from devproc.device import Device
from devproc.machine import Machine
from devproc.pci import MSIX_CAP, PciDevice
from devproc.registers import Bar, Register
from devproc.state import Record, Word
from protocol.errors import Malformed, VersionMismatch
from protocol.layout import DevicePage


class Tally(Record):
    """Private state of the device."""

    seen = Word(4)
    lost = Word(4)


def edition(**members: Any) -> type[PciDevice]:
    """Return the class ``Counter`` as its source might be at some time; ``None`` takes a member away."""

    def declare(self: Any, places: dict[int, tuple[int, int]]) -> None:
        PciDevice.declare(self, places)
        self.tally = Tally(self.shared, DevicePage.STATE + 0x10 * self.state_version)

    bar0 = Bar(0x100)
    body: dict[str, Any] = {
        "__module__": __name__, "__qualname__": "Counter", "vendor": 0x1234, "device": 0x11E9, "vectors": 2,
        "bar0": bar0, "count": Register(bar0, 0x00), "step": Register(bar0, 0x04, reset=1),
        "state_size": lambda self: 0x1000 * self.state_version, "declare": declare,
    }  # fmt: skip
    return type("Counter", (PciDevice,), {k: v for k, v in (body | members).items() if v is not None})


def wider(hook: Callable[[Any, Before], None] | None, version: int = 2, **members: Any) -> type[PciDevice]:
    """Return a later edition: `count` became `total`, elsewhere and wider."""
    bar0 = Bar(0x100)
    moved = {"bar0": bar0, "count": None, "step": Register(bar0, 0x20, width=8), "total": Register(bar0, 0x10, width=8)}
    hooks = {"from_1": converts(1)(hook)} if hook else {}
    return edition(state_version=version, **moved, **hooks, **members)


@contextmanager
def running(device: Device) -> Iterator[Device]:
    """Have a device attached to a machine of its own."""
    machine = Machine.private(device.page_size)
    device.attach(machine)
    yield device
    vars(device).pop("tally", None)
    device.release()
    machine.close()


@pytest.fixture
def old() -> Iterator[Device]:
    """Return a device of the first edition in the midst of its life."""
    with running(edition()()) as device:
        device.set_register("count", 41)
        device.set_register("step", 7)
        device.tally.seen, device.tally.lost = 5, 6  # type: ignore[attr-defined]
        device.set_register("pci_command", 6)
        device.shared.u8[DevicePage.CONFIG + 0x10 : DevicePage.CONFIG + 0x14] = (0x4000_0000).to_bytes(4, "little")
        device.shared.u8[DevicePage.CONFIG + MSIX_CAP + 3] = 0x80
        device.shared.store(device.images[1], 8, 0x2800_0000)  # the table of MSI-X
        device.machine.page.posted = device.machine.page.processed = 9
        yield device


def before(device: Device) -> Before:
    """Return what another process sees of a device."""
    return Before(device.machine.page, Layout.from_text(Layout.of(device).to_text()))


@contextmanager
def after(kind: type[PciDevice], old: Device) -> Iterator[Any]:
    """Have a device of another class go on from ``old``."""
    device = kind()
    machine = Machine.private(device.page_size)
    machine.page.posted = old.machine.page.posted
    machine.before = before(old)
    assert device.attach(machine)
    yield device
    vars(device).pop("tally", None)
    device.release()
    machine.close()


def convert(device: Any, before: Before) -> None:
    """Convert the first edition."""
    device.total = before["count"] * 1000 + before["tally.seen"]


def test_values_go_by_name_and_the_hook_does_the_rest(old: Device) -> None:
    with after(wider(convert), old) as new:
        assert (new.total, new.step) == (41005, 7)
        assert (new.tally.seen, new.tally.lost) == (5, 6)
        assert new.pci_command == 6
        assert new.shared.load(DevicePage.CONFIG + 0x10, 4) == 0x4000_0000
        assert new.msix_enabled
        assert new.shared.load(new.images[1], 8) == 0x2800_0000
        assert new.machine.page.processed == 9
        assert new.page_size > old.page_size


def test_the_same_layout_is_taken_over_whole(old: Device) -> None:
    with after(edition(), old) as new:
        assert (new.count, new.step, new.tally.lost, new.msix_enabled) == (41, 7, 6, True)


def spoil(_device: Any, before: Before) -> None:
    """Ask for what was never there."""
    assert before["cuont"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (wider(None), "state_version 1, the source of 2"),
        (wider(None, version=1), "other registers than the page, under the same state_version 1"),
        (wider(spoil), "from_1 does not convert state_version 1: KeyError: 'cuont'"),
        (wider(convert, device=0x11EA), "byte 0x2 of its configuration space is 0xea, not 0xe9"),
        (wider(convert, vectors=3), "3 vectors where there were 2"),
        (edition(bar2=Bar(0x1000)), "4096 bytes in BAR 2 where there were 0"),
        (edition(__qualname__="Other"), "Other cannot go on from Counter"),
    ],
    ids=["no-hook", "same-version", "bad-hook", "identity", "vectors", "bars", "class"],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(old: Device, kind: type[PciDevice], text: str) -> None:
    page = old.shared.bytes(0, old.shared.size)
    with pytest.raises(VersionMismatch, match=text):
        kind().consider(before(old))
    assert old.shared.bytes(0, old.shared.size) == page


def test_a_layout_that_lies_is_refused(old: Device) -> None:
    layout = Layout.of(old)
    layout.words["tally.seen"] = [old.shared.size, 4]
    with pytest.raises(Malformed, match=r"tally\.seen of the device before lies outside its page"):
        Before(old.machine.page, layout)
    with pytest.raises(Malformed, match="no layout"):
        Layout.from_text('{"device": 1}')
