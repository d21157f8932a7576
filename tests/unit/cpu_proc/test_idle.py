"""A hart whose instructions are the clock sleeps until something that can end its sleep, whatever its timers say."""

from __future__ import annotations

import threading
from pathlib import Path

from cpu_proc.boot.config import BootConfig
from cpu_proc.clock import InstructionClock
from cpu_proc.machine import OFF, RUNNING, Events, Machine
from protocol.layout import ClockPage, IrqPage
from tests.unit.cpu_proc.boot.files import elf
from tests.unit.cpu_proc.clockwork import ENTRY, MEMORY
from tests.unit.cpu_proc.harness import WFI_WORD, addi, anonymous, csrrw, engine, jal


def test_a_timer_that_is_past_and_not_enabled_ends_no_sleep(tmp_path: Path) -> None:
    words = [addi(5, 0, 1), csrrw(0, "stimecmp", 5), *[addi(0, 0, 0)] * 40, csrrw(0, "sie", 0), WFI_WORD, jal(0, 0)]
    code = b"".join(word.to_bytes(4, "little") for word in words)
    kernel = tmp_path / "sleeper"
    kernel.write_bytes(elf(entry=ENTRY, segments=((ENTRY, ENTRY, code, len(code)),)))
    irq = IrqPage(anonymous(IrqPage.SIZE))
    irq.format()
    clock = InstructionClock(ClockPage(anonymous(ClockPage.SIZE)))
    off = threading.Event()
    events = Events(lambda data: None, lambda state, reason: off.set() if state == OFF else None)
    machine = Machine(engine(), anonymous(MEMORY), irq, clock, BootConfig(kernel), events)
    machine.load_guest()
    machine.start()
    slept = not off.wait(0.5)
    times = [machine.do(clock.ticks).result(10) for _ in range(2)]
    state, retired = machine.state, machine.harts[0]["INSTRET"]
    machine.quit(0)
    machine.join()
    machine.close()
    for shared in (machine.ram, machine.irq.shared, machine.clock.page.shared):
        shared.close()
    assert slept
    assert state == RUNNING
    assert retired == len(words) - 1
    assert times[0] <= times[1]
