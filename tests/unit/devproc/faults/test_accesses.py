"""Faults of registers, on PCI and on the platform bus, whoever serves them otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import pytest

from devproc.device import Device
from devproc.events import EventLoop
from devproc.faults.faults import Faults
from protocol.layout import DevicePage, ReadKind, WriteKind, kind
from protocol.messages import Read, Write


def kinds(device: Device, name: str) -> int:
    """Return the kind byte of a register of BAR 0."""
    _, offset = device.registers.place(device.registers.by_name[name])
    return int(device.shared.u8[device.machine.page.bar(0).kinds + offset])


def test_a_dropped_read_finds_all_ones_and_runs_no_hook(rng: Device) -> None:
    Faults.of(rng).add("drop read=data nth=2")
    rng.set_register("control", 1)

    assert [rng.get_register("data") for _ in range(3)] == [1, 0xFFFF_FFFF, 2]


def test_a_dropped_write_is_ignored(rng: Device) -> None:
    Faults.of(rng).add("drop write=scratch nth=2")

    rng.set_register("scratch", 5)
    rng.set_register("scratch", 6)

    assert rng.get_register("scratch") == 5


def test_corruption_turns_bits_round_on_either_way(rng: Device) -> None:
    faults = Faults.of(rng)
    faults.add("corrupt read=scratch bits=3 nth=1")
    faults.add("corrupt write=scratch bytes=1 nth=1")

    rng.set_register("scratch", 0)
    stored = rng.shared.load(rng.images[0] + 0x14, 4)
    seen = rng.get_register("scratch")

    assert sum(octet != 0 for octet in stored.to_bytes(4, "little")) == 1
    assert (seen ^ stored).bit_count() == 3
    assert rng.get_register("scratch") == stored


def test_a_duplicate_is_done_twice(rng: Device) -> None:
    Faults.of(rng).add("duplicate read=data once")
    rng.set_register("control", 1)

    assert [rng.get_register("data") for _ in range(2)] == [2, 3]
    assert rng.get_register("taken") == 3


def test_at_a_prompt_a_delay_is_waited_for(rng: Device) -> None:
    Faults.of(rng).add("delay read=status ms=40")
    started = time.monotonic()

    assert rng.get_register("status") == 1
    assert time.monotonic() - started >= 0.04


def test_a_part_of_a_register_is_the_register(clock: Device) -> None:
    Faults.of(clock).add("drop read=alarm_low")

    assert clock.read(0, 0x08, 1) == 0xFF
    assert clock.read(0, 0x08, 8) == (1 << 64) - 1
    assert clock.read(0, 0x0C, 4) == 0


def test_registers_of_the_page_are_asked_for_as_long_as_there_is_a_rule(rng: Device) -> None:
    before = kinds(rng, "scratch"), kinds(rng, "control")
    faults = Faults.of(rng)

    read = faults.add("drop read=scratch").id
    write = faults.add("drop write=scratch").id
    faults.add("drop write=control")

    assert before[0] == kind(ReadKind.PAGE, WriteKind.STORE)
    assert kinds(rng, "scratch") == kind(ReadKind.MESSAGE, WriteKind.POST)
    assert kinds(rng, "control") == before[1]  # it was asked already
    faults.remove(read)
    assert kinds(rng, "scratch") == kind(ReadKind.PAGE, WriteKind.POST)
    faults.remove(write)
    assert kinds(rng, "scratch") == before[0]


def test_reads_of_configuration_space_too(rng: Device) -> None:
    Faults.of(rng).add("drop read=pci_interrupt_line")

    assert rng.shared.u8[DevicePage.CONFIG_KINDS + 0x3C] & 15 == ReadKind.MESSAGE
    assert rng.get_register("pci_interrupt_line") == 0xFF


class _Loop:
    """What a device knows of its loop."""

    stopping = False

    def __init__(self) -> None:
        self.handlers: list[Callable[[], None]] = []

    def watch(self, _fd: int, handler: Callable[[], None]) -> None:
        self.handlers.append(handler)


@pytest.mark.parametrize("message", [Read(1, 1, 0, 0x14, 4), Write(1, 1, 0, 0x14, 4, 9)])
def test_on_a_loop_a_delay_keeps_order_of_writes_and_nobody_else_waiting(rng: Device, message: Read | Write) -> None:
    loop = _Loop()
    rng.loop = cast(EventLoop, loop)
    faults = Faults.of(rng)
    faults.add("delay read=scratch ms=20 once")
    faults.add("delay write=scratch ms=20 once")
    done: list[object] = []

    postponed = faults.accesses.postpones(message, lambda: done.append(message))

    assert postponed
    assert faults.accesses.held == isinstance(message, Write)
    assert not faults.accesses.postpones(message, lambda: None)
    assert not faults.accesses.postpones(Read(1, 2, 0, 0x04, 4), lambda: None)
    time.sleep(0.025)
    loop.handlers[0]()
    assert done == [message]
    assert not faults.accesses.held
