"""Harts on threads: atomics that count exactly, messages that wake, and fences that hold once they are seen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from cpu_proc import memory_map as mm
from cpu_proc.engine import state as st
from tests.unit.cpu_proc.gang import LINE, RESULTS, SHARED, STOP, Gang, assemble, to
from tests.unit.cpu_proc.harness import (
    MRET,
    RAM,
    RWX,
    WFI_WORD,
    Bench,
    V,
    addi,
    amo,
    b_type,
    csrrs,
    csrrw,
    csrrwi,
    jal,
    jalr,
    load,
    lr,
    r_type,
    sc,
    store,
)

FIRST, SECOND, THIRD = (SHARED + LINE * n for n in (1, 2, 3))
TABLES, ROUTINE = RAM + 0x18_0000, RAM + 0x8000
PAGES = (RAM + 0x19_0000, RAM + 0x19_1000)
VA = 0x4000_0000
FENCE = 0x0330_000F
AQ, RL = 2 << 25, 1 << 25
POISON = 0x666
AMOADD, AMOSWAP = 0, 1


@pytest.fixture(scope="module")
def _gang() -> Iterator[Gang]:
    gang = Gang(4)
    yield gang
    gang.close()


@pytest.fixture
def gang(_gang: Gang) -> Gang:
    """Return four harts that do nothing yet."""
    _gang.reset()
    return _gang


def adding(times: int) -> list[int]:
    """Return a program that adds one to a doubleword and a word, many times."""
    return assemble(
        "again",
        amo(AMOADD, 8, 0, 10, 6),
        amo(AMOADD, 4, 0, 11, 6),
        addi(7, 7, -1),
        to("again", lambda offset: b_type(1, 7, 0, offset)),
    )


def reserving(width: int) -> list[int]:
    """Return a program that does the same with load-reserved and store-conditional."""
    return assemble(
        "again",
        lr(width, 28, 10),
        addi(28, 28, 1),
        sc(width, 29, 28, 10),
        to("again", lambda offset: b_type(1, 29, 0, offset)),
        addi(7, 7, -1),
        to("again", lambda offset: b_type(1, 7, 0, offset)),
    )


@pytest.mark.parametrize("count", [2, 4])
def test_atomic_adds_all_count(gang: Gang, count: int) -> None:
    times = 1_000_000
    for index in range(count):
        gang.program(index, adding(times), x6=1, x7=times, x10=FIRST, x11=SECOND)
    gang.start(*range(count))
    gang.finish()
    assert (gang.load(FIRST), gang.load(SECOND)) == (count * times, count * times)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("width", [4, 8])
def test_reservations_all_count(gang: Gang, count: int, width: int) -> None:
    times = 300_000
    for index in range(count):
        gang.program(index, reserving(width), x7=times, x10=FIRST)
    gang.start(*range(count))
    gang.finish()
    assert gang.load(FIRST) == count * times


def test_adds_and_reservations_on_one_word_all_count(gang: Gang) -> None:
    times = 300_000
    for index in range(4):
        words = reserving(8) if index & 1 else adding(times)
        gang.program(index, words, x6=1, x7=times, x10=FIRST, x11=SECOND)
    gang.start()
    gang.finish()
    assert (gang.load(FIRST), gang.load(SECOND)) == (4 * times, 2 * times)


def test_another_process_counts_with_the_harts(gang: Gang) -> None:
    """Memory is shared with device processes, whose atomics are the host's."""
    times = 1_000_000
    gang.program(0, adding(times), x6=1, x7=times, x10=FIRST, x11=SECOND)
    gang.program(1, reserving(8), x7=times, x10=FIRST)
    gang.program(2, adding(times), x6=1, x7=times, x10=FIRST, x11=SECOND)
    child = os.fork()
    if child == 0:
        gang.harts[2]["BUDGET"] = 100 * times
        gang.harts[2].run()
        os._exit(0)
    gang.start(0, 1)
    assert os.waitpid(child, 0)[1] == 0
    gang.finish()
    assert (gang.load(FIRST), gang.load(SECOND)) == (3 * times, 2 * times)


def test_lock_keeps_others_out(gang: Gang) -> None:
    """Loads and stores between amoswap.aq and amoswap.rl are one hart's at a time."""
    times = 50_000
    words = assemble(
        "again",
        amo(AMOSWAP, 8, 28, 10, 6) | AQ,
        to("again", lambda offset: b_type(1, 28, 0, offset)),
        load("d", 29, 11),
        addi(29, 29, 1),
        store("d", 29, 11),
        amo(AMOSWAP, 8, 0, 10, 0) | RL,
        addi(7, 7, -1),
        to("again", lambda offset: b_type(1, 7, 0, offset)),
    )
    for index in range(3):
        gang.program(index, words, x6=1, x7=times, x10=FIRST, x11=SECOND)
    gang.start(0, 1, 2)
    gang.finish()
    assert gang.load(SECOND) == 3 * times


