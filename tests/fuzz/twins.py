"""Two machines of one kind in one process, one on each engine, that get the same numbers of instructions to execute.

Instructions are their clock and all their devices are in the process, so both must be in the same state after each
count. No threads: whoever has the twins drives them. What a machine would sleep through is skipped.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpu_proc import saving
from cpu_proc.boot.config import BootConfig
from cpu_proc.clock import InstructionClock
from cpu_proc.engine import state as st
from cpu_proc.hart import INTERPRETER, TRANSLATOR, Hart
from cpu_proc.isa import abi
from cpu_proc.machine import Events, Machine
from cpu_proc.memory_map import DRAM_BASE
from protocol.layout import ClockPage, IrqPage
from tests.unit.cpu_proc.harness import anonymous, engine

_MASK = (1 << 64) - 1
_NEVER = _MASK
_PLACES_SHOWN = 8  # in memory
_COLLECT_EVERY = 8
_closed = itertools.count(1)
_FIRST_OWN = st.SLOTS["EXIT"]  # what precedes it is architectural
_OTHERS = [st.SLOTS[name] for name in st.SAVED if st.SLOTS[name] >= _FIRST_OWN]
_LIBC = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True)
class Guest:
    """What both machines run."""

    boot: BootConfig
    memory: int
    interrupts: str = "aia"
    bare: bool = False
    """It is over with the first access to a device."""


class Side:
    """One of the machines, on ``engine``; ``steps`` counts what it executed, instructions that trap included."""

    def __init__(self, guest: Guest, engine_name: str, state: Path | None = None, steps: int = 0) -> None:
        """Build the machine and put it at its start, or into the state saved in a folder after ``steps``."""
        self.guest = guest
        self.engine_name = engine_name
        self.steps = steps
        self.ended = ""
        self.console = bytearray()
        irq = IrqPage(anonymous(IrqPage.SIZE))
        irq.format()
        clock = InstructionClock(ClockPage(anonymous(ClockPage.SIZE)))
        events = Events(self.console.extend, lambda _state, _reason: None, self._was_reset)
        ram = anonymous(guest.memory)
        self.machine = Machine(
            engine(), ram, irq, clock, guest.boot, events, interrupts=guest.interrupts, engine_name=engine_name
        )
        self.hart: Hart = self.machine.harts[0]
        self._ram_host = self.hart["RAM_HOST"]
        self.machine.load_guest()
        if state:
            saving.load(self.machine, state)

    def _was_reset(self) -> None:
        self.ended = "reset"

    def advance(self, count: int) -> None:
        """Execute ``count`` instructions, or up to the guest's end."""
        self.steps += count
        self.hart["BUDGET"] = count
        while not self.ended:
            reason = self.hart.run()
            if reason == st.EXIT_BUDGET:
                break
            if reason == st.EXIT_WFI:
                self._skip_sleep()
            elif self.guest.bare and reason == st.EXIT_MMIO:
                self.ended = "access to a device"
            else:
                self.machine.serve(self.hart, reason)
            if self.machine.gate.ended:
                self.ended = f"power-off, exit status {self.machine.exit_status}"
        self.machine.board.rtc.tick()

    def _skip_sleep(self) -> None:
        """Let time jump to what ends WFI, as ``Machine`` does, but at once."""
        if self.hart.pending_enabled():
            return
        now = self.machine.clock.ticks()
        due = self.hart.next_timer(now)
        alarm = self.machine.board.rtc.next_alarm_s()
        if alarm is not None:
            due = min(due, now + int(alarm * 1e9) // st.TICK_NS + 1)
        if due != _NEVER:
            self.machine.clock.set_ticks(due)
        self.machine.board.rtc.tick()
        if not self.hart.pending_enabled():
            self.ended = "sleep that nothing ends"

    def picture(self) -> tuple[object, ...]:
        """Return what two machines must agree on, but for memory."""
        hart = self.hart
        slots = hart.state
        return (
            slots[:_FIRST_OWN].tobytes(),
            slots[_OTHERS].tobytes(),
            hart.x[:32].tobytes(),
            hart.f.tobytes(),
            self.ended,
        )

    def registers(self) -> dict[str, int]:
        """Return the same by name."""
        values = {name: self.hart[name] & _MASK for name in ("PC", "PRIV")}
        values |= {name: int(self.hart.x[i]) & _MASK for i, name in enumerate(abi.INTEGER)}
        values |= {name: int(self.hart.f[i]) & _MASK for i, name in enumerate(abi.FLOAT)}
        return values | {name: self.hart[name] & _MASK for name in st.SAVED if name not in values}

    def same_memory(self, other: Side) -> bool:
        """Tell whether both have the same in RAM."""
        return bool(_LIBC.memcmp(self._ram_host, other._ram_host, self.guest.memory) == 0)

    def memory_differences(self, other: Side) -> list[tuple[int, int, int]]:
        """Return the first places in RAM with what is there, here and in the other."""
        mine, theirs = np.frombuffer(self.machine.ram.u64, np.uint64), np.frombuffer(other.machine.ram.u64, np.uint64)
        places = np.flatnonzero(mine != theirs)[:_PLACES_SHOWN]
        found = [(DRAM_BASE + 8 * int(at), int(mine[at]), int(theirs[at])) for at in places]
        del mine, theirs  # memory with a view of it cannot be closed
        return found

    def close(self) -> None:
        """Give everything back."""
        self.machine.close()
        for shared in (self.machine.ram, self.machine.irq.shared, self.machine.clock.page.shared):
            shared.close()


class Twins:
    """A machine on the interpreter (``one``) and one on the translator (``other``)."""

    kinds: tuple[type[Side], type[Side]] = (Side, Side)

    def __init__(self, guest: Guest, state: Path | None = None, steps: int = 0) -> None:
        self.one = self.kinds[0](guest, INTERPRETER, state, steps)
        self.other = self.kinds[1](guest, TRANSLATOR, state, steps)

    def advance(self, count: int) -> None:
        """Have both execute ``count`` instructions."""
        self.one.advance(count)
        self.other.advance(count)

    @property
    def ended(self) -> str:
        """Say how the guest ended, if it has."""
        return self.one.ended

    def alike(self) -> bool:
        """Compare all but memory."""
        return self.one.picture() == self.other.picture()

    def same(self) -> bool:
        """Compare everything."""
        return self.alike() and self.one.same_memory(self.other)

    def differences(self) -> list[tuple[str, int, int]]:
        """Return names of registers and addresses, with what the interpreter has there and what the translator."""
        mine, theirs = self.one.registers(), self.other.registers()
        found = [(name, mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]]
        return found + [(f"memory {at:#x}", a, b) for at, a, b in self.one.memory_differences(self.other)]

    def close(self) -> None:
        """Give everything back."""
        self.one.close()
        self.other.close()
        if next(_closed) % _COLLECT_EVERY == 0:
            gc.collect()  # a machine's parts know one another: without this its tables stay, and it takes a while
