"""Whatever a guest does to the devices of the CPU process, each access is answered and nothing raises."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.board import Board, Fitting, Wiring
from cpu_proc.platform.flash import BANK
from protocol.memory import GuestMemory
from tests.unit.cpu_proc.harness import RAM, Bench

ACCESSES = 60_000


class Plant:
    """A board whose guest may switch it off: that is noted, no more."""

    def __init__(self, bench: Bench, fitting: Fitting) -> None:
        self.asked = 0
        wiring = Wiring(lambda data: None, self._off, self._reset, lambda rows: None)
        self.board = Board([bench.hart], GuestMemory(bench.ram, RAM), bench.irq, bench.clock, wiring, fitting)

    def _off(self, status: int) -> None:
        assert 0 <= status <= 0xFFFF
        self.asked += 1

    def _reset(self) -> None:
        self.asked += 1


@pytest.fixture(params=["aia", "plic"])
def plant(bench: Bench, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Plant]:
    """Return a board with everything that can be fitted."""
    with (tmp_path / "flash").open("wb") as file:
        file.truncate(BANK)
    fitting = Fitting(request.param, (tmp_path / "flash", None), (("opt/text", "hello"),))
    plant = Plant(bench, fitting)
    yield plant
    plant.board.close()


def offsets(chosen: random.Random, size: int) -> int:
    """Return a place: near the beginning, where registers are, near a power of two, or anywhere."""
    kind = chosen.randrange(4)
    if kind == 0:
        return chosen.randrange(min(size, 0x200))
    if kind == 1:
        return min(size - 8, (1 << chosen.randrange(size.bit_length())) + chosen.randint(-8, 64)) % size
    if kind == 2:
        return size - 1 - chosen.randrange(min(size, 0x100))
    return chosen.randrange(size)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_accesses_to_every_region(plant: Plant, bench: Bench, seed: int) -> None:
    chosen = random.Random(seed)
    space = plant.board.space
    regions = space.regions()
    values = (0, 1, 0x5555, 0x7777, 0xFFFF_FFFF, (1 << 64) - 1, RAM, RAM + bench.ram.size - 4)
    for _ in range(ACCESSES):
        base, length, _name = chosen.choice(regions)
        size = chosen.choice((1, 2, 4, 8))
        address = base + offsets(chosen, length) & -size
        if chosen.random() < 0.5:
            value = space.read(address, size)
            assert value is None or 0 <= value < 1 << 8 * size, hex(address)
        else:
            value = chosen.choice(values) if chosen.random() < 0.7 else chosen.getrandbits(64)
            assert space.write(address, size, value & (1 << 8 * size) - 1) in (True, False)
        if chosen.random() < 0.001:
            plant.board.uart.receive(bytes([chosen.randrange(256)]))
        if chosen.random() < 0.0001:
            plant.board.reset()
    bench.hart.pending_enabled()
    assert space.read(mm.UART0.base + 7, 1) is not None
