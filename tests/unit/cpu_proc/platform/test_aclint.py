"""Software interrupts and the machine timer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc.clock import GuestClock
from cpu_proc.engine.state import TICK_NS
from cpu_proc.platform.aclint import MTIME, MTIMECMP, Aclint
from protocol.layout import ClockPage
from tests.unit.cpu_proc.harness import MASK, NOP, RAM, Bench, anonymous, csrrs


@pytest.fixture
def aclint(bench: Bench) -> Aclint:
    """Return the device of the bench's hart."""
    return Aclint([bench.hart], bench.clock.ticks, bench.clock.set_ticks)


@pytest.fixture
def clock() -> Iterator[GuestClock]:
    """Return a clock of its own, standing at zero."""
    page = ClockPage(anonymous(ClockPage.SIZE))
    yield GuestClock(page)
    page.shared.close()


def test_software_interrupt(bench: Bench, aclint: Aclint) -> None:
    aclint.write(0, 4, 0xFFFF_FFFF)
    assert aclint.read(0, 4) == 1
    bench.run([csrrs(5, "mip")])
    aclint.write(0, 4, 2)
    bench.run([csrrs(6, "mip")])
    assert (bench.x(5), bench.x(6), aclint.read(0, 4)) == (8, 0, 0)


def test_timer_interrupt(bench: Bench, aclint: Aclint) -> None:
    bench["MTVEC"], bench["MIE"], bench["MSTATUS"] = RAM + 0x800, 1 << 7, 8
    bench.words(RAM + 0x800, NOP)
    bench.run([NOP])
    assert bench["MCAUSE"] == 0
    aclint.write(MTIMECMP, 8, 0)
    bench.run([NOP])
    assert bench["MCAUSE"] == 1 << 63 | 7
    aclint.write(MTIMECMP, 8, MASK)
    bench.run([csrrs(5, "mip")])
    assert bench.x(5) == 0


def test_comparator_by_halves(aclint: Aclint) -> None:
    aclint.write(MTIMECMP, 4, 0x1111_2222)
    aclint.write(MTIMECMP + 4, 4, 0x3333_4444)
    assert aclint.read(MTIMECMP, 8) == 0x3333_4444_1111_2222
    assert aclint.read(MTIMECMP + 4, 4) == 0x3333_4444


def test_time_reads_as_the_hart_reads_it(bench: Bench, aclint: Aclint) -> None:
    before = aclint.read(MTIME, 8)
    bench.run([csrrs(5, "time")])
    assert before <= bench.x(5) <= aclint.read(MTIME, 8)


@pytest.mark.parametrize("ticks", [0, 12345, 1 << 40, (1 << 62) // TICK_NS])
def test_time_can_be_set(bench: Bench, ticks: int) -> None:
    page = bench.clock.page
    before = page.offset_ns
    try:
        aclint = Aclint([bench.hart], bench.clock.ticks, bench.clock.set_ticks)
        aclint.write(MTIME, 8, ticks)
        bench.run([csrrs(5, "time")])
        assert ticks <= aclint.read(MTIME, 8) < ticks + 10_000_000
        assert ticks <= bench.x(5) < ticks + 10_000_000
    finally:
        page.offset_ns = before


def test_time_stands_while_the_clock_is_stopped_and_goes_on_from_there(clock: GuestClock) -> None:
    assert clock.ticks() == 0
    clock.start()
    while clock.ticks() == 0:
        pass
    clock.stop()
    stopped = clock.now_ns()
    deadline = time.monotonic_ns() + 100_000
    while time.monotonic_ns() < deadline:
        pass
    assert clock.now_ns() == stopped
    clock.start()
    assert stopped <= clock.now_ns() < stopped + 50_000_000


def test_time_set_while_stopped_counts_from_the_start(clock: GuestClock) -> None:
    clock.set_ticks(1 << 50)
    assert clock.ticks() == 1 << 50
    clock.start()
    assert 1 << 50 <= clock.ticks() < (1 << 50) + 10_000_000


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.lists(
        some.tuples(
            some.one_of(some.integers(0, 0xBFF7), some.sampled_from([0, 4, MTIMECMP, MTIMECMP + 4, MTIMECMP + 8])),
            some.sampled_from([1, 2, 4, 8]),
            some.none() | some.integers(0, MASK),
        ),
        max_size=20,
    )
)
def test_any_access_is_answered(bench: Bench, todo: list[tuple[int, int, int | None]]) -> None:
    aclint = Aclint([bench.hart], bench.clock.ticks, bench.clock.set_ticks)
    for offset, size, value in todo:
        offset &= -size
        if value is None:
            assert 0 <= aclint.read(offset, size) < 1 << 8 * size
        else:
            aclint.write(offset, size, value & (1 << 8 * size) - 1)
