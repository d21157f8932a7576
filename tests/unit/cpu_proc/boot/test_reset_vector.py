"""The reset vector, executed: what firmware finds in its registers, and what the ROM says."""

from __future__ import annotations

import struct

from cpu_proc.board import Board
from cpu_proc.boot import reset_vector
from cpu_proc.boot.reset_vector import Rom
from cpu_proc.memory_map import MROM
from protocol.memory import GuestMemory
from tests.unit.cpu_proc.harness import BUDGET, RAM, Bench
from tests.unit.cpu_proc.test_board import wiring

START, TREE, NEXT = RAM + 0x100, RAM + 0x3F_0000, RAM + 0x20_0000


def test_the_code_runs_in_the_rom_and_sets_the_registers(bench: Bench) -> None:
    fitted = Board([bench.hart], GuestMemory(bench.ram, RAM), bench.irq, bench.clock, wiring(bench))
    fitted.rom.data = reset_vector.content(START, TREE, NEXT)
    bench.hart.enter_machine(MROM.base)
    bench["BUDGET"] = 6
    try:
        assert bench.hart.run() == BUDGET
    finally:
        bench.hart.set_windows([])
    assert bench["PC"] == START
    assert [bench.x(i) for i in (5, 10, 11, 12)] == [START, 0, TREE, MROM.base + reset_vector.INFO]


def test_the_information_for_opensbi() -> None:
    rom = Rom(reset_vector.content(START, TREE, NEXT))
    words = [rom.read(reset_vector.INFO + 8 * i, 8) for i in range(6)]
    assert words == [int.from_bytes(b"OSBI"[::-1], "big"), 2, NEXT, 1, 0, 0]


def test_a_rom_reads_zeros_behind_its_content_and_keeps_it() -> None:
    rom = Rom(struct.pack("<Q", 0x1122_3344_5566_7788))
    rom.write(0, 8, 0)
    assert [rom.read(at, 4) for at in (0, 4, 8, 0xEFFC)] == [0x5566_7788, 0x1122_3344, 0, 0]
