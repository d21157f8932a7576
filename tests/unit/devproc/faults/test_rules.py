"""Rules given, counted, taken away, and found by a successor in the page."""

from __future__ import annotations

import pytest

from devproc.device import Device
from devproc.faults.declared import Declared
from devproc.faults.faults import Faults
from devproc.faults.kept import FULL
from devproc.machine import Machine
from devproc.template.device import Config, Rng
from protocol.errors import ConfigError, NotFound


def successor(device: Device, *started: str) -> Rng:
    """Return the process that comes after one that was killed; each has the page by mappings of the same memory."""
    heir = Rng(Config(limit=5), source=lambda _bits: 99)
    for rule in started:
        Faults.of(heir).add(rule, started=True)
    assert heir.attach(device.machine)
    return heir


def listed(device: Device) -> list[tuple[int, str, int, int]]:
    """Return the rules as the bus shows them."""
    return [(a.id, a.text, a.seen, a.hits) for a in Faults.of(device).rules.all]


def test_a_successor_goes_on_with_rules_and_counts(rng: Device) -> None:
    faults = Faults.of(rng)
    faults.add("drop read=scratch nth=3")
    gone = faults.add("drop read=data").id
    faults.remove(gone)
    rng.get_register("scratch")
    rng.get_register("scratch")

    heir = successor(rng)

    assert heir.faults is not None
    assert listed(heir) == [(1, "drop read=scratch nth=3", 2, 0)]
    assert heir.get_register("scratch") == 0xFFFF_FFFF
    assert heir.get_register("scratch") == 0
    assert Faults.of(heir).add("drop write=scratch").id == 3  # numbers are not given twice


def test_what_the_command_line_gives_is_begun_once() -> None:
    device = Rng(Config())
    Faults.of(device).add("drop read=scratch nth=2", started=True)
    Faults.of(device).add("drop read=taken", started=True)
    machine = Machine.private(device.page_size)
    device.attach(machine)
    device.get_register("scratch")
    Faults.of(device).remove(2)

    heir = successor(device, "drop read=scratch nth=2", "drop read=taken", "drop write=scratch")

    assert [(text, seen) for _, text, seen, _ in listed(heir)] == [
        ("drop read=scratch nth=2", 1),  # with its count
        ("drop write=scratch", 0),  # new on the command line
    ]  # and what was removed stays removed
    machine.close()


def test_rules_go_along_to_another_machine_and_stay_over_a_reset(rng: Device) -> None:
    faults = Faults.of(rng)
    faults.add("drop read=scratch")
    rng.reset()
    assert rng.get_register("scratch") == 0xFFFF_FFFF
    old = rng.machine

    rng.detach()
    rng.release()
    other = Machine.private(rng.page_size)
    rng.attach(other)

    assert rng.get_register("scratch") == 0xFFFF_FFFF
    assert listed(rng) == [(1, "drop read=scratch", 2, 2)]
    old.close()
    heir = successor(rng)
    assert listed(heir) == [(1, "drop read=scratch", 2, 2)]


def test_a_rule_of_another_build_is_forgotten(rng: Device) -> None:
    active = Faults.of(rng).add("drop read=scratch")
    assert active.row is not None
    active.row.fill(active.id, "vanish read=scratch", started=False)

    assert listed(successor(rng)) == []


def test_there_are_only_so_many(rng: Device) -> None:
    faults = Faults.of(rng)
    for _ in range(FULL):
        faults.add("drop read=scratch")

    with pytest.raises(ConfigError, match=f"there are {FULL} rules already"):
        faults.add("drop read=scratch")
    faults.remove(7)
    assert faults.add("drop read=scratch").id == FULL + 1


def test_room_is_made_of_what_the_command_line_had(rng: Device) -> None:
    faults = Faults.of(rng)
    for _ in range(FULL):
        faults.add("drop read=scratch", started=True)
    faults.clear()

    assert faults.add("drop read=data").row is not None


def test_what_is_not_there_is_not_removed(rng: Device) -> None:
    faults = Faults.of(rng)
    with pytest.raises(NotFound, match="no rule 4") as error:
        faults.remove(4)
    assert error.value.hint == "there is none"


def test_a_device_declares_what_rules_may_name(rng: Device) -> None:
    declared = Declared.of(rng)

    assert {"data", "control", "pci_command"} <= set(declared.registers)
    assert declared.no_write["data"] == "is read-only"
    assert declared.no_write["pci_cache_line"] == "is kept by the CPU process"
    assert (declared.queues, declared.vectors, declared.status()) == (0, 1, None)


def test_a_page_that_was_saved_has_its_rules(rng: Device) -> None:
    Faults.of(rng).add("drop read=scratch nth=2")
    rng.get_register("scratch")
    saved = rng.shared.bytes(0, rng.shared.size)
    other, heir = Machine.private(rng.page_size), Rng(Config())

    other.page.adopt(saved)
    assert heir.attach(other)

    assert listed(heir) == [(1, "drop read=scratch nth=2", 1, 0)]
    heir.release()
    other.close()


def test_what_nobody_expects_of_an_order_is_for_who_gave_it_and_the_next_is_obeyed(rng: Device) -> None:
    faults = Faults.of(rng)
    broken, whole = faults.order(lambda: 1 // 0), faults.order(lambda: 1)

    faults.obey()

    assert isinstance(broken.exception(0), ZeroDivisionError)
    assert whole.result(0) == 1