def test_store_conditional_does_not_notice_a_value_that_came_back(bench: Bench) -> None:
    """Known limit, QEMU's too: what is compared is the value. Sequences that lock or count are not hurt by it."""
    bench.set_x(5, FIRST)
    bench.set_x(6, 42)
    bench.store(FIRST, 1)
    bench.run([lr(8, 7, 5), sc(8, 8, 6, 5)], count=1)
    bench.store(FIRST, 2)
    bench.store(FIRST, 1)
    bench.step()
    assert (bench.x(8), bench.load(FIRST)) == (0, 42)


# waking


def asleep(gang: Gang, index: int) -> None:
    """Wait until a hart sleeps."""
    deadline = time.monotonic() + 10
    while not gang.harts[index]["SLEEPING"]:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_software_interrupt_wakes_a_sleeping_hart(gang: Gang) -> None:
    gang.words(RAM + 0x7000, [store("d", 6, 10), csrrw(0, "mie", 0), MRET])
    hart = gang.program(0, [WFI_WORD], x6=7, x10=FIRST)
    hart["MIE"], hart["MTVEC"], hart["SLEEP_NS"] = 1 << 3, RAM + 0x7000, 60_000_000_000
    gang.start(0)
    asleep(gang, 0)
    hart.set_line(3, 1)
    gang.finish()
    hart.set_line(3, 0)
    assert (gang.load(FIRST), hart["MCAUSE"]) == (7, -(1 << 63) | 3)


def test_message_of_one_hart_interrupts_another(gang: Gang) -> None:
    """By a store to the IMSIC's page, without Python (AIA §3.2)."""
    gang.words(RAM + 0x7000, [csrrw(20, "stopei", 0), store("d", 20, 10), csrrwi(0, "sie", 0), 0x1020_0073])
    sleeper = gang.program(0, [WFI_WORD], x10=FIRST)
    sleeper["MIE"], sleeper["STVEC"], sleeper["MSTATUS"] = 1 << 9, RAM + 0x7000, 1 << 1
    sleeper["SI_DELIVERY"], sleeper["SI_EIE1"], sleeper["SLEEP_NS"] = 1, 1 << 36, 60_000_000_000
    gang.start(0)
    asleep(gang, 0)
    threads = gang.threads
    gang.program(1, [store("w", 6, 10)], x6=100, x10=mm.IMSIC_S.base)
    gang.start(1)
    gang.threads += threads
    gang.finish()
    assert (gang.load(FIRST), sleeper["SCAUSE"]) == (100 << 16 | 100, -(1 << 63) | 9)
    assert gang.harts[1].exits["mmio"] == 0


def test_no_message_is_lost_between_looking_and_sleeping(gang: Gang) -> None:
    """Two harts send one another a message for each they receive, and sleep in between."""
    times = 10_000
    words = assemble(
        to("send", lambda offset: b_type(1, 9, 0, offset)),  # who begins
        "again",
        WFI_WORD,
        csrrw(20, "stopei", 0),
        to("again", lambda offset: b_type(0, 20, 0, offset)),
        addi(8, 8, 1),
        "send",
        store("w", 6, 10),
        addi(7, 7, -1),
        to("again", lambda offset: b_type(1, 7, 0, offset)),
    )
    for index in (0, 1):
        hart = gang.program(index, words, x6=3, x7=times, x9=1 - index, x10=mm.IMSIC_S.base + 0x1000 * (1 - index))
        hart["MIE"], hart["SLEEP_NS"] = 1 << 9, 60_000_000_000
        hart["SI_DELIVERY"], hart["SI_EIE0"] = 1, 1 << 3
    gang.start(0, 1)
    gang.finish()
    assert [int(gang.harts[index].x[8]) for index in (0, 1)] == [times - 1, times]


# remote fences


def await_seen(gang: Gang, request: int) -> None:
    """Ask hart 0 to forget something, and return when it has."""
    hart = gang.harts[0]
    number = hart.post("POSTED_FLUSH", request)
    deadline = time.monotonic() + 10
    while not hart.has_seen(number):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("access", ["load", "store"])
def test_no_stale_translation_after_a_remote_fence(gang: Gang, access: str) -> None:
    """One page is mapped, then the other; the former is spoilt as soon as the fence is seen."""
    gang.store(TABLES + 2 * 8, RAM >> 12 << 10 | RWX)  # a gigabyte: code and everything else
    gang.store(TABLES + 8, TABLES + 0x1000 >> 12 << 10 | V)
    gang.store(TABLES + 0x1000, TABLES + 0x2000 >> 12 << 10 | V)
    entry = TABLES + 0x2000
    gang.store(entry, PAGES[0] >> 12 << 10 | RWX)
    use = (
        [load("d", 28, 11), to("bad", lambda offset: b_type(0, 28, 9, offset))]
        if access == "load"
        else [store("d", 9, 11)]
    )
    words = assemble(
        "again",
        *use,
        addi(6, 6, 1),
        load("d", 7, 5),
        to("again", lambda offset: b_type(0, 7, 0, offset)),
        to("end", lambda offset: jal(0, offset)),
        "bad",
        store("d", 9, 10),
        "end",
    )
    hart = gang.program(0, words, x5=STOP, x9=POISON, x10=FIRST, x11=VA)
    hart["SATP"] = 8 << 60 | TABLES >> 12
    gang.start(0)
    until = time.monotonic() + 0.7
    rounds = 0
    while time.monotonic() < until:
        old, new = PAGES[rounds & 1], PAGES[~rounds & 1]
        gang.store(entry, new >> 12 << 10 | RWX)
        await_seen(gang, st.FLUSH_TRANSLATIONS)
        gang.store(old, POISON if access == "load" else 0)
        time.sleep(0.0002)
        if access == "store":
            assert gang.load(old) == 0
        gang.store(old, 0)
        rounds += 1
    gang.finish()
    assert gang.load(FIRST) == 0
    assert rounds > 10
    assert hart.x[6] > rounds


