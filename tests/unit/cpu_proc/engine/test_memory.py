"""Loads, stores and atomics: widths, alignment, page crossing, faults, and accesses that Python serves."""

from __future__ import annotations

import os
import select

import pytest

from tests.unit.cpu_proc.harness import (
    BUDGET,
    MASK,
    MMIO,
    NOP,
    RAM,
    RWX,
    S_MODE,
    Bench,
    addi,
    amo,
    csrrs,
    i_type,
    load,
    lr,
    s_type,
    sc,
    sfence,
    signed,
    store,
)

DATA = RAM + 0x2000
OUTSIDE = 0x1000_0000
PATTERN = bytes(range(0x81, 0xA1))
LOADS = {"b": 1, "h": 2, "w": 4, "d": 8, "bu": 1, "hu": 2, "wu": 4}
AMOS = {
    "swap": (0b00001, lambda old, b, bits: b),
    "add": (0b00000, lambda old, b, bits: old + b),
    "xor": (0b00100, lambda old, b, bits: old ^ b),
    "and": (0b01100, lambda old, b, bits: old & b),
    "or": (0b01000, lambda old, b, bits: old | b),
    "min": (0b10000, lambda old, b, bits: min(old, b, key=lambda v: extended(v, bits))),
    "max": (0b10100, lambda old, b, bits: max(old, b, key=lambda v: extended(v, bits))),
    "minu": (0b11000, lambda old, b, bits: min(old, b)),
    "maxu": (0b11100, lambda old, b, bits: max(old, b)),
}


