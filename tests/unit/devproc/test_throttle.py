"""Token buckets and the alarm."""

from __future__ import annotations

import select
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from devproc.throttle import Throttle, Waiting


@dataclass
class Piece:
    """A request."""

    size: int


def test_a_second_of_credit_then_the_rate() -> None:
    throttle = Throttle(4, 0, 0.0)
    for _ in range(4):
        assert throttle.delay(0.0) == 0
        throttle.take(512)

    assert 0 < throttle.delay(0.0) < 1e-3
    throttle.take(512)
    assert 0.25 < throttle.delay(0.0) < 0.26
    assert throttle.delay(0.26) == 0
    assert throttle.delay(100.0) == 0
    for _ in range(4):
        throttle.take(0)
    assert throttle.delay(100.0) > 0  # idleness gathers no more than a second's worth


def test_a_request_larger_than_a_second_goes_and_is_paid_for() -> None:
    throttle = Throttle(0, 1000, 0.0)
    throttle.take(5000)

    assert 4.0 < throttle.delay(0.0) < 4.1


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(1, 20), st.integers(1, 4000))
def test_no_stretch_of_time_gets_more_than_its_share(sizes: list[int], iops: int, rate: int) -> None:
    throttle = Throttle(iops, rate, 0.0)
    now = 0.0
    for size in sizes:
        now += throttle.delay(now)
        assert throttle.delay(now) < 1e-5
        throttle.take(size)

    assert len(sizes) <= iops * (now + 1) + 1.001
    assert sum(sizes) <= rate * (now + 1) + max(sizes) + 1


def test_what_waits_goes_in_order_and_the_alarm_says_when() -> None:
    now = [0.0]
    waiting: Waiting[Piece] = Waiting(Throttle(1000, 0, 0.0), lambda: now[0])
    pieces = [Piece(number) for number in range(1500)]
    waiting.requests.extend(pieces)

    first = list(waiting.ready())
    rang = select.select([waiting.alarm.fd], [], [], 5)[0]
    waiting.alarm.acknowledge()
    waiting.alarm.acknowledge()
    now[0] = 1.0
    rest = list(waiting.ready())

    assert first + rest == pieces
    assert len(first) == 1000
    assert rang
    waiting.alarm.close()
    waiting.alarm.close()
