"""Wiring1: what a device's process connects stays when the process is gone, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cpu_proc.attach import Slot
from cpu_proc.exported_wiring import Wiring1
from cpu_proc.platform.virtio_mmio import MmioDevice
from protocol.bus import BusError
from protocol.layout import DevicePage
from tests.unit.cpu_proc.pcie.fake_device import anonymous


class Machine:
    """Does everything at once; counts what it is told."""

    def __init__(self) -> None:
        self.board = self
        self.calls: list[list[int]] = []
        self.windows = 0

    def update_windows(self) -> None:
        """Count."""
        self.windows += 1

    def forget_calls(self, _remote: Any) -> None:
        """Note it."""
        self.calls.append([])

    def take_calls(self, remote: Any) -> None:
        """Note it."""
        self.calls.append(list(remote.calls))

    def do(self, work: Callable[[], Any]) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def slot() -> Iterator[Slot]:
    page = DevicePage(anonymous(0x6000, "device"))
    page.format()
    slot = Slot("iv0", None)
    slot.remote = MmioDevice("iv0", 0, page.shared, 0, lambda _who: None, 2)
    yield slot
    slot.remote.release()


@pytest.fixture
def wiring(slot: Slot) -> Wiring1:
    return Wiring1(Machine(), slot)  # type: ignore[arg-type]


def event() -> int:
    """Return an eventfd, which blocks: whoever takes it must change that."""
    return os.eventfd(0)


def is_open(fd: int) -> bool:
    """Tell whether a descriptor is there."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def connect(wiring: Wiring1, connect: list[tuple[int, int]], forget: list[int] | None = None) -> None:
    """Connect doorbells."""
    asyncio.run(wiring.connect_doorbells(connect, forget or []))


def test_doorbells_are_added_replaced_and_forgotten(slot: Slot, wiring: Wiring1) -> None:
    first, second, third = event(), event(), event()
    connect(wiring, [(0x10000, first), (0x20000, second)])
    assert not os.get_blocking(first)
    connect(wiring, [(0x10000, third)], [0x20000, 77])
    assert [is_open(fd) for fd in (first, second, third)] == [False, False, True]
    doorbells, calls = wiring.held(0)
    assert (doorbells, len(calls)) == ([(0x10000, third)], 2)
    assert wiring.held(0x10001) == ([], [])
    assert slot.remote is not None
    slot.remote.matches.close()
    assert not is_open(third)


def test_held_comes_in_pieces(wiring: Wiring1) -> None:
    connect(wiring, [(value, event()) for value in range(300)])
    first, _ = wiring.held(0)
    second, _ = wiring.held(first[-1][0] + 1)
    assert [value for value, _ in first + second] == list(range(300))
    assert len(first) == 250


@pytest.mark.parametrize("what", ["pipe", "file", "missing", "value", "twice"])
def test_what_cannot_be_a_doorbell_is_refused_and_closed(wiring: Wiring1, what: str) -> None:
    good, value = event(), 2
    fds = [good]
    if what == "pipe":
        reader, writer = os.pipe()
        fds += [reader, writer]
    elif what == "file":
        fds.append(os.open("/dev/null", os.O_RDWR))
    elif what == "missing":
        fds.append(-1)
    elif what == "value":
        fds, value = [good], 1 << 32
    pairs = [(value if what in ("value", "twice") else value + index, fd) for index, fd in enumerate(fds)]
    with pytest.raises(BusError):
        connect(wiring, pairs + [(2, event())] * (what == "twice"))
    assert not any(is_open(fd) for fd in fds)
    assert wiring.held(0)[0] == []


def test_calls_are_exchanged_whole(slot: Slot, wiring: Wiring1) -> None:
    assert slot.remote is not None
    old, new = list(slot.remote.calls), [event(), event()]
    asyncio.run(wiring.connect_calls(new))
    assert not any(is_open(fd) for fd in old)
    assert slot.remote.calls == new == wiring.held(0)[1]
    one = event()
    with pytest.raises(BusError, match="1 calls, the device has 2"):
        asyncio.run(wiring.connect_calls([one]))
    assert not is_open(one)
    asyncio.run(wiring.connect_calls([]))
    assert not any(is_open(fd) for fd in new)
    assert (slot.remote.calls, wiring.held(0)[1]) == ([-1, -1], [])


def test_a_lifeline_is_held_until_another_is_or_the_device_goes(slot: Slot, wiring: Wiring1) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    asyncio.run(wiring.hold(writer))
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    other, another = os.pipe2(os.O_NONBLOCK)
    asyncio.run(wiring.hold(another))
    assert os.read(reader, 1) == b""
    assert slot.remote is not None
    slot.remote.release()
    assert os.read(other, 1) == b""
    os.close(reader)
    os.close(other)
    with pytest.raises(BusError, match="no eventfd"):
        asyncio.run(wiring.hold(-1))


def test_nothing_is_connected_where_no_device_is(wiring: Wiring1, slot: Slot) -> None:
    remote, slot.remote = slot.remote, None
    fd = event()
    with pytest.raises(BusError, match="not attached"):
        connect(wiring, [(1, fd)])
    assert not is_open(fd)
    slot.remote = remote
