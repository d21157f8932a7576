"""A device process writes its events for whoever asks, and forgets it with whoever asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.bus import BusError, Fd
from protocol.trace import Kind, Reader, Side, TracePage, create
from tests.conformance.conftest import Start
from tests.conformance.driver import Driver
from tests.conformance.fake_cpu import FakeCpu

IN = 0
TRACE1 = "org.busvm.Trace1"


@pytest.fixture
def page() -> Iterator[TracePage]:
    made = create()
    yield made
    made.shared.close()


def test_requests_and_hooks_are_seen_until_the_lifeline_is_cut(
    cpu: FakeCpu, start: Start, image: Path, page: TracePage
) -> None:
    start("--image", str(image))
    cpu.attach()
    theirs, ours = os.pipe()
    cpu.call(TRACE1, "Start", "hha{sv}", Fd(page.shared.fd), Fd(theirs), {})
    os.close(theirs)
    assert cpu.get("Active", TRACE1)
    with pytest.raises(BusError, match="already"):
        cpu.call(TRACE1, "Start", "hha{sv}", Fd(page.shared.fd), Fd(ours), {})

    driver = Driver(cpu)
    driver.probe()
    page.set_kick(0, 17)
    assert driver.do(IN, 8, 512)[1][:4] == (8).to_bytes(4, "little")

    events = list(Reader(page, Side.DEVICE).take())
    kinds = [event.kind for event in events]
    assert Kind.SERVED in kinds
    taken = next(event for event in events if event.kind == Kind.TAKEN)
    done = next(event for event in events if event.kind == Kind.DONE)
    assert (taken.id, taken.where, taken.size, taken.a) == (17, 0, 1, done.a)
    assert taken.data[:16] == bytes(8) + (8).to_bytes(8, "little")
    assert (done.id, done.b, done.data[:1]) == (17, 513, b"\0")
    header = cpu.get("Request", TRACE1)
    assert [(name, width) for name, width, _ in header] == [("type", 4), ("reserved", 4), ("sector", 8)]
    assert header[0][2][0] == "in"

    os.close(ours)
    deadline = time.monotonic() + 5
    while cpu.get("Active", TRACE1):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    seen = len(list(Reader(page, Side.DEVICE).take()))
    driver.do(IN, 8, 512)
    assert len(list(Reader(page, Side.DEVICE).take())) == seen


def test_what_is_no_page_is_refused(cpu: FakeCpu, start: Start, image: Path) -> None:
    process = start("--image", str(image))
    cpu.attach()
    with Path("/dev/zero").open("rb") as zero, pytest.raises(BusError):
        cpu.call(TRACE1, "Start", "hha{sv}", Fd(zero.fileno()), Fd(zero.fileno()), {})
    assert not cpu.get("Active", TRACE1)
    assert process.running
