"""When a device is started again."""

from __future__ import annotations

import pytest

from orchestrator.restart import QUICK_S, Again, Policy


@pytest.mark.parametrize(
    ("restart", "status", "again"),
    [
        ("on-failure", -9, True),
        ("on-failure", 1, True),
        ("on-failure", None, True),
        ("on-failure", 0, False),
        ("always", 0, True),
        ("no", -9, False),
    ],
)
def test_the_policy_decides_by_status(restart: str, status: int | None, again: bool) -> None:
    assert isinstance(Policy(restart).ended(status, 60.0), Again) is again


def test_the_first_restart_is_immediate_the_next_ones_wait_longer_and_none_is_the_last() -> None:
    policy = Policy("always")

    delays = [decision.delay_s for _ in range(100) if isinstance(decision := policy.ended(1, 0.1), Again)]

    assert delays[:8] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert set(delays[8:]) == {5.0}
    assert len(delays) == 100


def test_a_life_in_which_it_served_forgets_earlier_failures() -> None:
    policy = Policy("always")
    for _ in range(9):
        policy.ended(1, 0.1)

    assert policy.ended(-9, QUICK_S) == Again(0.0)
    assert policy.ended(1, 0.1) == Again(0.1)
