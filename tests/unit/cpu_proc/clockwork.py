"""A guest that nobody talks to: it reckons, sleeps, takes timer interrupts, writes memory, and powers off.

    python -m tests.unit.cpu_proc.clockwork FOLDER [--state STATE]

runs it with instructions as the clock and prints the instructions retired and a hash of memory.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cpu_proc import saving
from cpu_proc.boot.config import BootConfig
from cpu_proc.clock import InstructionClock
from cpu_proc.machine import OFF, Events, Machine
from protocol.layout import ClockPage, IrqPage
from tests.unit.cpu_proc.boot.files import elf
from tests.unit.cpu_proc.harness import (
    ECALL,
    RAM,
    SRET,
    WFI_WORD,
    addi,
    anonymous,
    b_type,
    csrrs,
    csrrsi,
    csrrw,
    engine,
    i_type,
    jal,
    load,
    r_type,
    store,
)

MEMORY = 16 << 20
ENTRY = RAM + (2 << 20)
HANDLER = 0x200  # bytes after the entry
ROUNDS = 120_000


def program(rounds: int = ROUNDS) -> bytes:
    """Return the guest as an ELF file; it is entered in S mode."""

    def upper(rd: int, value: int) -> int:
        return (value + 0x800 & 0xFFFF_F000) | rd << 7 | 0x37

    def constant(rd: int, value: int) -> list[int]:
        return [upper(rd, value), addi(rd, rd, (value & 0xFFF) - (value & 0x800) * 2)]

    def auipc(rd: int) -> int:
        return rd << 7 | 0x17

    # x5 scratch, x6 random, x7 rounds left, x8 table, x9 interrupts
    start = [
        auipc(5), addi(5, 5, HANDLER), csrrw(0, "stvec", 5),
        auipc(8), upper(5, 0x10_0000), r_type(0x33, 0, 0, 8, 8, 5),
        csrrs(5, "time"), addi(5, 5, 700), csrrw(0, "stimecmp", 5),
        addi(5, 0, 0x20), csrrw(0, "sie", 5), csrrsi(0, "sstatus", 2),
        *constant(7, rounds), addi(6, 0, 1), addi(9, 0, 0),
    ]  # fmt: skip
    again = [
        *constant(5, 0x41C6_4E6D), r_type(0x33, 0, 1, 6, 6, 5), addi(6, 6, 1601),  # a linear congruence
        i_type(0x13, 5, 5, 6, 24), *constant(10, 0x7FF8), r_type(0x33, 7, 0, 5, 5, 10),
        r_type(0x33, 0, 0, 5, 5, 8), load("d", 10, 5), r_type(0x33, 4, 0, 10, 10, 6), store("d", 10, 5),
        addi(7, 7, -1), i_type(0x13, 7, 5, 7, 0x3FF), b_type(1, 5, 0, 8), WFI_WORD,
    ]  # fmt: skip
    back = [b_type(1, 7, 0, -4 * len(again))]
    end = [*constant(17, 0x5352_5354), addi(16, 0, 0), addi(10, 0, 0), addi(11, 0, 0), ECALL, jal(0, 0)]
    handler = [
        csrrs(28, "time"), store("d", 28, 8, -8), addi(28, 28, 700), csrrw(0, "stimecmp", 28), addi(9, 9, 1),
        store("d", 9, 8, -16), SRET,
    ]  # fmt: skip
    words = [*start, *again, *back, *end]
    assert len(words) * 4 <= HANDLER
    words += [0] * (HANDLER // 4 - len(words)) + handler
    code = b"".join(word.to_bytes(4, "little") for word in words)
    return elf(entry=ENTRY, segments=((ENTRY, ENTRY, code, len(code)),))


def machine(kernel: Path, ended: Callable[[], None]) -> Machine:
    """Return a machine with one hart that is ready to begin."""
    irq = IrqPage(anonymous(IrqPage.SIZE))
    irq.format()
    clock = InstructionClock(ClockPage(anonymous(ClockPage.SIZE)))
    events = Events(lambda data: None, lambda state, reason: ended() if state == OFF else None)
    built = Machine(engine(), anonymous(MEMORY), irq, clock, BootConfig(kernel), events)
    built.load_guest()
    return built


def result(ran: Machine) -> tuple[int, str]:
    """Return what a run is compared by."""
    return ran.harts[0]["INSTRET"], hashlib.sha256(bytes(ran.ram.u8)).hexdigest()


def finish(built: Machine, off: threading.Event) -> tuple[int, str]:
    """Run to the end and give everything back."""
    built.start()
    assert off.wait(120)
    built.join()
    found = result(built)
    built.close()
    for shared in (built.ram, built.irq.shared, built.clock.page.shared):
        shared.close()
    return found


def main() -> int:
    """Run the guest in this process."""
    parser = argparse.ArgumentParser(prog="clockwork")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--state", type=Path)
    arguments = parser.parse_args()
    kernel = arguments.folder / "clockwork"
    kernel.write_bytes(program())
    off = threading.Event()
    built = machine(kernel, off.set)
    if arguments.state:
        saving.load(built, arguments.state)
    print(*finish(built, off))
    return 0


if __name__ == "__main__":
    sys.exit(main())
