"""The devices as guests see them, against a server in a thread."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings

from devproc.device import Device
from devproc.ivshmem import plain
from devproc.ivshmem.client import Client, connect
from devproc.ivshmem.doorbell import Doorbell
from devproc.ivshmem.flat import Flat
from devproc.ivshmem.guest_peer import Config
from devproc.ivshmem.plain import Plain
from devproc.machine import Machine, Wiring
from devproc.pci import MSIX_CAP
from devproc.poke import settle
from devproc.strategies import Access, accesses, exercise
from protocol.errors import ConfigError, HostError
from protocol.layout import CONFIG_BAR, BarFlags
from protocol.memory import sealed
from tests.unit.devproc.ivshmem.rig import Threaded

MASK, STATUS, POSITION, DOORBELL = 0, 4, 8, 12
CONTROL = MSIX_CAP + 2


class Recorder(Wiring):
    """A machine's side: what is connected now; a successor finds it."""

    def __init__(self) -> None:
        self.bells: dict[int, int] = {}
        self.called: list[int] = []
        self.kept = -1

    def doorbells(self, connect: Mapping[int, int], forget: Collection[int] = ()) -> None:
        """Note it."""
        for value in [*forget, *connect]:
            if value in self.bells:
                os.close(self.bells.pop(value))
        self.bells |= {value: os.dup(fd) for value, fd in connect.items()}

    def calls(self, fds: Sequence[int]) -> None:
        """Note it."""
        for fd in self.called:
            os.close(fd)
        self.called = [os.dup(fd) for fd in fds]

    def hold(self, fd: int) -> None:
        """Note it."""
        if self.kept >= 0:
            os.close(self.kept)
        self.kept = os.dup(fd)

    def held(self) -> tuple[dict[int, int], list[int]]:
        """Return copies."""
        return {value: os.dup(fd) for value, fd in self.bells.items()}, [os.dup(fd) for fd in self.called]

    def close(self) -> None:
        """The device is gone."""
        self.doorbells({}, list(self.bells))
        self.calls([])
        if self.kept >= 0:
            os.close(self.kept)
            self.kept = -1


