"""Wiring1: what a device's process connects stays when the process is gone, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cpu_proc.exported_wiring import Wiring1
from cpu_proc.platform.virtio_mmio import MmioDevice
from cpu_proc.slots import Slot
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


def open_fds() -> int:
    """Return how many descriptors there are."""
    return len(os.listdir("/proc/self/fd"))


def is_same(one: int, other: int) -> bool:
    """Tell whether two descriptors are of one eventfd."""
    os.eventfd_write(one, 1)
    return bool(select.select([other], [], [], 0)[0]) and os.eventfd_read(other) == 1


def ask(work: Coroutine[Any, Any, None], given: list[int]) -> None:
    """Make a call as the bus does, which closes what came with it."""
    try:
        asyncio.run(work)
    finally:
        for fd in given:
            os.close(fd)


def connect(wiring: Wiring1, connect: list[tuple[int, int]], forget: list[int] | None = None) -> None:
    """Connect doorbells."""
    pairs = [(value, os.dup(fd)) for value, fd in connect]
    ask(wiring.connect_doorbells(pairs, forget or []), [fd for _, fd in pairs])


def test_doorbells_are_added_replaced_and_forgotten(slot: Slot, wiring: Wiring1) -> None:
    first, second, third = event(), event(), event()
    before = open_fds()
    connect(wiring, [(0x10000, first), (0x20000, second)])
    assert not os.get_blocking(first)
    connect(wiring, [(0x10000, third)], [0x20000, 77])
    ((value, fd),), calls = wiring.held(0)
    assert (value, len(calls)) == (0x10000, 2)
    assert is_same(fd, third)
    assert wiring.held(0x10001) == ([], [])
    assert open_fds() == before + 1
    assert slot.remote is not None
    slot.remote.matches.close()
    assert open_fds() == before
    for mine in (first, second, third):
        os.close(mine)


def test_held_comes_in_pieces(wiring: Wiring1) -> None:
    mine = event()
    connect(wiring, [(value, mine) for value in range(300)])
    first, _ = wiring.held(0)
    second, _ = wiring.held(first[-1][0] + 1)
    assert [value for value, _ in first + second] == list(range(300))
    assert len(first) == 250
    os.close(mine)


@pytest.mark.parametrize("what", ["pipe", "file", "value", "twice"])
def test_what_cannot_be_a_doorbell_is_refused(wiring: Wiring1, what: str) -> None:
    values, fds = [2, 3], [event()]
    if what == "pipe":
        fds += os.pipe()
    elif what == "file":
        fds.append(os.open("/dev/null", os.O_RDWR))
    else:
        fds.append(event())
        values = [1 << 32, 2] if what == "value" else [2, 2]
    before = open_fds()
    with pytest.raises(BusError):
        connect(wiring, list(zip(values, fds, strict=False)))
    assert open_fds() == before
    assert wiring.held(0)[0] == []
    for fd in fds:
        os.close(fd)


def test_calls_are_exchanged_whole(slot: Slot, wiring: Wiring1) -> None:
    assert slot.remote is not None
    before, mine = open_fds(), [event(), event()]
    given = [os.dup(fd) for fd in mine]
    ask(wiring.connect_calls(given), given)
    assert slot.remote.calls == wiring.held(0)[1]
    assert all(is_same(kept, fd) for kept, fd in zip(slot.remote.calls, mine, strict=True))
    one = [event()]
    with pytest.raises(BusError, match="1 calls, the device has 2"):
        ask(wiring.connect_calls(one), one)
    assert open_fds() == before + 2  # those of before are gone
    ask(wiring.connect_calls([]), [])
    assert (slot.remote.calls, wiring.held(0)[1], open_fds()) == ([-1, -1], [], before)
    for fd in mine:
        os.close(fd)


def test_a_lifeline_is_held_until_another_is_or_the_device_goes(slot: Slot, wiring: Wiring1) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ask(wiring.hold(writer), [writer])
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    other, another = os.pipe2(os.O_NONBLOCK)
    ask(wiring.hold(another), [another])
    assert os.read(reader, 1) == b""
    assert slot.remote is not None
    slot.remote.release()
    assert os.read(other, 1) == b""
    os.close(reader)
    os.close(other)


def test_nothing_is_connected_where_no_device_is(wiring: Wiring1, slot: Slot) -> None:
    remote, slot.remote = slot.remote, None
    fd = event()
    with pytest.raises(BusError, match="not attached"):
        connect(wiring, [(1, fd)])
    os.close(fd)
    slot.remote = remote
