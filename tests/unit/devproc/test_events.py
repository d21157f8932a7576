"""Calls on a process's own loop: what becomes of them is for who made them."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from devproc.events import fulfil


def test_what_a_call_returns_and_raises_is_its_callers() -> None:
    returned, raised = Future[int](), Future[int]()

    fulfil(lambda: 7, returned)
    fulfil(lambda: 1 // 0, raised)

    assert returned.result(0) == 7
    with pytest.raises(ZeroDivisionError):
        raised.result(0)


def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    given_up = Future[None]()
    given_up.cancel()

    fulfil(pytest.fail, given_up)
