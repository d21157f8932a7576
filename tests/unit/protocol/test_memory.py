"""Shared objects and guest memory: what is out of bounds is a value, what the host refuses is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from protocol.errors import HostError
from protocol.memory import SHM, GuestMemory, Shared, created, shm_name

BASE = 0x8000_0000
SIZE = 0x4000


@pytest.fixture
def shared() -> Iterator[Shared]:
    with _anonymous(SIZE) as made:
        yield made


def _anonymous(size: int) -> Shared:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return Shared(fd, size)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_words_are_little_endian_and_cut(shared: Shared, width: int) -> None:
    shared.store(0x40, width, 0x1122334455667788_99)
    assert shared.load(0x40, width) == 0x1122334455667788_99 & ((1 << 8 * width) - 1)
    assert shared.bytes(0x40, width) == shared.load(0x40, width).to_bytes(width, "little")


def test_two_mappings_see_the_same_bytes(shared: Shared) -> None:
    with Shared(os.dup(shared.fd), SIZE) as other:
        shared.store(8, 8, 42)
        assert other.load(8, 8) == 42


def test_create_is_exclusive_private_and_gone_after_the_block() -> None:
    vm = f"unit{os.getpid()}"
    path = SHM / shm_name(vm, "ram")
    with created(vm, {"ram": SIZE}):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(HostError, match="exists already"), created(vm, {"ram": SIZE}):
            pass
        assert path.exists()
    assert not path.exists()


def test_what_is_reserved_has_its_pages() -> None:
    vm = f"unit{os.getpid()}"
    with created(vm, {"ram": SIZE, "irq": SIZE}, lazily=["ram"]):
        held = [512 * (SHM / shm_name(vm, what)).stat().st_blocks for what in ("ram", "irq")]

    assert held == [0, SIZE]


def test_no_space_is_said_and_leaves_nothing() -> None:
    vm = f"unit{os.getpid()}"
    room = os.statvfs(SHM)
    with (
        pytest.raises(HostError, match="no space in /dev/shm"),
        created(vm, {"irq": SIZE, "ram": room.f_bavail * room.f_frsize + (1 << 30)}),
    ):
        pass
    assert not list(SHM.glob(shm_name(vm, "*")))


def test_an_object_smaller_than_said_is_refused() -> None:
    fd = os.memfd_create("small")
    os.ftruncate(fd, 100)
    try:
        with pytest.raises(HostError, match="100 bytes"):
            Shared(fd, SIZE)
    finally:
        os.close(fd)


@given(gpa=some.integers(0, 2**64 - 1), length=some.integers(-1, 2**33))
def test_guest_memory_never_raises(gpa: int, length: int) -> None:
    with _anonymous(SIZE) as ram:
        memory = GuestMemory(ram, BASE)
        inside = gpa >= BASE and length >= 0 and gpa + length <= BASE + SIZE
        assert (memory.read(gpa, length) is not None) == inside
        view = memory.view(gpa, length)
        assert (view is not None) == inside
        if view is not None:
            view.release()
        if 0 <= length <= SIZE:
            assert memory.write(gpa, bytes(length)) == inside


def test_guest_words_need_alignment_and_ram() -> None:
    with _anonymous(SIZE) as ram:
        memory = GuestMemory(ram, BASE)
        assert memory.store(BASE + 8, 4, 7)
        assert memory.load(BASE + 8, 4) == 7
        assert memory.load(BASE + 9, 4) is None
        assert not memory.store(BASE + SIZE - 4, 8, 1)
        assert memory.load(BASE - 8, 8) is None
