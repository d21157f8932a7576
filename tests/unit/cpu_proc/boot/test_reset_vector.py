"""The reset vector, executed: what firmware finds in its registers, and what the ROM says."""

from __future__ import annotations

import struct

from cpu_proc.boot import reset_vector
from cpu_proc.boot.reset_vector import Rom
from cpu_proc.memory_map import MROM
from tests.unit.cpu_proc.harness import RAM, Bench

START, TREE, NEXT = RAM + 0x100, RAM + 0x3F_0000, RAM + 0x20_0000


def test_the_code_leaves_the_registers_as_a_hart_finds_them(bench: Bench) -> None:
    """The same words in RAM, where they can be executed, against what ``enter_machine`` sets."""
    rom = reset_vector.content(START, TREE, NEXT)
    bench.ram.u8[: len(rom)] = rom
    bench.hart["PC"] = RAM
    bench.hart["BUDGET"] = 6
    bench.hart.run()
    executed = [int(bench.hart.x[i]) for i in (5, 10, 11)], bench.hart["PC"], int(bench.hart.x[12]) - RAM
    bench.hart.enter_machine(START, 0, TREE, reset_vector.INFO)
    assert executed == ([int(bench.hart.x[i]) for i in (5, 10, 11)], bench.hart["PC"], reset_vector.INFO - MROM.base)


def test_the_information_for_opensbi() -> None:
    rom = Rom(reset_vector.content(START, TREE, NEXT))
    words = [rom.read(reset_vector.INFO - MROM.base + 8 * i, 8) for i in range(6)]
    assert words == [int.from_bytes(b"OSBI"[::-1], "big"), 2, NEXT, 1, 0, 0]


def test_a_rom_reads_zeros_behind_its_content_and_keeps_it() -> None:
    rom = Rom(struct.pack("<Q", 0x1122_3344_5566_7788))
    rom.write(0, 8, 0)
    assert [rom.read(at, 4) for at in (0, 4, 8, 0xEFFC)] == [0x5566_7788, 0x1122_3344, 0, 0]