def extended(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


@pytest.mark.parametrize("width", LOADS)
@pytest.mark.parametrize("offset", [0, 1, 3, 7, 0xFF9, 0xFFC, 0xFFE, 0xFFF])
def test_load_extends_and_crosses_pages(bench: Bench, width: str, offset: int) -> None:
    size = LOADS[width]
    bench.bytes(DATA + offset, PATTERN)
    bench.set_x(5, DATA)
    for _again in range(2):  # by the slow path, then by the fast one
        bench.set_x(6, DATA + offset)
        bench.run([load(width, 7, 6)])
        raw = int.from_bytes(PATTERN[:size], "little")
        assert bench.x(7) == (raw if "u" in width else extended(raw, 8 * size) & MASK)
    bench.set_x(6, DATA + offset + 2048)
    bench.run([load(width, 6, 6, -2048)])
    assert bench.x(6) == bench.x(7)


@pytest.mark.parametrize("width", ["b", "h", "w", "d"])
@pytest.mark.parametrize("offset", [0, 1, 3, 7, 0xFF9, 0xFFC, 0xFFE, 0xFFF])
def test_store_changes_its_bytes_and_no_others(bench: Bench, width: str, offset: int) -> None:
    size = LOADS[width]
    bench.bytes(DATA + offset - 8, bytes([0x55]) * 24)
    bench.set_x(6, DATA + offset)
    for value in (0x1122_3344_5566_7788, 0xFFEE_DDCC_BBAA_9988):
        bench.set_x(7, value)
        bench.run([store(width, 7, 6)])
        expected = bytes([0x55]) * 8 + value.to_bytes(8, "little")[:size] + bytes([0x55]) * (16 - size)
        assert bytes(bench.ram.u8[DATA + offset - 8 - RAM : DATA + offset + 16 - RAM]) == expected


def test_float_loads_and_stores_move_bits(bench: Bench) -> None:
    bench["MSTATUS"] = 1 << 13
    bench.store(DATA, 0x7FF0_0000_0000_0001)
    bench.set_x(6, DATA)
    bench.run([i_type(0x07, 3, 1, 6, 0), i_type(0x07, 2, 2, 6, 0), s_type(0x27, 3, 6, 1, 8), s_type(0x27, 2, 6, 2, 16)])
    assert bench.f(1) == 0x7FF0_0000_0000_0001
    assert bench.f(2) == 0xFFFF_FFFF_0000_0001
    assert bench.load(DATA + 8) == 0x7FF0_0000_0000_0001
    assert bench.load(DATA + 16) == 1


@pytest.mark.parametrize("name", AMOS)
@pytest.mark.parametrize("width", [4, 8])
def test_amo_stores_the_result_and_returns_the_former(bench: Bench, name: str, width: int) -> None:
    funct5, model = AMOS[name]
    bits = 8 * width
    edges = [0, 1, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1, 0x1234_5678_8765_4321 & (1 << bits) - 1]
    for old in edges:
        for operand in edges:
            bench.store(DATA, 0xAAAA_AAAA_AAAA_AAAA)
            bench.store(DATA, old, width)
            bench.set_x(5, DATA)
            bench.set_x(6, operand | (0x5555_5555 << 32 if width == 4 else 0))
            bench.run([amo(funct5, width, 6, 5, 6)])
            assert bench.x(6) == extended(old, bits) & MASK
            assert bench.load(DATA, width) == model(old, operand, bits) & (1 << bits) - 1
            assert width == 8 or bench.load(DATA + 4, 4) == 0xAAAA_AAAA


def test_amo_with_x0_still_stores(bench: Bench) -> None:
    bench.store(DATA, 7)
    bench.set_x(5, DATA)
    bench.set_x(6, 3)
    bench.run([amo(0, 8, 0, 5, 6)])
    assert (bench.x(0), bench.load(DATA)) == (0, 10)


@pytest.mark.parametrize("width", [4, 8])
def test_sc_after_lr_succeeds_once(bench: Bench, width: int) -> None:
    bench.store(DATA, 0xFFFF_FFFF_8000_0001)
    bench.set_x(5, DATA)
    bench.set_x(6, 42)
    bench.run([lr(width, 7, 5), sc(width, 8, 6, 5), sc(width, 9, 6, 5)])
    assert (bench.x(7), bench.x(8), bench.x(9)) == (0xFFFF_FFFF_8000_0001, 0, 1)
    assert bench.load(DATA, width) == 42


def test_sc_without_or_at_another_address_fails_and_stores_nothing(bench: Bench) -> None:
    bench.set_x(5, DATA)
    bench.set_x(6, 42)
    bench.set_x(4, DATA + 8)
    bench.run([sc(8, 8, 6, 5), lr(8, 7, 4), sc(8, 9, 6, 5), sc(8, 10, 6, 4)])
    assert (bench.x(8), bench.x(9), bench.x(10)) == (1, 1, 1)
    assert bench.load(DATA) == bench.load(DATA + 8) == 0


def test_reservation_is_of_memory_not_of_an_address(bench: Bench) -> None:
    """The same address may be other memory by the time of the store-conditional, and hold the same value."""
    bench.map(RAM, RAM, RWX)
    entry = bench.map(0x4000_0000, DATA, RWX)
    bench["PRIV"] = S_MODE
    bench.set_x(5, 0x4000_0000)
    bench.set_x(6, 42)
    bench.run([lr(8, 7, 5), sfence(), sc(8, 8, 6, 5)], count=1)
    bench.store(entry, (DATA + 0x1000) >> 12 << 10 | RWX)
    bench.step(2)
    assert (bench.x(8), bench.load(DATA), bench.load(DATA + 0x1000)) == (1, 0, 0)


@pytest.mark.parametrize(("first", "second"), [(8, 4), (4, 8)])
@pytest.mark.parametrize("value", [5, 0x1_0000_0005, MASK])
def test_sc_of_another_width_never_lies(bench: Bench, first: int, second: int, value: int) -> None:
    bench.store(DATA, value)
    bench.set_x(5, DATA)
    bench.set_x(6, 42)
    bench.run([lr(first, 7, 5), sc(second, 8, 6, 5)])
    assert (bench.load(DATA, second) == 42) == (bench.x(8) == 0)


def test_sc_notices_a_store_of_another_process(bench: Bench) -> None:
    bench.set_x(5, DATA)
    bench.set_x(6, 42)
    bench.run([lr(8, 7, 5), sc(8, 8, 6, 5)], count=1)
    bench.store(DATA, 1)
    bench.step()
    assert (bench.x(8), bench.load(DATA)) == (1, 1)


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        (lr(4, 7, 5), 4), (lr(8, 7, 5), 4), (sc(4, 7, 6, 5), 6), (sc(8, 7, 6, 5), 6),
        (amo(0, 4, 7, 5, 6), 6), (amo(0, 8, 7, 5, 6), 6),
    ],
)  # fmt: skip
def test_misaligned_atomic_traps(bench: Bench, word: int, cause: int) -> None:
    bench.set_x(5, DATA + 2)
    bench.run([word])
    assert bench.trapped() == (cause, RAM, DATA + 2)


@pytest.mark.parametrize(("word", "cause"), [(lr(8, 7, 5), 5), (sc(8, 7, 6, 5), 7), (amo(0, 8, 7, 5, 6), 7)])
def test_atomic_outside_memory_is_an_access_fault(bench: Bench, word: int, cause: int) -> None:
    bench.set_x(5, OUTSIDE)
    bench.run([word])
    assert bench.trapped() == (cause, RAM, OUTSIDE)


