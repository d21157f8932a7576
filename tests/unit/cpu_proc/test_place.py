"""Slots of PCI and of virtio-mmio, as the command line and the bus call them."""

from __future__ import annotations

import pytest

from cpu_proc.place import Place


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("1", Place("pci", 1), "00:01.0"),
        ("31", Place("pci", 31), "00:1f.0"),
        ("3.1", Place("pci", 3, 1), "00:03.1"),
        ("31.7", Place("pci", 31, 7), "00:1f.7"),
        ("pcie0", Place("pcie", 0), "00:10.0/00.0"),
        ("pcie15", Place("pcie", 15), "00:1f.0/00.0"),
        ("mmio0", Place("mmio", 0), "virtio_mmio@10001000"),
        ("mmio7", Place("mmio", 7), "virtio_mmio@10008000"),
    ],
)
def test_a_place_has_two_names(text: str, place: Place, shown: str) -> None:
    assert Place.parse(text) == place
    assert str(place) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "32",
        "0.1",
        "3.",
        "3.8",
        "3.-1",
        "mmio0.1",
        "pcie0.0",
        "pcie16",
        "mmio8",
        "mmio",
        "mmio-1",
        "-1",
        "x",
        "mmio00000001",
        "²",
    ],
)
def test_what_is_no_place(text: str) -> None:
    assert Place.parse(text) is None
