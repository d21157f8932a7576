"""The power register, and the decoder of addresses that leads to it."""

from __future__ import annotations

import pytest

from cpu_proc.memory_map import Region
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.power import Power


@pytest.mark.parametrize(
    ("offset", "size", "value", "done"),
    [
        (0, 4, 0x5555, [0]), (0, 4, 0x7_5555, [7]), (0, 4, 0x3333, [1]), (0, 4, 0x2A_3333, [42]), (0, 2, 0x5555, [0]),
        (0, 4, 0x7777, ["reset"]), (0, 4, 0x1234, []), (0, 1, 0x55, []), (4, 4, 0x5555, []), (0, 8, 0x5555, []),
    ],
)  # fmt: skip
def test_finisher_values(offset: int, size: int, value: int, done: list[int | str]) -> None:
    seen: list[int | str] = []
    power = Power(seen.append, lambda: seen.append("reset"))
    power.write(offset, size, value)
    assert seen == done
    assert power.read(offset, size) == 0


class Echo:
    """A device that answers with the offset and notes writes."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        """Answer with more bits than asked for."""
        return -1 - offset

    def write(self, offset: int, size: int, value: int) -> None:
        """Note the write."""
        self.written.append((offset, size, value))


def test_space_finds_devices_and_cuts_values() -> None:
    space, echo = AddressSpace(), Echo()
    space.add(Region(0x2000, 0x100), echo, "echo")
    space.add(Region(0x1000, 0x100), Echo(), "other")
    assert space.read(0x2010, 2) == 0xFFEF
    space.write(0x20FF, 1, -1)
    assert echo.written == [(0xFF, 1, 0xFF)]
    assert space.regions() == [(0x1000, 0x100, "other"), (0x2000, 0x100, "echo")]


def test_nothing_refuses_and_is_counted() -> None:
    space = AddressSpace()
    assert space.read(0x5000, 4) is None
    assert not space.write(0x5000, 4, 1)
    assert space.find((1 << 64) - 8) is None
    assert space.unassigned == 2