def test_no_stale_code_after_a_remote_fence(gang: Gang) -> None:
    """A routine returns its number; who has read that a number is out must get it or a later one."""
    words = assemble(
        "again",
        load("d", 8, 10),
        FENCE,
        jalr(1, 11),
        to("bad", lambda offset: b_type(6, 7, 8, offset)),
        addi(6, 6, 1),
        load("d", 28, 5),
        to("again", lambda offset: b_type(0, 28, 0, offset)),
        to("end", lambda offset: jal(0, offset)),
        "bad",
        store("d", 6, 12),
        "end",
    )
    gang.words(ROUTINE, [addi(7, 0, 0), jalr(0, 1)])
    hart = gang.program(0, words, x5=STOP, x6=1, x10=FIRST, x11=ROUTINE, x12=SECOND)
    gang.start(0)
    until = time.monotonic() + 1
    number = 0
    while time.monotonic() < until and number < 2047:
        number += 1
        gang.words(ROUTINE, [addi(7, 0, number)])
        await_seen(gang, st.FLUSH_CODE)
        gang.store(FIRST, number)
    gang.finish()
    assert gang.load(SECOND) == 0
    assert number > 10
    assert hart.x[7] <= number


def test_hart_writes_code_for_another(gang: Gang) -> None:
    """The writer stores, fences and posts; the reader executes fence.i itself (unprivileged §7.1)."""
    fence_i = 0x0000_100F
    reader = assemble(
        "again",
        load("d", 8, 10),
        FENCE,
        fence_i,
        jalr(1, 11),
        to("bad", lambda offset: b_type(6, 7, 8, offset)),
        load("d", 28, 5),
        to("again", lambda offset: b_type(0, 28, 0, offset)),
        to("end", lambda offset: jal(0, offset)),
        "bad",
        store("d", 8, 12),
        "end",
    )
    writer = assemble(
        "again",
        addi(6, 6, 1),
        addi(13, 13, 0),
        r_type(0x33, 0, 0, 14, 14, 15),  # the next immediate
        store("w", 14, 11),
        FENCE,
        store("d", 6, 10),
        load("d", 28, 5),
        to("end", lambda offset: b_type(1, 28, 0, offset)),
        to("again", lambda offset: b_type(1, 6, 16, offset)),
        "end",
    )
    gang.words(ROUTINE, [addi(7, 0, 0), jalr(0, 1)])
    gang.program(0, reader, x5=STOP, x10=FIRST, x11=ROUTINE, x12=SECOND)
    gang.program(1, writer, x5=STOP, x6=0, x10=FIRST, x11=ROUTINE, x14=addi(7, 0, 0), x15=1 << 20, x16=2047)
    gang.start(0, 1)
    gang.finish(0.3)
    assert gang.load(SECOND) == 0
    assert gang.load(FIRST) > 10


def test_reset_hart_answers_old_posts(gang: Gang) -> None:
    """Whoever waits for a number that was posted before a reset is not kept waiting."""
    hart = gang.harts[0]
    number = hart.post("POSTED_FLUSH", st.FLUSH_CODE)
    hart["RUNNING"] = 1
    assert not hart.has_seen(number)
    hart.reset()
    assert hart.has_seen(number)
    hart["RUNNING"] = 0
    assert hart.post("POSTED_FLUSH", 0) > number


def test_time_is_one_for_all(gang: Gang) -> None:
    """A time read after another hart's time has been seen is no earlier."""
    words = assemble(
        "again",
        load("d", 28, 11),
        FENCE,
        csrrs(29, "time"),
        to("bad", lambda offset: b_type(6, 29, 28, offset)),
        store("d", 29, 10),
        load("d", 30, 5),
        to("again", lambda offset: b_type(0, 30, 0, offset)),
        to("end", lambda offset: jal(0, offset)),
        "bad",
        store("d", 28, 12),
        "end",
    )
    for index in (0, 1):
        gang.program(index, words, x5=STOP, x10=(FIRST, SECOND)[index], x11=(SECOND, FIRST)[index], x12=THIRD)
    gang.start(0, 1)
    gang.finish(0.3)
    assert gang.load(THIRD) == 0
    assert gang.load(FIRST) > 0
    assert gang.load(RESULTS) == 0
