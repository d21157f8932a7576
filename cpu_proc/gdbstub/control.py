"""Run control: stop all harts, let them go, step one. All of it happens while every hart stands still (``Machine.do``).

A machine that a debugger has stopped is a paused one: guest time stands still, and ``orchestrator resume`` lets it go
as well. While one hart steps the others stay where they are, guest time stands still, and interrupts wait, as with
QEMU's default (``sstep`` = 7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cpu_proc.engine import state as st
from cpu_proc.gdbstub.points import Points
from cpu_proc.hart import NO_BUDGET, STARTED, Hart
from cpu_proc.machine import OFF, PAUSED, WAITING, Machine

SIGINT, SIGTRAP = 2, 5
STEP_ENABLE, STEP_NO_INTERRUPTS, STEP_NO_TIMERS = 1, 2, 4  # QEMU's sstep bits
STEP_ALL = STEP_ENABLE | STEP_NO_INTERRUPTS | STEP_NO_TIMERS

_ALONE = 50_000  # instructions of a hart that runs alone between two looks at what else there is to do
_NAP_S = 0.001
_WORDS = {"watch": "a write was watched", "rwatch": "a read was watched", "awatch": "an access was watched"}


@dataclass(frozen=True)
class Stop:
    """Why the machine stands; ``kind`` is gdb's word where there is one."""

    hart: int = 0
    signal: int = SIGTRAP
    kind: str = ""
    address: int = 0

    def reply(self, understood: Iterable[str]) -> bytes:
        """Return the stop reply for a client that understands these kinds of breakpoint."""
        kind = ""
        if self.kind in _WORDS:
            kind = f"{self.kind}:{self.address:x};"
        elif self.kind in understood:
            kind = f"{self.kind}:;"
        return f"T{self.signal:02x}{kind}thread:{self.hart + 1:x};".encode()

    def words(self) -> str:
        """Return it for people."""
        if self.kind in _WORDS:
            return f"debugger: {_WORDS[self.kind]}, at {self.address:#x}"
        if self.kind:
            return f"debugger: breakpoint at {self.address:#x}"
        return "debugger: interrupted"