@pytest.mark.parametrize(
    ("word", "offset", "cause"),
    [(load("w", 7, 5), 2, 5), (load("d", 7, 5), 4, 5), (store("h", 7, 5), 1, 7), (store("d", 7, 5), 4, 7)],
)
def test_misaligned_device_access_is_an_access_fault(bench: Bench, word: int, offset: int, cause: int) -> None:
    bench.set_x(5, OUTSIDE + offset)
    assert bench.run([word]) == BUDGET
    assert bench.trapped() == (cause, RAM, OUTSIDE + offset)


@pytest.mark.parametrize(("word", "cause"), [(load("d", 7, 5), 5), (store("d", 7, 5), 7)])
def test_access_across_the_end_of_memory_is_an_access_fault(bench: Bench, word: int, cause: int) -> None:
    end = RAM + bench.ram.size
    before = bytes(bench.ram.u8[-8:])
    bench.set_x(5, end - 4)
    bench.set_x(7, MASK)
    bench.run([word])
    assert bench.trapped() == (cause, RAM, end)  # the part of the access that faults (privileged §3.1.16)
    assert bytes(bench.ram.u8[-8:]) == before
    bench.set_x(5, RAM - 4)
    bench.run([word])
    assert bench.trapped() == (cause, RAM, RAM - 4)


@pytest.mark.parametrize("width", LOADS)
def test_device_load_stops_asks_and_runs_again(bench: Bench, width: str) -> None:
    bench.set_x(5, OUTSIDE)
    bench.set_x(7, 77)
    assert bench.run([load(width, 7, 5, 8), addi(8, 7, 1)], count=2) == MMIO
    size = LOADS[width]
    assert (bench["MMIO_ADDRESS"], bench["MMIO_SIZE"], bench["MMIO_WRITE"]) == (OUTSIDE + 8, size, 0)
    assert (bench["PC"], bench.x(7)) == (RAM, 77)
    value = 0xFEDC_BA98_7654_3281 & (1 << 8 * size) - 1
    bench["MMIO_VALUE"] = value
    bench["MMIO_DONE"] = 1
    assert bench.hart.run() == BUDGET
    assert bench.x(7) == (value if "u" in width else extended(value, 8 * size) & MASK)
    assert bench.x(8) == bench.x(7) + 1 & MASK
    assert bench["MMIO_DONE"] == 0


@pytest.mark.parametrize("width", ["b", "h", "w", "d"])
def test_device_store_stops_and_goes_on(bench: Bench, width: str) -> None:
    bench.set_x(5, OUTSIDE)
    bench.set_x(7, 0x1122_3344_5566_7788)
    assert bench.run([store(width, 7, 5, 16), addi(8, 0, 1)], count=2) == MMIO
    assert (bench["MMIO_ADDRESS"], bench["MMIO_SIZE"], bench["MMIO_WRITE"]) == (OUTSIDE + 16, LOADS[width], 1)
    assert bench["MMIO_VALUE"] & (1 << 8 * LOADS[width]) - 1 == bench.x(7) & (1 << 8 * LOADS[width]) - 1
    bench["MMIO_DONE"] = 1
    assert bench.hart.run() == BUDGET
    assert (bench.x(8), bench["PC"], bench["MMIO_DONE"]) == (1, RAM + 8, 0)


def test_device_access_counts_as_one_instruction(bench: Bench) -> None:
    bench.set_x(5, OUTSIDE)
    assert bench.run([load("w", 7, 5), NOP], count=1) == MMIO
    bench["MMIO_DONE"] = 1
    assert bench.hart.run() == BUDGET
    assert (bench["PC"], bench["INSTRET"]) == (RAM + 4, 1)


def test_nothing_comes_between_a_device_access_and_its_answer(bench: Bench) -> None:
    bench.set_x(5, OUTSIDE)
    bench.run([load("w", 7, 5), NOP], count=2)
    bench["MMIO_VALUE"] = 3
    bench["MMIO_DONE"] = 1
    bench["MIE"], bench["MIP"], bench["MSTATUS"] = 2, 2, 8  # a software interrupt of S mode, not delegated
    bench["STOP_REQUEST"] = 1
    bench["MTVEC"] = RAM + 0x100
    bench["PC"] = RAM
    bench.hart.run()
    assert bench.x(7) == 3
    assert bench["MMIO_DONE"] == 0


def test_device_load_takes_the_answer_in_translated_space(bench: Bench) -> None:
    bench.map(0x4000_0000, OUTSIDE, RWX)
    bench.map(RAM, RAM, RWX)
    bench["PRIV"] = S_MODE
    bench.set_x(5, 0x4000_0000)
    assert bench.run([load("w", 7, 5, 4)]) == MMIO
    assert (bench["MMIO_ADDRESS"], bench["TVAL"]) == (OUTSIDE + 4, 0x4000_0004)
    bench["MMIO_VALUE"], bench["MMIO_DONE"] = signed(0x8000_0000), 1
    bench.hart.run()
    assert bench.x(7) == 0xFFFF_FFFF_8000_0000


