"""Slots and functions of PCI: who asks for one gets it, the others what is left, in the order of the file."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.slots import Misplaced, assign


@dataclass
class Device:
    addr: str = ""
    bus: str = "pci"
    id: str = "mine"


def order(place: str) -> tuple[int, ...]:
    return tuple(int(part) for part in place.split("."))


def test_each_has_a_slot_as_long_as_there_are_enough() -> None:
    assert assign([Device()] * 31, 0) == [str(slot) for slot in range(1, 32)]
    assert assign([Device()] * 15, 16) == [str(slot) for slot in range(1, 16)]


@pytest.mark.parametrize(
    ("count", "ports", "alone"), [(32, 0, 30), (100, 0, 21), (248, 0, 0), (16, 16, 14), (120, 16, 0)]
)
def test_when_there_are_not_the_last_share_slots_and_all_keep_their_order(count: int, ports: int, alone: int) -> None:
    found = assign([Device()] * count, ports)

    assert found[:alone] == [str(slot) for slot in range(1, alone + 1)]
    assert sorted(found, key=order) == found
    assert len(set(found)) == count
    assert all(place.partition(".")[0] in found for place in found)  # function 0 is there
    assert all(order(place)[0] < 32 - ports for place in found)


def test_addresses_are_as_lspci_shows_them_and_the_others_keep_away() -> None:
    devices = [Device(), Device("1f.7"), Device("00:1f"), Device("2"), Device("2.1"), Device(bus="mmio"), Device()]

    assert assign(devices, 0) == ["1", "31.7", "31", "2", "2.1", "mmio0", "3"]


@pytest.mark.parametrize(
    ("devices", "ports", "index", "text"),
    [
        ([Device("0")], 0, 0, "'0' is no place"),
        ([Device("20")], 0, 0, "'20' is no place"),
        ([Device("3.8")], 0, 0, "'3.8' is no place"),
        ([Device("x")], 0, 0, "'x' is no place"),
        ([Device("3"), Device("03.0")], 0, 1, "'03.0' is taken"),
        ([Device("3.1")], 0, 0, "nobody is at 3.0"),
        ([Device("11")], 2, 0, "'11' is where port 1 is"),
        ([Device("3", bus="mmio")], 0, 0, "is of PCI bus 0, and the device is on mmio"),
        ([Device()] * 249, 0, 248, "no slot left: 248 devices on pci at most"),
        ([Device("3")] + [Device()] * 241, 0, 241, "240 devices on pci at most beside 1 with addr"),
        ([Device()] * 121, 16, 120, "120 devices on pci at most beside 16 ports"),
        ([Device(bus="platform")] * 33, 0, 32, "no slot left: 32 devices on platform at most"),
    ],
)
def test_what_does_not_go_is_said_of_the_device(devices: list[Device], ports: int, index: int, text: str) -> None:
    with pytest.raises(Misplaced, match=text) as caught:
        assign(devices, ports)
    assert caught.value.index == index
