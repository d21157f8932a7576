"""Register declarations: kinds, overlap, dispatch, partial accesses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.machine import Machine
from devproc.pci import PciDevice
from devproc.registers import Bar, Register
from protocol.layout import ReadKind, WriteKind


class Sample(PciDevice):
    """One register of each kind."""

    bar0 = Bar(size=0x100)
    plain = Register(bar0, 0x00)
    masked = Register(bar0, 0x04, mask=0x0F0F)
    fixed = Register(bar0, 0x08, access="r", reset=0x1234_5678, shadow=True)
    consumed = Register(bar0, 0x0C, access="r")
    sticky = Register(bar0, 0x10, access="rw1c")
    trigger = Register(bar0, 0x14, width=2, access="w")
    byte = Register(bar0, 0x16, width=1)
    wide = Register(bar0, 0x18, width=8)
    veto = Register(bar0, 0x20, store=False)
    tail = Register(bar0, 0x24, rings=True)

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.written: list[int] = []

    @consumed.on_read
    def _consume(self) -> int:
        self.reads += 1
        return self.reads

    @trigger.on_write
    @veto.on_write
    def _written(self, value: int) -> None:
        self.written.append(value)


@pytest.fixture(scope="module")
def device() -> Iterator[Sample]:
    """Return an attached device."""
    sample = Sample()
    machine = Machine.private(sample.page_size)
    sample.attach(machine)
    yield sample
    sample.release()
    machine.close()


def test_kinds_follow_from_the_declaration() -> None:
    kinds = {r.name: (r.read_kind, r.write_kind) for r in Sample.registers.all if r.bar.index == 0}

    assert kinds == {
        "plain": (ReadKind.PAGE, WriteKind.STORE),
        "masked": (ReadKind.PAGE, WriteKind.POST),
        "fixed": (ReadKind.PAGE, WriteKind.DROP),
        "consumed": (ReadKind.MESSAGE, WriteKind.DROP),
        "sticky": (ReadKind.PAGE, WriteKind.POST),
        "trigger": (ReadKind.ZERO, WriteKind.POST),
        "byte": (ReadKind.PAGE, WriteKind.STORE),
        "wide": (ReadKind.PAGE, WriteKind.STORE),
        "veto": (ReadKind.PAGE, WriteKind.POST),
        "tail": (ReadKind.PAGE, WriteKind.RING),
    }


def test_page_has_the_kind_bytes(device: Sample) -> None:
    entry = device.machine.page.bar(0)
    kinds = device.shared.bytes(entry.kinds, 0x100)

    assert entry.size == 0x100
    assert kinds[0x0C] == ReadKind.MESSAGE | WriteKind.DROP << 4
    assert kinds[0x18:0x20] == bytes([ReadKind.PAGE | WriteKind.STORE << 4]) * 8
    assert kinds[0x80] == ReadKind.ZERO | WriteKind.DROP << 4


@pytest.mark.parametrize(
    "make",
    [
        lambda bar: {"a": Register(bar, 0), "b": Register(bar, 2, width=2)},
        lambda bar: {"a": Register(bar, 2)},
        lambda bar: {"a": Register(bar, 0xFE, width=4)},
        lambda bar: {"a": Register(bar, 0, width=3)},
        lambda bar: {"page_size": Register(bar, 0)},
    ],
)
def test_bad_declaration_is_refused_when_the_class_is_made(make: object) -> None:
    bar = Bar(0x100, index=0)
    with pytest.raises(TypeError):
        type("Bad", (PciDevice,), make(bar))  # type: ignore[operator]


def test_hooks_do_not_fit_every_register() -> None:
    bar = Bar(0x100, index=0)
    with pytest.raises(TypeError):
        Register(bar, 0, access="r").on_write(lambda _self, _value: None)
    with pytest.raises(TypeError):
        Register(bar, 0, access="r", shadow=True).on_read(lambda _self: 0)


def test_accesses_do_what_the_declaration_says(device: Sample) -> None:
    device.power_on()
    device.write(0, 0x04, 4, 0xFFFF_FFFF)
    device.sticky = 0xFF
    device.write(0, 0x10, 4, 0x0F)
    device.write(0, 0x08, 4, 0)
    device.write(0, 0x14, 2, 0x1_2345)
    device.write(0, 0x20, 4, 9)

    assert device.read(0, 0x04, 4) == 0x0F0F
    assert device.read(0, 0x10, 4) == 0xF0
    assert device.read(0, 0x08, 4) == 0x1234_5678
    assert device.read(0, 0x14, 2) == 0
    assert device.written[-2:] == [0x2345, 9]
    assert device.veto == 0
    assert device.machine.page.bad_accesses == 1


def test_partial_and_spanning_accesses(device: Sample) -> None:
    device.power_on()
    device.write(0, 0x02, 1, 0xAB)
    device.write(0, 0x18, 4, 0x1111_1111)
    device.write(0, 0x1C, 4, 0x2222_2222)
    device.write(0, 0x16, 1, 0x77)

    assert device.plain == 0x00AB_0000
    assert device.wide == 0x2222_2222_1111_1111
    assert device.read(0, 0x14, 4) == 0x0077_0000
    assert device.read(0, 0x0A, 2) == 0x1234
    reads = device.reads
    assert device.read(0, 0x0C, 1) == reads + 1


@settings(max_examples=200, deadline=None)
@given(
    bar=st.integers(0, 7),
    offset=st.integers(0, 0x2000),
    size=st.sampled_from([1, 2, 3, 4, 5, 8]),
    value=st.integers(0, 2**64 - 1),
)
def test_no_access_raises_or_leaves_its_width(device: Sample, bar: int, offset: int, size: int, value: int) -> None:
    device.write(bar, offset, size, value)

    assert 0 <= device.read(bar, offset, size) < 1 << 8 * size
