"""The entropy device: whole buffers, limits, sources that run dry, and what a reset forgets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.machine import Machine
from devproc.strategies import accesses, exercise
from devproc.virtio_driver import Driver
from devproc.virtio_rng.device import Config, EntropyDevice
from devproc.virtio_rng.source import Kernel
from protocol.errors import HostError
from protocol.memory import GuestMemory

Buffer = tuple[int, int]


class Counting:
    """A source of the bytes 1, 2, 3 … as long as there are some."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.given = 0

    def read(self, count: int) -> bytes:
        part = min(count, self.left)
        found = bytes((self.given + i) % 255 + 1 for i in range(part))
        self.given, self.left = self.given + part, self.left - part
        return found

    def close(self) -> None:
        self.left = -1


class Rig:
    """A device with a driver, and a clock that is set by hand."""

    def __init__(self, config: Config, source: Counting | None = None) -> None:
        self.now = 100.0
        self.device = EntropyDevice.over("pci")(config, source, lambda: self.now)
        self.machine = Machine.private(self.device.page_size, 1 << 20)
        self.device.attach(self.machine)
        self.driver = Driver(self.device, size=16)
        self.driver.set_up()

    @property
    def memory(self) -> GuestMemory:
        return self.machine.memory

    def ask(self, *sizes: int) -> list[Buffer]:
        queue = self.driver.queues[0]
        places = [(queue.lend(size), size) for size in sizes]
        queue.add([], places)
        return places

    def read(self, places: list[Buffer]) -> bytes:
        return b"".join(self.memory.read(*place) or b"" for place in places)

    def close(self) -> None:
        self.device.detach()
        self.device.release()
        self.device.close()
        self.machine.close()


Make = Callable[..., Rig]


@pytest.fixture
def rig() -> Iterator[Make]:
    made: list[Rig] = []

    def make(source: Counting | None = None, **config: object) -> Rig:
        made.append(Rig(Config(**config), source))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_every_buffer_is_filled(rig: Make) -> None:
    full = rig(Counting(1000))
    places = full.ask(3, 5, 8)
    assert [written for _, written in full.driver.serve()] == [16]
    assert full.read(places) == bytes(range(1, 17))


def test_the_kernels_bytes_differ(rig: Make) -> None:
    real = rig()
    assert isinstance(real.device.entropy, Kernel)
    first, second = real.ask(32), real.ask(32)
    real.driver.serve()
    assert len({real.read(first), real.read(second), bytes(32)}) == 3


def test_a_limit_makes_buffers_wait(rig: Make) -> None:
    slow = rig(Counting(10_000), bytes_per_second=100)
    for _ in range(3):
        slow.ask(100)
    assert len(slow.driver.serve()) == 1
    slow.now += 1.01
    slow.device._rang()
    assert len(slow.driver.serve()) == 1
    slow.device.quiesce()
    slow.now += 10
    slow.device._rang()
    assert slow.driver.queues[0].collect() == []
    slow.device.resume()
    assert len(slow.driver.queues[0].collect()) == 1


def test_a_source_that_is_dry_gives_no_empty_buffers(rig: Make) -> None:
    source = Counting(10)
    dry = rig(source)
    dry.ask(8)
    dry.ask(8)
    dry.ask(8)
    assert [written for _, written in dry.driver.serve()] == [8, 2]
    source.left = 100
    dry.device._rang()
    assert [written for _, written in dry.driver.queues[0].collect()] == [8]
    assert dry.device.counters["source_dry"] >= 1


def test_a_reset_forgets_what_waits(rig: Make) -> None:
    slow = rig(Counting(1000), bytes_per_second=8)
    slow.ask(8)
    slow.ask(8)
    slow.driver.serve()
    slow.driver.write("device_status", 0)
    slow.now += 100
    slow.device._rang()
    assert slow.device.counters["requests"] == 1


def test_one_buffer_does_not_hold_the_loop(rig: Make) -> None:
    large = rig()
    gpa = large.memory.base + 0x8_0000
    large.driver.queues[0].add([], [(gpa, 0x4_0000)])
    assert [written for _, written in large.driver.serve()] == [0x1_0000]
    assert large.memory.read(gpa + 0x1_0000, 16) == bytes(16)


def test_a_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "random"
    path.write_bytes(b"not so random")
    made = Rig(Config(source=path))
    places = made.ask(13)
    made.driver.serve()
    assert made.read(places) == b"not so random"
    made.close()
    with pytest.raises(HostError, match="No such file"):
        EntropyDevice.over("pci")(Config(source=tmp_path / "nothing"))
    os.mkfifo(tmp_path / "pipe")
    silent = Rig(Config(source=tmp_path / "pipe"))  # nobody writes: it is not waited for
    silent.ask(4)
    assert silent.driver.serve() == []
    silent.close()


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="bytes-per-second"):
        Config(bytes_per_second=-1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_any_accesses(data: st.DataObject, transport: str) -> None:
    kind = EntropyDevice.over(transport)
    exercise(lambda: kind(Config(bytes_per_second=10)), data.draw(accesses(kind)))
