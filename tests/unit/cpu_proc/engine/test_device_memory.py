"""Memory of a device outside RAM: at the speed of RAM, and forgotten when it goes elsewhere; doorbells by value."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from cpu_proc.connections import Doorbells
from cpu_proc.engine import state as st
from tests.unit.cpu_proc.harness import BUDGET, MMIO, RAM, RWX, S_MODE, Bench, amo, load, lr, sc, store

AT, SIZE, VA = 0x5000_0000, 0x4000, 0x4000_0000
IMAGE = RAM + 0x30_0000
CODE = RAM
LOAD, STORE = 5, 7
CBO_ZERO = 0x0042_A00F  # of x5


def row(bench: Bench, **fields: int) -> list[int]:
    """Return a row of the table of windows."""
    values = [0] * st.WINDOW_WORDS
    values[st.W_BASE], values[st.W_SIZE], values[st.W_MEMORY] = AT, SIZE, 2
    values[st.W_IMAGE] = bench.hart["RAM_HOST"] + IMAGE - RAM
    for name, value in fields.items():
        values[getattr(st, f"W_{name.upper()}")] = value
    return values


@pytest.fixture
def memory(bench: Bench) -> Iterator[Bench]:
    """Return the hart with one window of memory, at VA too."""
    bench.hart.set_windows([row(bench)])
    bench.map(CODE, CODE, RWX)
    for page in range(0, SIZE, 4096):
        bench.map(VA + page, AT + page, RWX)
    bench["PRIV"] = S_MODE
    bench["PMP_OPEN"] = 1
    bench.set_x(5, VA + 8)
    yield bench
    bench.hart.set_windows([])
    bench.hart.post("POSTED_FLUSH", st.FLUSH_TRANSLATIONS)
    bench["MMIO_DONE"] = 0


def walks(bench: Bench, word: int, count: int = 1) -> int:
    """Run an instruction ``count`` times, and tell how often the tables were walked more than for one in RAM."""
    found, here = list[int](), bench.x(5)
    for address in (CODE + 0x800, CODE + 0x800, here):  # at first the instructions are decoded, with walks
        bench.set_x(5, address)
        before = bench["WALKS"]
        assert bench.run([word] * count, count=count) == BUDGET
        found.append(int(bench["WALKS"] - before))
    return found[2] - found[1]


def test_loads_and_stores_walk_once(memory: Bench) -> None:
    memory.store(IMAGE + 8, 0x1122_3344_5566_7788)
    walks(memory, load("d", 7, 5))
    assert memory.x(7) == 0x1122_3344_5566_7788
    assert walks(memory, load("d", 7, 5), 3) == 0
    memory.set_x(6, 0xABCD)
    walks(memory, store("h", 6, 5, 2))
    assert memory.load(IMAGE + 8) == 0x1122_3344_ABCD_7788
    assert walks(memory, store("h", 6, 5, 2), 3) == 0


def test_misaligned_and_across_pages(memory: Bench) -> None:
    memory.set_x(5, VA + 0xFFD)
    memory.set_x(6, 0x8877_6655_4433_2211)
    assert memory.run([store("d", 6, 5), load("d", 7, 5)], count=2) == BUDGET
    assert memory.x(7) == 0x8877_6655_4433_2211
    assert memory.load(IMAGE + 0x1000, 4) == 0x7766_5544


def test_past_its_end_is_not_stored_in_part(memory: Bench) -> None:
    memory.map(VA + SIZE, AT + SIZE, RWX)
    memory.store(IMAGE + SIZE - 8, 0)
    memory.set_x(5, VA + SIZE - 4)
    memory.set_x(6, -1)
    memory.run([store("d", 6, 5)])
    assert memory.trapped() == (STORE, CODE, VA + SIZE)
    assert memory.load(IMAGE + SIZE - 8) == 0


def test_atomics(memory: Bench) -> None:
    memory.set_x(5, VA + 16)
    memory.set_x(6, 5)
    memory.store(IMAGE + 16, 37)
    assert memory.run([amo(0, 8, 7, 5, 6), lr(8, 8, 5), sc(8, 9, 6, 5)], count=3) == BUDGET
    assert (memory.x(7), memory.x(8), memory.x(9)) == (37, 42, 0)
    assert memory.load(IMAGE + 16) == 5


def test_block_of_zeros(memory: Bench) -> None:
    memory["MENVCFG"] |= 1 << 7
    memory.store(IMAGE + 64, 1)
    memory.store(IMAGE + 120, 1)
    memory.store(IMAGE + 128, 1)
    memory.set_x(5, VA + 72)
    assert memory.run([CBO_ZERO]) == BUDGET
    assert [memory.load(IMAGE + at) for at in (64, 120, 128)] == [0, 0, 1]


def test_what_only_reads_is_not_stored_even_after_a_load(memory: Bench) -> None:
    memory.hart.set_windows([row(memory, memory=1)])
    memory.hart.post("POSTED_FLUSH", st.FLUSH_TRANSLATIONS)
    memory.store(IMAGE + 8, 7)
    walks(memory, load("d", 7, 5))
    assert walks(memory, load("d", 7, 5), 3) == 0
    assert memory.run([store("d", 5, 5)]) == MMIO
    memory["MMIO_DONE"] = st.MMIO_SERVED
    memory.hart.run()
    assert memory.load(IMAGE + 8) == 7
    memory.run([amo(0, 8, 7, 5, 6)])
    assert memory.trapped() == (STORE, CODE, VA + 8)


def test_memory_that_moves_is_forgotten(memory: Bench) -> None:
    memory.store(IMAGE + 8, 1)
    memory.store(IMAGE + SIZE + 8, 2)
    walks(memory, load("d", 7, 5))
    elsewhere = row(memory)
    elsewhere[st.W_IMAGE] += SIZE
    memory.hart.set_windows([elsewhere])
    memory.hart.post("POSTED_FLUSH", st.FLUSH_TRANSLATIONS)
    walks(memory, load("d", 7, 5))
    assert memory.x(7) == 2
    memory.hart.set_windows([])
    memory.hart.post("POSTED_FLUSH", st.FLUSH_TRANSLATIONS)
    assert memory.run([load("d", 7, 5)]) == MMIO


def test_protection_of_a_part_keeps_the_page_out(memory: Bench) -> None:
    memory["PMPADDR0"], memory["PMPADDR1"], memory["PMP_OPEN"] = AT >> 2 | 1, (1 << 54) - 1, 0  # 16 bytes to read
    memory["PMPCFG0"] = 0x1F19
    memory.run([load("d", 7, 5)])
    memory.run([store("d", 7, 5)])
    assert memory.trapped() == (STORE, CODE, VA + 8)
    memory["PRIV"] = S_MODE
    memory.set_x(5, VA + 16)
    assert memory.run([store("d", 7, 5)]) == BUDGET


def test_a_value_rings_what_was_connected_to_it(memory: Bench) -> None:
    bells = Doorbells()
    fds = {value: os.eventfd(0, os.EFD_NONBLOCK) for value in (0x0001_0000, 0x0001_0001, 0xFFFF_0000, 3)}
    bells.change(fds, ())
    kinds, posted = np.full(16, 0x62, np.uint8), np.zeros(2, np.int64)
    fields = {"kinds": kinds.ctypes.data, "posted": posted.ctypes.data, "processed": posted.ctypes.data + 8}
    memory.hart.set_windows([row(memory, memory=0, stores=1, size=16, matches=bells.host, **fields)])
    memory.set_x(5, VA)
    for value in fds:
        memory.set_x(6, value)
        assert memory.run([store("w", 6, 5)] * 2, count=2) == BUDGET
        assert {v: _taken(fd) for v, fd in fds.items()} == {v: 2 * (v == value) for v in fds}
    for value in (0, 2, 4, 0x0001_0002, 0xFFFF_0001):
        memory.set_x(6, value)
        assert memory.run([store("w", 6, 5)]) == MMIO
        memory["MMIO_DONE"] = st.MMIO_SERVED
        memory.hart.run()
    memory.set_x(6, 3)
    assert memory.run([store("d", 6, 5)]) == MMIO  # only 4 bytes ring
    memory["MMIO_DONE"] = st.MMIO_SERVED
    memory.hart.run()
    assert not any(_taken(fd) for fd in fds.values())
    memory.hart.set_windows([])
    bells.close()


def _taken(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
