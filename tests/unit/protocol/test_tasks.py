"""Tasks that nobody awaits."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from protocol.tasks import Tasks


def test_they_are_kept_while_they_run_and_waited_for() -> None:
    done: list[str] = []

    async def work(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        done.append(name)

    async def main() -> None:
        tasks = Tasks()
        await tasks.wait()  # for none
        tasks.start(work("first", 0.01))
        tasks.start(work("last", 60.0))
        await asyncio.sleep(0)
        gc.collect()
        await tasks.wait(0.2)
        assert done == ["first"]
        tasks.cancel()
        await tasks.wait()

    asyncio.run(main())

    assert done == ["first"]


def test_what_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("a word")

    async def main() -> None:
        tasks = Tasks()
        tasks.start(fail())
        await tasks.wait()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())

    assert "fail" in caplog.text
    assert "ValueError: a word" in caplog.text
