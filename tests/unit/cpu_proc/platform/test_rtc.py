"""The clock and its alarm, with the host's time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.platform.rtc import (
    ALARM_HIGH,
    ALARM_LOW,
    ALARM_STATUS,
    CLEAR_ALARM,
    CLEAR_INTERRUPT,
    IRQ_ENABLED,
    TIME_HIGH,
    TIME_LOW,
    Rtc,
)  # fmt: skip

START = 0x1822_3344_5566_7788


class Clock:
    """A clock with its time in a variable."""

    def __init__(self) -> None:
        self.wall = START
        self.line = 0
        self.rtc = Rtc(self.set_line, lambda: self.wall)

    def set_line(self, level: int) -> None:
        """Note the level."""
        self.line = int(level)

    def now(self) -> int:
        """Read the time as a driver does: the low half latches the high one."""
        return self.rtc.read(TIME_LOW, 4) | self.rtc.read(TIME_HIGH, 4) << 32

    def alarm(self, at: int) -> None:
        """Set the alarm: the low half arms."""
        self.rtc.write(ALARM_HIGH, 4, at >> 32)
        self.rtc.write(ALARM_LOW, 4, at & 0xFFFF_FFFF)


@pytest.fixture
def clock() -> Clock:
    """Return a clock after reset."""
    return Clock()


def test_reading_the_low_half_latches_the_high_one(clock: Clock) -> None:
    assert clock.rtc.read(TIME_LOW, 4) == START & 0xFFFF_FFFF
    clock.wall += 1 << 32
    assert clock.rtc.read(TIME_HIGH, 4) == START >> 32
    assert clock.now() == START + (1 << 32)


def test_time_can_be_set_and_goes_on_and_survives_a_reset(clock: Clock) -> None:
    clock.rtc.write(TIME_HIGH, 4, 2)
    clock.rtc.write(TIME_LOW, 4, 1000)
    clock.wall += 5
    assert clock.now() == (2 << 32) + 1005
    clock.rtc.reset()
    assert clock.now() == (2 << 32) + 1005


def test_alarm_rings_once_when_it_is_time(clock: Clock) -> None:
    clock.rtc.write(IRQ_ENABLED, 4, 1)
    clock.alarm(START + 100)
    assert (clock.line, clock.rtc.read(ALARM_STATUS, 4), clock.rtc.next_alarm_s()) == (0, 1, 100 / 1e9)
    clock.wall += 100
    clock.rtc.tick()
    assert (clock.line, clock.rtc.read(ALARM_STATUS, 4), clock.rtc.next_alarm_s()) == (1, 0, None)
    clock.rtc.write(CLEAR_INTERRUPT, 4, 1)
    clock.rtc.tick()
    assert clock.line == 0


def test_alarm_in_the_past_rings_at_once(clock: Clock) -> None:
    clock.rtc.write(IRQ_ENABLED, 4, 1)
    clock.alarm(START - 1)
    assert clock.line == 1


def test_alarm_waits_for_its_interrupt_to_be_enabled(clock: Clock) -> None:
    clock.alarm(START - 1)
    assert clock.line == 0
    clock.rtc.write(IRQ_ENABLED, 4, 1)
    assert clock.line == 1
    clock.rtc.write(IRQ_ENABLED, 4, 0)
    assert clock.line == 0


def test_cleared_alarm_does_not_ring(clock: Clock) -> None:
    clock.rtc.write(IRQ_ENABLED, 4, 1)
    clock.alarm(START + 1)
    clock.rtc.write(CLEAR_ALARM, 4, 1)
    clock.wall += 10
    clock.rtc.tick()
    assert clock.line == 0


def test_alarm_registers_read_back(clock: Clock) -> None:
    clock.alarm(START + 0x1_0000_0002)
    assert clock.rtc.read(ALARM_LOW, 4) | clock.rtc.read(ALARM_HIGH, 4) << 32 == START + 0x1_0000_0002


@given(
    some.lists(
        some.tuples(some.integers(0, 0x40), some.sampled_from([1, 2, 4, 8]), some.none() | some.integers(0, 2**64 - 1)),
        max_size=30,
    )
)
def test_any_access_is_answered(todo: list[tuple[int, int, int | None]]) -> None:
    clock = Clock()
    for register, size, value in todo:
        clock.wall += 1 << 31
        if value is None:
            assert 0 <= clock.rtc.read(register, size) < 1 << 32
        else:
            clock.rtc.write(register, size, value & (1 << 8 * size) - 1)
        clock.rtc.tick()


def test_an_alarm_is_armed_until_it_rings_or_is_cleared(clock: Clock) -> None:
    assert not clock.rtc.armed
    clock.alarm(START + 1000)
    assert clock.rtc.armed
    clock.wall += 1000
    clock.rtc.tick()
    assert not clock.rtc.armed
