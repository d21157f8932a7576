"""Faults of interrupts and doorbells."""

from __future__ import annotations

import pytest

from devproc.device import Device
from devproc.faults.faults import Faults
from tests.unit.devproc.faults.conftest import MakeDisk


def messages(device: Device, vector: int = 0) -> int:
    """Return how often a vector has been sent."""
    return device.machine.irq.word(1 + vector)


@pytest.mark.parametrize(
    ("rule", "now", "at_last"),
    [
        ("drop interrupt nth=2", [1, 1, 2], 2),
        ("drop interrupt=0", [0, 0, 0], 0),
        ("drop interrupt=wire", [1, 2, 3], 3),
        ("delay interrupt=0 ms=5 nth=1", [0, 1, 2], 3),
        ("duplicate interrupt first=2", [1, 2, 3], 5),
    ],
)
def test_messages(rng: Device, rule: str, now: list[int], at_last: int) -> None:
    faults = Faults.of(rng)
    faults.add(rule)

    seen = []
    for _ in range(3):
        rng.machine.message(0)
        seen.append(messages(rng))
    faults.settle()

    assert seen == now
    assert messages(rng) == at_last


def test_a_wire_that_is_not_raised_is_raised_the_next_time(clock: Device) -> None:
    Faults.of(clock).add("drop interrupt nth=1")

    clock.line(True)
    first = messages(clock, -1)
    clock.line(True)

    assert (first, messages(clock, -1)) == (0, 1)
    clock.line(False)
    assert messages(clock, -1) == 0


@pytest.mark.parametrize(("then", "level"), [([], 1), ([False], 0), ([False, True], 1)])
def test_a_wire_is_raised_late_if_the_device_still_wants_it(clock: Device, then: list[bool], level: int) -> None:
    faults = Faults.of(clock)
    faults.add("delay interrupt=wire ms=5 once")

    clock.line(True)
    assert messages(clock, -1) == 0
    for wanted in then:
        clock.line(wanted)
    faults.settle()

    assert messages(clock, -1) == level


def test_a_wire_is_never_there_twice(clock: Device) -> None:
    faults = Faults.of(clock)
    faults.add("duplicate interrupt")

    clock.line(True)

    assert [active.seen for active in faults.rules.all] == [0]


def test_doorbells(make: MakeDisk) -> None:
    device = make().device
    faults = Faults.of(device)
    faults.add("drop doorbell=0 nth=1")
    faults.add("delay doorbell ms=5 nth=2")
    faults.add("duplicate doorbell nth=3")
    device.pending.clear()

    heard = []
    for _ in range(3):
        device.ring(0)
        at_once = 0 in device.pending
        device.pending.clear()
        faults.settle()
        heard.append((at_once, 0 in device.pending))
        device.pending.clear()

    assert heard == [(False, False), (False, True), (True, True)]