def test_window_serves_a_page_without_python(bench: Bench) -> None:
    """A load and a plain store are served from the image; a mismatch of counts, or a message byte, asks Python."""
    image, kinds, counts = DATA, DATA + 0x100, DATA + 0x200
    host = bench.hart["RAM_HOST"] - RAM
    bench.bytes(kinds, bytes([0x11] * 16 + [0x00] * 16))
    bench.store(image, 0x8877_6655_4433_2211)
    row = [OUTSIDE, 32, host + image, host + kinds, host + counts, host + counts + 8, 1]
    bench.hart.set_windows([row])
    try:
        bench.set_x(5, OUTSIDE)
        bench.set_x(8, 0xABCD)
        assert bench.run([load("d", 7, 5), load("hu", 6, 5, 2), store("h", 8, 5, 8)]) == BUDGET
        assert (bench.x(7), bench.x(6)) == (0x8877_6655_4433_2211, 0x4433)
        assert bench.load(image + 8) == 0xABCD
        assert bench["PAGE_SERVED"] >= 2
        assert bench.run([load("w", 7, 5, 16)]) == MMIO  # a byte with side effects
        assert bench.run([load("d", 7, 5, 32)]) == MMIO  # outside the window
        bench.store(counts, 1)
        assert bench.run([load("d", 7, 5)]) == MMIO  # a posted write is under way
    finally:
        bench.hart.set_windows([])
        bench["MMIO_DONE"] = 0


def test_a_window_without_kinds_is_memory_at_any_alignment(bench: Bench) -> None:
    host = bench.hart["RAM_HOST"] - RAM
    bench.bytes(DATA, bytes(range(256)) * 32)
    bench.hart.set_windows([[OUTSIDE, 0x2000, host + DATA, 0, host + DATA, host + DATA]])
    try:
        bench.set_x(5, OUTSIDE + 0xFF0)
        assert bench.run([load("wu", 6, 5, 3), load("d", 7, 5, 12), store("w", 0, 5)]) == MMIO
        assert (bench.x(6), bench.x(7)) == (0xF6F5_F4F3, 0x0302_0100_FFFE_FDFC)
        assert (bench["MMIO_ADDRESS"], bench["MMIO_WRITE"]) == (OUTSIDE + 0xFF0, 1)
    finally:
        bench.hart.set_windows([])
        bench["MMIO_DONE"] = 0


@pytest.mark.parametrize(
    ("stride", "size", "offset", "value", "rung"),
    [
        (4, "h", 4, 0, 1), (4, "w", 4, 99, 1), (4, "w", 8, 0, None),
        (0, "w", 0, 1, 1), (0, "w", 0, 0, 0), (0, "w", 0, 2, None), (0, "w", 0, 0xFFFF_FFFF, None),
        (0, "w", 0, 1 << 40 | 1, 1), (0, "w", 0, 0x8003_0001, 1), (0, "h", 0, 1, None), (0, "w", 4, 1, None),
    ],
)  # fmt: skip
def test_a_store_rings_the_doorbell_of_its_place_or_of_its_value(
    bench: Bench, stride: int, size: str, offset: int, value: int, rung: int | None
) -> None:
    kinds, fds, counts = DATA, DATA + 0x100, DATA + 0x200
    host = bench.hart["RAM_HOST"] - RAM
    bench.bytes(kinds, bytes([0x22] * 16))
    bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    for index, bell in enumerate(bells):
        bench.store(fds + 4 * index, bell, 4)
    bench.hart.set_windows(
        [[OUTSIDE, 16, host + counts, host + kinds, host + counts, host + counts, 1, 0, stride, 2, host + fds, 0]]
    )
    try:
        bench.set_x(5, OUTSIDE)
        bench.set_x(6, value)
        reason = bench.run([store(size, 6, 5, offset)])
        assert reason == (MMIO if rung is None else BUDGET)
        assert [bool(select.select([bell], [], [], 0)[0]) for bell in bells] == [rung == 0, rung == 1]
    finally:
        bench.hart.set_windows([])
        bench["MMIO_DONE"] = 0
        for bell in bells:
            os.close(bell)


def test_time_stands_in_the_clock_page(bench: Bench) -> None:
    before = bench.clock.ticks()
    bench.run([csrrs(5, "time")])
    assert before <= bench.x(5) <= bench.clock.ticks()
