"""Memory that a device hands over for a BAR: what is taken, and that its end does not end this process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from cpu_proc.device_memory import DeviceMemory
from cpu_proc.engine import state as st
from cpu_proc.hart import INTERPRETER, TRANSLATOR
from protocol.errors import ProtocolError
from protocol.memory import sealed
from tests.unit.cpu_proc.harness import Bench, load, store

SIZE = 0x4000


def byte(memory: DeviceMemory, at: int) -> ctypes.c_uint8:
    """Return a byte of it."""
    return ctypes.c_uint8.from_address(memory.host + at)


def test_what_others_write_is_seen_and_the_other_way_round() -> None:
    fd = sealed("test", SIZE)
    memory = DeviceMemory(os.dup(fd), SIZE, writable=True)
    os.pwrite(fd, b"\x11\x22", 8)
    assert memory.read(8, 2) == 0x2211
    byte(memory, 9).value = 7
    assert os.pread(fd, 1, 9) == b"\x07"
    memory.close()
    os.close(fd)


def test_memory_to_read_only_comes_from_a_descriptor_that_only_reads() -> None:
    fd = sealed("test", SIZE)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with pytest.raises(ProtocolError, match="cannot be mapped"):
        DeviceMemory(os.dup(reader), SIZE, writable=True)
    memory = DeviceMemory(reader, SIZE, writable=False)
    os.pwrite(fd, b"\x33", SIZE - 1)
    assert memory.read(SIZE - 1, 1) == 0x33
    os.pwrite(fd, b"\x44", SIZE - 1)
    assert memory.read(SIZE - 1, 1) == 0x44
    memory.close()
    os.close(fd)


@pytest.mark.parametrize("name", [INTERPRETER, TRANSLATOR])
@pytest.mark.parametrize("writable", [True, False])
def test_a_guest_outlives_that_somebody_makes_it_shorter(tmp_path: Path, name: str, writable: bool) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"\x55" * SIZE)
    memory = DeviceMemory(os.open(path, os.O_RDWR if writable else os.O_RDONLY), SIZE, writable=writable)
    bench = Bench(engine_name=name)
    row = [0] * st.WINDOW_WORDS
    row[st.W_BASE], row[st.W_SIZE], row[st.W_IMAGE] = 0x5000_0000, SIZE, memory.host
    row[st.W_MEMORY] = 2 if writable else 1
    bench.hart.set_windows([row])
    bench.set_x(5, 0x5000_1000)
    looks = [load("d", 7, 5), load("d", 8, 5, 8)]
    bench.run(looks)
    assert bench.x(7) == 0x5555_5555_5555_5555
    assert not memory.torn
    os.truncate(path, 4096)
    bench.run([*looks, store("d", 5, 5)] if writable else looks)
    assert (bench.x(7), bench.x(8)) == (0, 0)
    assert memory.torn
    bench.set_x(5, 0x5000_0000)
    bench.run(looks)
    assert bench.x(7) == 0x5555_5555_5555_5555  # the rest is still shared
    bench.hart.set_windows([])
    bench.close()
    memory.close()


@pytest.mark.parametrize("what", ["short", "pipe", "device"])
def test_what_is_no_such_memory_is_refused_and_closed(what: str) -> None:
    if what == "short":
        fd = sealed("test", SIZE // 2)
    elif what == "pipe":
        fd, other = os.pipe()
        os.close(other)
    else:
        fd = os.open("/dev/zero", os.O_RDWR)
    with pytest.raises(ProtocolError):
        DeviceMemory(fd, SIZE, writable=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