class Control:
    """The machine in the hands of one client at a time.

    ``send`` takes the reply that a client waits for while the harts run; it is called on any thread.
    """

    def __init__(self, machine: Machine, send: Callable[[Stop], None]) -> None:
        self.machine = machine
        self.points = Points(machine.harts)
        self.stop = Stop()
        self.step_flags = STEP_ALL
        self._send = send
        self._attached = False
        self._waiting = False
        self._alone: list[Hart] = []
        self._also: dict[int, Stop] = {}
        """Harts that came to a breakpoint while the machine was being stopped for another."""

    # a client comes and goes

    def attach(self) -> None:
        """Stop the machine for a client."""
        self._attached = True
        self.stop = Stop()
        self.machine.pause("debugger: connected")
        self.settle()

    def detach(self) -> None:
        """Take all breakpoints away and let the machine go, once."""
        attached, self._attached = self._attached, False
        self.points.clear()
        self.step_flags = STEP_ALL
        self._waiting = False
        self._alone = []
        self._also = {}
        if attached and not self.machine.gate.ended:
            self.machine.resume()

    def settle(self) -> None:
        """Finish accesses that Python has served and whose instruction has yet to run again."""
        for hart in self.machine.harts:
            if hart["MMIO_DONE"]:
                self._advance(hart, 0, st.PASS_BREAKS | st.PASS_WATCHES | st.HOLD_INTERRUPTS)

    # what the client asks for

    def interrupt(self) -> None:
        """Stop, if the client waits for that."""
        if self._waiting:
            self._halt(Stop(self.stop.hart, SIGINT))

    def go(self, harts: list[Hart]) -> None:
        """Let ``harts`` run; the client waits for what stops them. A breakpoint where one stands is not hit again."""
        self._waiting = True
        if not self._has_begun():
            self.machine.resume()
            return
        first = self.machine.harts[self.stop.hart]
        if first in harts and self.points.break_at(first["PC"]):
            stop = self._step(first)
            if stop.kind:
                self._halt(stop)
                return
        also, self._also = self._also, {}
        for stop in also.values():
            hart = self.machine.harts[stop.hart]
            if hart in harts and hart is not first and self._stop_of(hart) == stop:
                self._halt(stop)
                return
        if self.machine.gate.ended:  # by that very instruction; the client hears of it from the machine
            return
        if len(harts) == len(self.machine.harts):
            self.machine.resume()
        else:
            self._alone = harts
            self.machine.clock.start()
            self._run_alone()

    def step(self, harts: list[Hart]) -> None:
        """Let each of ``harts`` execute one instruction."""
        self.machine.pause("debugger: stepping")
        self.settle()
        stops = [self._step(hart) for hart in harts] if self._has_begun() else [Stop(hart.index) for hart in harts]
        self.stop = next((stop for stop in stops if stop.kind), stops[0])

    # what the machine tells

    def hit(self, hart: Hart) -> None:
        """Stop, for ``hart`` stands before a breakpoint or an access that is watched; unless that has gone since."""
        stop = self._stop_of(hart)
        if stop is None:
            return
        if self.machine.gate.held:  # for another; what is watched here will be met again
            if stop.kind not in _WORDS:
                self._also[hart.index] = stop
            return
        if stop.kind in _WORDS:  # gdb compares the value before with the one after
            self._advance(hart, 1, st.PASS_BREAKS | st.PASS_WATCHES | st.HOLD_INTERRUPTS)
        self._halt(stop)

    def paused(self) -> None:
        """The machine was paused, perhaps by somebody else."""
        if self._waiting and not self._alone:
            self._halt(Stop(self.stop.hart, SIGINT))

    def ended(self) -> bool:
        """The machine has ended; tell whether the client waits to hear of it."""
        waiting, self._waiting = self._waiting, False
        return waiting

    def _halt(self, stop: Stop) -> None:
        waiting, self._waiting = self._waiting, False
        self.stop = stop
        if self._alone:
            self._alone = []
            self.machine.clock.stop()
        self.machine.pause(stop.words())
        self.settle()
        if waiting:
            self._send(stop)

    def _has_begun(self) -> bool:
        return self.machine.state not in (WAITING, OFF) and not self.machine.gate.ended

    def _stop_of(self, hart: Hart) -> Stop | None:
        row, hart["WATCH_HIT"] = hart["WATCH_HIT"], 0
        if row:
            found = self.points.watch(row)
            return None if found is None else Stop(hart.index, SIGTRAP, *found)
        kind = self.points.break_at(hart["PC"])
        return Stop(hart.index, SIGTRAP, kind, hart["PC"] & (1 << 64) - 1) if kind else None

    def _step(self, hart: Hart) -> Stop:
        """Execute one instruction, whatever it is: one that traps ends at its handler, WFI does not wait."""
        flags = st.PASS_BREAKS | (st.HOLD_INTERRUPTS if self.step_flags & STEP_NO_INTERRUPTS else 0)
        if not self.step_flags & STEP_NO_TIMERS:
            self.machine.clock.start()
        try:
            if self._advance(hart, 1, flags):
                stop = self._stop_of(hart)
                self._advance(hart, 1, flags | st.PASS_WATCHES)
                return stop or Stop(hart.index)
            return Stop(hart.index)
        finally:
            if self.machine.state == PAUSED:
                self.machine.clock.stop()

    def _run_alone(self) -> None:
        """Run some harts for a while, the others standing; then let others have their work done, and go on."""
        if not self.machine.gate.held:  # somebody has let all of them go
            self._alone = []
        idle = True
        for hart in self._alone:
            if hart.condition == STARTED and self._advance(hart, _ALONE, st.NO_SLEEP):
                stop = self._stop_of(hart)
                if stop is not None:
                    if stop.kind in _WORDS:
                        self._advance(hart, 1, st.PASS_BREAKS | st.PASS_WATCHES | st.HOLD_INTERRUPTS)
                    self._halt(stop)
                    return
            idle = idle and hart.condition != STARTED
        if self._alone and not self.machine.gate.ended:
            if idle:
                time.sleep(_NAP_S)
            self.machine.do(self._run_alone)

    def _advance(self, hart: Hart, count: int, flags: int) -> bool:
        """Execute up to ``count`` instructions, and what was begun; tell whether a point was hit."""
        hart["STEPPING"], hart["BUDGET"] = flags, count
        try:
            while (hart["BUDGET"] > 0 or hart["MMIO_DONE"]) and hart.condition == STARTED:
                if self.machine.gate.ended:
                    return False
                hart["STOP_REQUEST"] = 0  # what it asks for is what this is
                reason = hart.run()
                if reason == st.EXIT_DEBUG:
                    return True
                if reason == st.EXIT_WFI:
                    return False
                if reason != st.EXIT_BUDGET:
                    self.machine.serve(hart, reason)
            return False
        finally:
            hart["STEPPING"], hart["BUDGET"] = 0, NO_BUDGET
