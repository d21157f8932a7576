"""Stepping, breakpoints and watchpoints over two real harts."""

from __future__ import annotations

import pytest

from cpu_proc.machine import PAUSED, RUNNING
from tests.unit.cpu_proc.gdbstub.conftest import Talk
from tests.unit.cpu_proc.harness import (
    EBREAK,
    NOP,
    RAM,
    WFI_WORD,
    addi,
    amo,
    csrrs,
    csrrsi,
    csrrwi,
    i_type,
    jal,
    load,
    lr,
    sc,
    store,
)

DATA = RAM + 0x2000
UART = 0x1000_0000
LOOP = (addi(5, 5, 1), NOP, jal(0, -8))


def test_a_step_is_one_instruction_of_one_hart(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk.start_at(RAM, RAM)

    assert talk("vCont;s:2") == "T05thread:2;"
    assert (talk.pc(0), talk.pc(1)) == (RAM, RAM + 4)
    assert talk("Hg1") == "OK"
    assert [talk("s") for _ in range(4)] == ["T05thread:1;"] * 4
    assert (talk.pc(0), talk.pc(1)) == (RAM + 4, RAM + 4)
    assert talk.machine.harts[0].x[5] == 2
    assert talk("vCont;s:1;c") == "T05thread:1;"  # the others stay where they are
    assert talk.pc(1) == RAM + 4


def test_continue_until_a_breakpoint_and_on_from_it(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk.start_at(RAM)
    talk("qSupported:swbreak+;hwbreak+")

    assert talk(f"Z0,{RAM + 4:x},4") == "OK"
    for turns in (1, 2, 3):
        assert talk("vCont;c") is None
        assert talk.stopped() == "T05swbreak:;thread:1;"
        assert talk.pc() == RAM + 4
        assert talk.machine.harts[0].x[5] == turns
    assert talk.machine.state == PAUSED
    assert talk.machine.reason == f"debugger: breakpoint at {RAM + 4:#x}"
    assert talk(f"z0,{RAM + 4:x},4") == "OK"
    assert talk(f"Z1,{RAM:x},4") == "OK"
    assert talk("c") is None
    assert talk.stopped() == "T05hwbreak:;thread:1;"


def test_a_client_that_does_not_know_of_kinds_is_not_told(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk(f"Z0,{RAM + 8:x},4")
    talk("c")

    assert talk.stopped() == "T05thread:1;"
    assert talk("?") == "T05thread:1;"


def test_a_breakpoint_in_code_that_was_executed_before_and_gone_again(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    assert talk("c") is None
    assert talk.interrupt() == "T02thread:1;"
    talk(f"Z0,{RAM:x},4")
    assert talk("c") is None
    assert talk.stopped() == "T05thread:1;"
    talk(f"z0,{RAM:x},4")
    before = int(talk.machine.harts[0].x[5])

    assert talk("c") is None
    while talk.machine.harts[0].x[5] < before + 1000:
        pass
    assert talk.machine.state == RUNNING
    assert talk.interrupt() == "T02thread:1;"


def test_breakpoints_on_compressed_code_and_across_pages(talk: Talk) -> None:
    at = RAM + 0xFFE
    talk.put(RAM + 0xFF8, NOP, 0x0001 | NOP << 16)  # nop, c.nop, half of nop
    talk.put(RAM + 0x1000, NOP >> 16 | 0x0001 << 16, 0x6F)
    talk.start_at(RAM + 0xFF8)
    for address in (RAM + 0xFFC, at):
        talk(f"Z0,{address:x},2")

    talk("c")
    assert (talk.stopped(), talk.pc()) == ("T05thread:1;", RAM + 0xFFC)
    talk("c")
    assert (talk.stopped(), talk.pc()) == ("T05thread:1;", at)
    talk("c")
    assert talk.interrupt() == "T02thread:1;"


def test_new_code_under_a_breakpoint_stops_too(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk(f"Z0,{RAM + 4:x},4")
    talk("c")
    talk.stopped()
    talk.put(RAM, addi(6, 6, 1), addi(7, 7, 1), jal(0, -8))
    talk.start_at(RAM)

    talk("c")
    assert talk.stopped() == "T05thread:1;"
    assert talk("s") == "T05thread:1;"
    assert talk.machine.harts[0].x[7] == 1


@pytest.mark.parametrize("kind", [2, 3, 4])
@pytest.mark.parametrize(
    ("word", "stores", "loads"),
    [
        (load("d", 6, 10), False, True),
        (load("b", 6, 10, 3), False, True),
        (load("d", 6, 10, -4), False, True),
        (load("d", 6, 11, -4), False, False),
        (store("d", 6, 10), True, False),
        (store("b", 6, 10, 7), True, False),
        (store("b", 6, 10, 8), False, False),
        (amo(0, 8, 7, 10, 6), True, True),
        (lr(8, 7, 10), False, True),
        (sc(8, 7, 6, 10), True, True),
        (i_type(0x07, 3, 1, 10, 0), False, True),  # fld
        (i_type(0x0F, 2, 0, 10, 4), True, False),  # cbo.zero
    ],
)
def test_every_access_to_watched_memory_stops_after_it(
    talk: Talk, kind: int, word: int, stores: bool, loads: bool
) -> None:
    expected = {2: stores, 3: loads, 4: stores or loads}[kind]
    talk.put(RAM, word, word, 0x6F)
    hart = talk.machine.harts[0]
    hart.x[10], hart.x[11], hart["MSTATUS"] = DATA, DATA + 4096, 0x6000
    talk(f"Z0,{RAM + 8:x},4")
    talk(f"Z{kind},{DATA:x},8")

    talk("c")
    reply, name = talk.stopped(), {2: "watch", 3: "rwatch", 4: "awatch"}[kind]
    if expected:
        assert reply == f"T05{name}:{DATA:x};thread:1;"
        assert talk.pc() == RAM + 4
        assert talk("vCont;s:1") == f"T05{name}:{DATA:x};thread:1;"  # a step tells of it as well
    assert talk(f"z{kind},{DATA:x},8") == "OK"
    if expected:
        talk("c")
        reply = talk.stopped()
    assert reply == "T05thread:1;"
    assert talk.pc() == RAM + 8


def test_an_access_across_two_pages_is_watched_on_either(talk: Talk) -> None:
    talk.put(RAM, store("d", 6, 10, -4), load("d", 7, 10, -4), 0x6F)
    talk.machine.harts[0].x[10] = DATA + 0x1000
    talk.machine.harts[0].x[6] = -2
    talk(f"Z4,{DATA + 0x1003:x},1")

    for after in (RAM + 4, RAM + 8):
        talk("c")
        assert talk.stopped() == f"T05awatch:{DATA + 0x1003:x};thread:1;"
        assert talk.pc() == after
    assert talk.machine.harts[0].x[7] == -2


def test_a_step_over_a_device_access_happens_once(talk: Talk) -> None:
    talk.put(RAM, store("b", 6, 10), load("b", 7, 10, 5), 0x6F)
    hart = talk.machine.harts[0]
    hart.x[10], hart.x[6] = UART, ord("x")
    talk.printed.clear()

    assert talk("s") == "T05thread:1;"
    assert (talk.pc(), bytes(talk.printed)) == (RAM + 4, b"x")
    assert talk("s") == "T05thread:1;"
    assert (talk.pc(), hart.x[7] & 0x60) == (RAM + 8, 0x60)  # LSR: transmitter empty


def test_a_watched_device_register_is_accessed_once(talk: Talk) -> None:
    talk.put(RAM, store("b", 6, 10), 0x6F)
    talk.machine.harts[0].x[10], talk.machine.harts[0].x[6] = UART, ord("y")
    talk.printed.clear()
    talk(f"Z2,{UART:x},1")

    talk("c")
    assert talk.stopped() == f"T05watch:{UART:x};thread:1;"
    assert (talk.pc(), bytes(talk.printed)) == (RAM + 4, b"y")


def test_stepping_over_wfi_and_into_a_trap(talk: Talk) -> None:
    talk.put(RAM, WFI_WORD, EBREAK)
    talk.put(RAM + 0x100, NOP)
    hart = talk.machine.harts[0]
    hart["MTVEC"] = RAM + 0x100

    assert talk("s") == "T05thread:1;"
    assert talk.pc() == RAM + 4
    assert talk("s") == "T05thread:1;"
    assert (talk.pc(), hart["MCAUSE"], hart["MEPC"]) == (RAM + 0x100, 3, RAM + 4)


def test_ebreak_is_the_guests_own_while_a_debugger_has_breakpoints(talk: Talk) -> None:
    talk.put(RAM, EBREAK)
    talk.put(RAM + 0x100, NOP, 0x6F)
    talk.machine.harts[0]["MTVEC"] = RAM + 0x100
    talk(f"Z0,{RAM + 0x104:x},4")

    talk("c")
    assert talk.stopped() == "T05thread:1;"
    assert (talk.pc(), talk.machine.harts[0]["MCAUSE"]) == (RAM + 0x104, 3)


def test_interrupts_wait_while_stepping_unless_asked_for(talk: Talk) -> None:
    talk.put(RAM, csrrwi(0, "mstatus", 8), NOP, NOP)
    talk.put(RAM + 0x100, NOP, NOP)
    hart = talk.machine.harts[0]
    hart["MTVEC"], hart["MIE"], hart["MIP"] = RAM + 0x100, 2, 2

    assert [talk("s"), talk("s")] == ["T05thread:1;"] * 2
    assert talk.pc() == RAM + 8
    assert talk("qqemu.sstep") == "0x7"
    assert talk("qqemu.sstepbits") == "ENABLE=1,NOIRQ=2,NOTIMER=4"
    assert talk("Qqemu.sstep=1") == "OK"
    assert talk("s") == "T05thread:1;"
    assert talk.pc() == RAM + 0x104


def test_guest_time_stands_while_stopped_and_stepping(talk: Talk) -> None:
    talk.put(RAM, csrrs(5, "time"), csrrs(6, "time"))
    before = talk.machine.clock.now_ns()

    assert [talk("s"), talk("s")] == ["T05thread:1;"] * 2
    assert talk.machine.harts[0].x[5] == talk.machine.harts[0].x[6]
    assert talk.machine.clock.now_ns() == before


def test_one_hart_runs_alone_when_asked_for(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk.start_at(RAM, RAM)
    talk(f"Z0,{RAM + 4:x},4")

    assert talk("vCont;c:2") is None
    assert talk.stopped() == "T05thread:2;"
    assert talk.pc(0) == RAM
    talk(f"z0,{RAM + 4:x},4")
    assert talk("vCont;c:2") is None
    while talk.machine.harts[1].x[5] < 100_000:
        pass
    assert talk.interrupt() == "T02thread:2;"
    assert talk.pc(0) == RAM


def test_both_harts_at_one_breakpoint_are_told_one_after_the_other(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk.start_at(RAM, RAM)
    talk(f"Z0,{RAM + 4:x},4")
    told = {"T05thread:1;": 0, "T05thread:2;": 0}
    while min(told.values()) < 5:
        talk("c")
        told[talk.stopped()] += 1

    counts = [int(hart.x[5]) for hart in talk.machine.harts]
    assert all(0 <= count - times <= 1 for count, times in zip(counts, told.values(), strict=True))  # none was passed


def test_a_breakpoint_in_one_address_space_is_of_its_virtual_address(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk.put(RAM + 0x1000, *LOOP)
    talk(f"Z0,{RAM + 0x1004:x},4")  # the same offset of another page

    assert talk("c") is None
    while talk.machine.harts[0].x[5] < 100:
        pass
    assert talk.interrupt() == "T02thread:1;"


def test_what_others_do_to_the_machine_is_noticed(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    assert talk("c") is None
    talk.do(talk.machine.pause)
    assert talk.stopped() == "T02thread:1;"
    talk.do(talk.machine.resume)
    assert talk("g") is not None  # answered between two instructions
    assert talk("s") == "T05thread:1;"  # which stops the machine
    assert talk.machine.state == PAUSED


def test_detach_leaves_nothing(talk: Talk) -> None:
    talk.put(RAM, *LOOP)
    talk(f"Z0,{RAM:x},4")
    talk(f"Z2,{RAM + 0x100:x},4")

    assert talk("D") == "OK"
    assert talk.machine.state == RUNNING
    assert talk.control.points.all() == []
    assert [(hart["BREAKS"], hart["WATCHES"]) for hart in talk.machine.harts] == [(0, 0)] * 2


def test_there_is_room_for_so_many_and_no_more(talk: Talk) -> None:
    replies = [talk(f"Z0,{RAM + 2 * n:x},2") for n in range(300)]
    assert replies == ["OK"] * 256 + ["E28"] * 44
    assert talk(f"Z2,{RAM:x},8") == "OK"
    assert talk(f"Z2,{RAM:x},8") == "OK"  # again
    assert talk(f"Z2,{RAM:x},{1 << 40:x}") == "E28"
    assert talk("Z5,0,0") == ""
    assert talk(f"z0,{RAM + 0x9000:x},2") == "OK"  # never set


def test_reset_while_stopped(talk: Talk) -> None:
    talk.put(RAM, csrrsi(0, "mstatus", 0), *LOOP)
    talk(f"Z0,{RAM + 8:x},4")
    talk("c")
    talk.stopped()

    assert talk.machine.harts[0]["BREAKS"] == 1
    talk.machine.harts[0].reset()
    talk.start_at(RAM)
    talk("c")
    assert talk.stopped() == "T05thread:1;"
