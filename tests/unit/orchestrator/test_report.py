"""What ``up -d`` hears from the supervisor that it left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from orchestrator import report
from protocol.errors import BusvmError, ConfigError, HostError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def hear(reader: int, *, wait: bool = True, timeout_s: float = 5) -> tuple[int, list[str]]:
    said: list[str] = []
    return report.listen(reader, said.append, wait=wait, timeout_s=timeout_s), said


@pytest.mark.parametrize("wait", [False, True])
def test_it_returns_when_started_or_when_running(pipe: tuple[int, int], wait: bool) -> None:
    piped = report.Piped(pipe[1])
    piped.say("compiling")
    piped.started()
    if wait:
        piped.ran()

    assert hear(pipe[0], wait=wait) == (0, ["compiling"])
    os.close(pipe[1])


def test_it_times_out_with_124(pipe: tuple[int, int]) -> None:
    report.Piped(pipe[1]).started()

    status, said = hear(pipe[0], timeout_s=0.05)

    assert status == 124
    assert "not run yet" in said[0]
    os.close(pipe[1])


@pytest.mark.parametrize("kind", [ConfigError, HostError, BusvmError])
def test_an_error_arrives_whole(pipe: tuple[int, int], kind: type[BusvmError]) -> None:
    report.Piped(pipe[1]).failed(kind("what", hint="how"))

    with pytest.raises(kind) as caught:
        hear(pipe[0])

    assert (caught.value.message, caught.value.hint) == ("what", "how")
    os.close(pipe[1])


def test_the_guests_status_is_passed_on_if_it_was_quick(pipe: tuple[int, int]) -> None:
    report.Piped(pipe[1]).ended(3)

    assert hear(pipe[0])[0] == 3
    os.close(pipe[1])


def test_silence_is_an_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])

    with pytest.raises(BusvmError, match="without a word"):
        hear(pipe[0])


def test_nobody_has_to_listen() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    report.Piped(writer).say("anybody?")

    os.close(writer)