class Guest:
    """A device in a machine of its own."""

    def __init__(self, device: Device, wiring: Recorder | None = None, machine: Machine | None = None) -> None:
        self.device = device
        self.wiring = device.wiring = wiring or Recorder()
        self.machine = machine or Machine.private(device.page_size)
        device.attach(self.machine)

    def load(self, offset: int) -> int:
        """Read a register."""
        return self.device.read(0, offset, 4)

    def store(self, offset: int, value: int) -> None:
        """Write a register."""
        self.device.write(0, offset, 4, value)

    def enable_msix(self, control: int) -> None:
        """Write the control word as the machine does, which wakes the device."""
        self.device.write(CONFIG_BAR, CONTROL, 2, control)
        settle(self.device)
        self.device.doorbell(0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the device work until it holds."""
        deadline = time.monotonic() + 5
        (fd, handler), *_ = self.device.sources().items()
        while not condition():
            assert time.monotonic() < deadline
            if select.select([fd], [], [], 0.02)[0]:
                handler()

    def leave(self) -> None:
        """End the process; the machine stays."""
        self.device.release()
        self.device.close()

    def close(self) -> None:
        """End both."""
        self.leave()
        self.wiring.close()
        self.machine.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Threaded]:
    with Threaded(tmp_path, size=1 << 16, vectors=2) as made:
        yield made


@pytest.fixture
def guest(server: Threaded) -> Iterator[Guest]:
    made = Guest(Doorbell(Config(server.path, name="vm.iv0")))
    yield made
    made.close()


@pytest.fixture
def peer(server: Threaded, guest: Guest) -> Iterator[Client]:
    """Return another peer, which the guest knows."""
    with connect(server.path) as made:
        guest.until(lambda: len(guest.wiring.bells) == 4)
        yield made


def rung(fd: int) -> bool:
    """Return whether an eventfd was written."""
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


def test_it_is_the_device_of_qemu(guest: Guest) -> None:
    device, page = guest.device, guest.machine.page
    assert device.read(CONFIG_BAR, 0, 4) == 0x1110_1AF4
    assert device.read(CONFIG_BAR, 8, 4) == 0x0500_0001
    assert device.read(CONFIG_BAR, 0x2C, 4) == 0x1100_1AF4
    assert [page.bar(index).size for index in range(6)] == [256, 4096, 1 << 16, 0, 0, 0]
    assert page.bar(2).flags == BarFlags.BITS64 | BarFlags.PREFETCHABLE | BarFlags.MEMORY
    assert (page.msix_vectors, page.msix_bar, page.msix_table, page.msix_pba) == (2, 1, 0, 0x800)


def test_its_doorbells_are_those_of_the_peers_and_its_own(guest: Guest, peer: Client) -> None:
    own = guest.load(POSITION)
    assert own != peer.id
    assert guest.wiring.bells.keys() == {n << 16 | v for n in (own, peer.id) for v in (0, 1)}
    os.eventfd_write(guest.wiring.bells[peer.id << 16 | 1], 1)
    assert peer.wait(1, 1) == 1
    assert peer.wait(0, 0) == 0
    peer.close()
    guest.until(lambda: guest.wiring.bells.keys() == {own << 16, own << 16 | 1})


def test_the_memory_is_that_of_the_peers(guest: Guest, peer: Client) -> None:
    (fd, writable) = guest.device.memories()[2]
    assert writable
    os.pwrite(fd, b"from the guest", 100)
    assert bytes(peer.memory[100:114]) == b"from the guest"


def test_without_msix_a_ring_is_a_level_that_reading_clears(guest: Guest, peer: Client) -> None:
    """Revision 0's (ivshmem-spec.rst): wire = status & mask."""
    word = guest.machine.irq.word
    peer.ring(guest.load(POSITION), 1)
    guest.until(lambda: guest.device.get_register("int_status") == 1 and not word(0))  # which clears it
    guest.store(MASK, 1)
    assert word(0) == 0
    peer.ring(guest.load(POSITION), 0)
    guest.until(lambda: word(0) == 1)
    assert guest.load(STATUS) == 1
    assert (guest.load(STATUS), word(0)) == (0, 0)


def test_with_msix_the_machine_takes_what_rings(guest: Guest, peer: Client) -> None:
    assert guest.wiring.called == []
    guest.enable_msix(0x8000)
    assert len(guest.wiring.called) == 2
    peer.ring(guest.load(POSITION), 1)
    assert not select.select([guest.wiring.called[0]], [], [], 0)[0]
    assert rung(guest.wiring.called[1])
    guest.enable_msix(0)
    assert guest.wiring.called == []
    assert guest.load(STATUS) == 1  # what came in between is not known
    peer.ring(guest.load(POSITION), 1)
    guest.until(lambda: guest.load(STATUS) == 1)


def test_a_ring_during_the_change_is_a_message(guest: Guest, peer: Client) -> None:
    guest.device.write(CONFIG_BAR, CONTROL, 2, 0x8000)  # and we were not woken yet
    peer.ring(guest.load(POSITION), 1)
    guest.until(lambda: guest.machine.irq.word(2) == 1)
    assert guest.load(STATUS) == 0


def test_vectors_of_the_page_are_calls_of_the_same_number(guest: Guest) -> None:
    assert [guest.machine.page.call_vector(index) for index in range(2)] == [0, 1]


def test_a_successor_has_the_same_id_and_forgets_who_left_meanwhile(server: Threaded, guest: Guest) -> None:
    own = guest.load(POSITION)
    with connect(server.path) as other, connect(server.path) as watcher:
        guest.until(lambda: len(guest.wiring.bells) == 6)
        bells = guest.wiring.bells
        guest.enable_msix(0x8000)
        before = os.dup(guest.wiring.called[0])
        guest.leave()
        gone = other.id
        other.close()
        assert watcher.wait_event(5).peer == gone  # type: ignore[union-attr]
        assert watcher.wait_event(0.1) is None  # nobody was told of the guest
        watcher.ring(own, 0)
        guest.device = Doorbell(Config(server.path, name="vm.iv0"))
        guest.device.wiring = guest.wiring
        assert guest.device.attach(guest.machine)
        assert guest.load(POSITION) == own
        assert {value >> 16 for value in bells} == {own, watcher.id}
        assert rung(guest.wiring.called[0])  # what came while nobody was there
        watcher.ring(own, 0)
        assert rung(before)  # the same eventfd
        os.close(before)


def test_who_takes_the_machines_end_of_the_lifeline_away_takes_the_peer_away(guest: Guest, peer: Client) -> None:
    own = guest.load(POSITION)
    guest.leave()
    assert peer.wait_event(0.1) is None
    guest.wiring.close()
    assert peer.wait_event(5).peer == own  # type: ignore[union-attr]
    guest.device = Doorbell(Config(peer._place._path))  # for the fixture to end
    guest.device.wiring = guest.wiring
    guest.device.attach(guest.machine)


def test_without_a_server_a_successor_goes_on(tmp_path: Path) -> None:
    server = Threaded(tmp_path, size=1 << 16, vectors=2)
    known = Config(server.path, name="vm.iv0", size="64K", vectors=2)
    guest = Guest(Doorbell(known))
    other = connect(server.path)
    guest.until(lambda: len(guest.wiring.bells) == 4)
    guest.leave()
    server.__exit__()

    guest.device = Doorbell(known)
    guest.device.wiring = guest.wiring
    assert guest.device.attach(guest.machine)
    assert guest.device.memories() == {}
    other.ring(guest.load(POSITION), 1)
    guest.store(MASK, 1)
    guest.load(STATUS)
    other.ring(guest.load(POSITION), 1)
    guest.until(lambda: guest.machine.irq.word(0) == 1)
    other.close()
    guest.close()


def test_without_a_server_nobody_begins(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        Doorbell(Config(tmp_path / "none"))
    device = Doorbell(Config(tmp_path / "none", size="64K", vectors=1))
    machine = Machine.private(device.page_size)
    with pytest.raises(HostError, match="No such file"):
        device.attach(machine)
    device.release()
    device.close()
    machine.close()


def test_a_server_that_comes_back_is_joined_again(tmp_path: Path) -> None:
    server = Threaded(tmp_path, size=1 << 16, vectors=2)
    guest = Guest(Doorbell(Config(server.path, name="vm.iv0")))
    own = guest.load(POSITION)
    server.__exit__()
    again = Threaded(tmp_path, size=1 << 16, vectors=2)
    guest.until(lambda: guest.device.figures()["server"] == 1)
    with connect(again.path) as late:
        guest.until(lambda: late.id << 16 in guest.wiring.bells)
        late.ring(own, 0)
        guest.until(lambda: guest.load(STATUS) == 1)
        guest.until(lambda: guest.device.get_register("int_status") == 0)
    guest.close()
    again.__exit__()


@pytest.mark.parametrize(("wrong", "says"), [({"size": "32K"}, "has 64K, not 32K"), ({"size": "lots"}, "no size")])
def test_what_the_server_has_not_is_an_error(server: Threaded, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Doorbell(Config(server.path, **wrong))  # type: ignore[arg-type]


def test_fewer_vectors_than_the_server_has(server: Threaded) -> None:
    guest = Guest(Doorbell(Config(server.path, vectors=1)))
    assert guest.device.calls == guest.device.vectors == 1
    guest.enable_msix(0x8000)
    assert len(guest.wiring.called) == 1
    guest.close()


def test_flat_has_sixteen_bytes_of_registers_and_is_called_at_once(server: Threaded) -> None:
    guest = Guest(Flat(Config(server.path)))
    page = guest.machine.page
    assert [page.bar(index).size for index in range(3)] == [16, 1 << 16, 0]
    assert len(guest.wiring.called) == 2
    with connect(server.path) as peer:
        guest.until(lambda: len(guest.wiring.bells) == 4)
        peer.ring(guest.load(POSITION), 1)
        assert rung(guest.wiring.called[1])
        os.eventfd_write(guest.wiring.bells[peer.id << 16], 1)
        assert peer.wait(0, 1) == 1
        assert [guest.load(at) for at in (MASK, STATUS, DOORBELL)] == [0, 0, 0]
    assert guest.device.memories()[1][1]
    guest.close()


def test_plain_has_no_interrupts(tmp_path: Path) -> None:
    made = Plain(plain.Config(memory=str(tmp_path / "m"), size="64K"))
    other = Plain(plain.Config(memory=str(tmp_path / "m"), readonly=True))
    guest = Guest(made)
    assert (made.vectors, made.calls, guest.load(POSITION)) == (0, 0, 0)
    assert guest.machine.page.bar(2).size == 1 << 16
    os.pwrite(made.memories()[2][0], b"x", 5)
    fd, writable = other.memories()[2]
    assert (os.pread(fd, 1, 5), writable) == (b"x", False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"y", 5)
    other.close()
    guest.close()


def test_plain_of_a_server(server: Threaded) -> None:
    made = Plain(plain.Config(server=server.path, readonly=True))
    guest = Guest(made)
    with connect(server.path) as peer:
        peer.memory[0:3] = b"abc"
        assert os.pread(made.memories()[2][0], 3, 0) == b"abc"
    guest.close()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "which memory"),
        ({"memory": "m", "server": Path("s")}, "which memory"),
        ({"memory": "/none/there", "size": "64K"}, "No such file"),
        ({"memory": "./absent"}, "No such file"),
        ({"memory": "bad name!"}, "no name of memory"),
        ({"memory": "/dev/zero", "size": "64K"}, "no file"),
        ({"memory": "x", "size": "3K"}, "no power of two"),
    ],
)
def test_plain_refuses(config: dict[str, object], says: str) -> None:
    with pytest.raises((ConfigError, HostError), match=says):
        Plain(plain.Config(**config))  # type: ignore[arg-type]


def test_plain_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(bytes(12288))
    with pytest.raises(ConfigError, match="12K, not 64K"):
        Plain(plain.Config(memory=str(tmp_path / "m"), size="64K"))
    with pytest.raises(ConfigError, match="no power of two"):
        Plain(plain.Config(memory=str(tmp_path / "m")))


@settings(max_examples=60, deadline=None)
@given(accesses(Plain))
def test_any_accesses_leave_it_working(found: list[Access]) -> None:
    fd = sealed("test", 1 << 16)
    exercise(lambda: Plain(plain.Config(memory=f"/proc/self/fd/{fd}")), found)
    os.close(fd)


def test_any_accesses_leave_one_with_doorbells_working(tmp_path: Path) -> None:
    server = Threaded(tmp_path, size=1 << 16, vectors=2)

    @settings(max_examples=60, deadline=None)
    @given(accesses(Doorbell))
    def check(found: list[Access]) -> None:
        exercise(lambda: Doorbell(Config(server.path, name="vm.iv0")), found)

    check()
    server.__exit__()
