"""The machine: memory, harts, their threads, and the loop that serves them.

Each hart has a thread. Compiled code runs outside any lock; whatever a hart needs of Python is served under the
machine's lock (docs/decisions/0006). Other threads hand work over: ``do`` runs a function while all harts stand still,
``console_input`` leaves bytes.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpu_proc import memory_map as mm
from cpu_proc.board import Board, Fitting, Wiring
from cpu_proc.boot import loader, tree
from cpu_proc.boot.config import BootConfig
from cpu_proc.boot.sbi import Sbi
from cpu_proc.calls import Calls
from cpu_proc.clock import REAL, GuestClock, InstructionClock
from cpu_proc.engine import state as st
from cpu_proc.gate import Gate
from cpu_proc.hart import INTERPRETER, LONGEST_SLEEP_NS, NO_BUDGET, STARTED, STOPPED, SUSPENDED, Hart
from cpu_proc.remote import Remote
from protocol.errors import SOFTWARE, BusvmError
from protocol.layout import IrqPage
from protocol.memory import GuestMemory, Shared, full_fence

logger = logging.getLogger(__name__)

WAITING, RUNNING, PAUSED, STALLED, OFF = "waiting", "running", "paused", "stalled", "off"
_LONGEST_SLEEP_S = 1.0
_ALARM_BUDGET = 20_000_000  # instructions, about a tenth of a second
_NEVER = (1 << 64) - 1


@dataclass
class Events:
    """What the machine tells its owner; each is called on a hart's thread."""

    console: Callable[[bytes], None]
    state: Callable[[str, str], None]
    reset: Callable[[], None] = lambda: None
    debug: Callable[[Hart], None] = lambda _hart: None
    """A hart stands before a breakpoint or an access that is watched."""


class Machine:
    """One VM's machine. ``start`` begins execution; the owner watches ``Events.state`` for ``off``."""

    def __init__(
        self,
        engine: Any,
        ram: Shared,
        irq: IrqPage,
        clock: GuestClock,
        boot: BootConfig,
        events: Events,
        cpus: int = 1,
        interrupts: str = "aia",
        engine_name: str = INTERPRETER,
        ports: int = 0,
    ) -> None:
        self._engine = engine
        self.ram = ram
        self.memory = GuestMemory(ram, mm.DRAM_BASE)
        self.irq = irq
        self.clock = clock
        self.boot_config = boot
        self.events = events
        self.interrupts = interrupts
        self.state, self.reason = WAITING, ""
        self.exit_status = 0
        self.blob = b""
        self.first_instruction_ns = 0
        self.irq_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.harts = [Hart(index, engine, ram, mm.DRAM_BASE, irq, clock.page) for index in range(cpus)]
        self._watch = np.zeros(1, np.int64)
        for hart in self.harts:
            hart.connect(self.harts, self._watch, self.irq_event)
            hart.use(engine_name)
        if isinstance(clock, InstructionClock):
            clock.follow(self.harts[0])
        self.gate = Gate(self.harts)
        self.sbi = Sbi(self)
        self._input: deque[bytes] = deque()
        self._threads: list[threading.Thread] = []
        self._running = 0  # threads
        self._reset_wanted = False
        self._serving: Hart | None = None
        self._calls: Calls | None = None  # most machines have no use for it
        self._memory: list[list[int]] = []  # the rows of memory that the harts may have in their TLBs
        wiring = Wiring(self.events.console, self.power_off, self.request_reset, self._set_windows)
        fitting = Fitting(interrupts, boot.flash, boot.files, ports)
        self.board = Board(self.harts, self.memory, irq, clock, wiring, fitting)

    def _set_windows(self, rows: list[list[int]]) -> None:
        """Replace the windows; what harts know of memory in the old ones is forgotten when this returns.

        The hart that is served, and those that stand still, forget it before their next instruction.
        """
        old = [hart.set_windows(rows) for hart in self.harts]
        memory = [row[: st.W_MATCHES] for row in rows if row[st.W_MEMORY :][:1] > [0]]
        if memory != self._memory:
            self._memory = memory
            for hart in self.harts:
                hart.post("POSTED_FLUSH", st.FLUSH_TRANSLATIONS)
        self.gate.settle(self._serving)  # another hart may be reading the old ones
        del old
        self._route_calls()

    # what other threads call

    def start(self) -> None:
        """Begin to execute what ``load_guest`` has placed, or stand still if it was paused; returns at once."""
        if self.gate.held:
            self.gate.call_in()
            self._set_state(PAUSED, "at start: `orchestrator resume` or a debugger lets it go")
        else:
            self._go()
        self._running = len(self.harts)
        self._threads = [
            threading.Thread(target=self._run, args=(hart,), name=f"hart{hart.index}", daemon=True)
            for hart in self.harts
        ]
        for thread in self._threads:
            thread.start()

    def _go(self) -> None:
        self.clock.start()
        self._set_state(RUNNING, "")
        self.first_instruction_ns = self.first_instruction_ns or time.monotonic_ns()

    def do(self, work: Callable[[], Any]) -> Future[Any]:
        """Run ``work`` between two instructions, while all harts stand still."""
        future: Future[Any] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self.gate.work.append(command)
        if self._running:
            self.gate.call_in()
        if not self._running:  # no harts that could: not yet, or no more
            self._rest()
        return future

    def _rest(self) -> None:
        with suppress(IndexError):
            while True:
                self.gate.work.popleft()()

    def console_input(self, data: bytes) -> None:
        """Give bytes to the UART."""
        self._input.append(data)
        self.irq.shared.u8[IrqPage.LOOK] = 1
        with suppress(BlockingIOError):
            os.eventfd_write(self.irq_event, 1)

    def pause(self, reason: str = "on request") -> None:
        """Stop between two instructions, and stop time (through ``do``); a machine that waits does not begin."""
        if self.state == WAITING:
            self.gate.held = True
        elif self.state in (RUNNING, STALLED):
            self.gate.held = True
            self.clock.stop()
            self._set_state(PAUSED, reason)

    def resume(self) -> None:
        """Go on (through ``do``)."""
        if self.gate.held:
            self.gate.held = False
            if self.state == PAUSED:
                self._go()

    def power_off(self, status: int) -> None:
        """End with this exit status."""
        if not self.gate.ended:
            self.exit_status = status
            self.gate.end()

    def quit(self, status: int) -> None:
        """End from another thread, even while a hart waits for a device."""
        for remote in self.board.remotes:
            remote.close()
        if not self._threads:
            self.power_off(status)
            self._set_state(OFF, "on request")
            return
        self.do(lambda: self.power_off(status))

    def request_reset(self) -> None:
        """Reset before the next instruction."""
        if not self._reset_wanted:
            self._reset_wanted = True
            self.do(self._reset)

    def join(self) -> None:
        """Wait for the harts' threads to end."""
        for thread in self._threads:
            thread.join()

    def stalled(self, device: str | None) -> None:
        """Note that a device does not answer; guest time stands still meanwhile, and all harts."""
        if self.gate.held:
            return  # all stand still already, and whoever holds them says why
        if device is not None:
            if self._serving is not None:
                self.gate.drive_out(self._serving)
            self.clock.stop()
            self._set_state(STALLED, f"{device} does not answer")
        elif self.state == STALLED:
            self.clock.start()
            self._set_state(RUNNING, "")

    def hold(self, reason: str) -> None:
        """Stand still, and stop time, while a device that no hart waits for does not attend (through ``do``)."""
        if self.state == RUNNING:
            self.gate.held = True
            self.clock.stop()
            self._set_state(STALLED, reason)

    def let_go(self) -> None:
        """Go on after ``hold`` (through ``do``)."""
        if self.state == STALLED and self.gate.held:
            self.gate.held = False
            self._go()

    def take_calls(self, remote: Remote) -> None:
        """Have what others write into its calls interrupt the guest."""
        for source, fd in remote.call_sources():
            if self._calls is None:
                with_messages = self.harts if self.interrupts == "aia" and self.clock.source == REAL else ()
                self._calls = Calls(self._engine, self.irq, self.irq_event, with_messages)
            if fd >= 0:
                self._calls.add(fd, source)
        self._route_calls()

    def forget_calls(self, remote: Remote) -> None:
        """Have them do so no more."""
        for source, fd in remote.call_sources() if self._calls else ():
            if fd >= 0:
                remote.counters["calls"] += self._calls.sent(source)  # type: ignore[union-attr]
                self._calls.remove(fd, source)  # type: ignore[union-attr]

    def _route_calls(self) -> None:
        """Let messages of calls go past Python where nobody traces them."""
        for function in self.board.root.all_functions if self._calls else ():
            for source, fd in function.call_sources():
                if fd >= 0:
                    self._calls.route(source, function.route(source))  # type: ignore[union-attr]

    def calls_of(self, remote: Remote) -> int:
        """Return how many calls of a device became interrupts."""
        direct = sum(self._calls.sent(source) for source, fd in remote.call_sources() if fd >= 0) if self._calls else 0
        return remote.counters["calls"] + direct

    # what SBI calls, with the lock held

    def console_write(self, data: bytes) -> None:
        """Print."""
        self.events.console(data)

    def console_read(self, limit: int) -> bytes:
        """Take console input past the UART."""
        if not self._input:
            return b""
        data = self._input.popleft()
        if len(data) > limit:
            self._input.appendleft(data[limit:])
        return data[:limit]

    def ram_read(self, gpa: int, length: int) -> bytes | None:
        """Read guest RAM."""
        return self.memory.read(gpa, length)

    def ram_write(self, gpa: int, data: bytes) -> bool:
        """Write guest RAM."""
        return self.memory.write(gpa, data)

    # booting

    def load_guest(self) -> None:
        """Place everything that is to be in memory, and point the harts at where they begin.

        Raises:
            ConfigError: the guest cannot be loaded.
        """
        seed = os.urandom(32) if self.clock.source == REAL else bytes(32)
        describe = tree.describe(
            self.boot_config, len(self.harts), self.ram.size, self.interrupts, seed, self.board.platform_devices
        )
        guest = loader.plan(self.boot_config, self.ram.size, len(self.harts), describe)
        guest.placement.store(self.ram)
        self.board.rom.data, self.blob = guest.rom, guest.blob
        self.board.fw_cfg.add(guest.items)
        if not guest.start.machine:
            self.board.stand_in_for_firmware()
        for hart in self.harts:
            start = guest.start_of(hart.index)
            if start.machine:
                hart.enter_machine(start.pc)
                hart.condition = STARTED
            elif hart.index == 0:
                hart.enter_supervisor(start.pc, hart.index, guest.tree_at)
                hart.condition = STARTED
            else:
                hart.condition = STOPPED

    def _reset(self) -> None:
        """Cold reset: all devices, all harts, guest loaded anew."""
        self._reset_wanted = False
        try:
            self.board.reset()
            for hart in self.harts:
                hart.reset()
            self.load_guest()
        except (BusvmError, OSError):
            logger.exception("the guest cannot be loaded again")
            self.power_off(SOFTWARE)
        self.events.reset()

    # the harts' threads

    def _run(self, hart: Hart) -> None:
        try:
            while not self.gate.ended:
                if hart["STOP_REQUEST"]:
                    self.gate.park(hart)
                elif hart.waiting:
                    self._idle(hart)
                elif hart.condition == STARTED:
                    # a hart that never sleeps comes back now and then while the alarm is set
                    self._set_alarm(hart)
                    self.serve(hart, hart.run())
                else:
                    self._sleep(hart)
        except Exception:
            logger.exception("the CPU process failed on hart %d at pc=%#x", hart.index, hart["PC"])
            self.power_off(SOFTWARE)  # our own fault, said with a traceback in the log
        with self.gate.lock:
            self._running -= 1
            last = self._running == 0
        if last:
            self.clock.stop()
            self._set_state(OFF, f"exit status {self.exit_status}")
            self._rest()

    def serve(self, hart: Hart, reason: int) -> None:
        """Do what ``hart`` has left compiled code for; on its thread, or while all harts stand still."""
        if reason == st.EXIT_DEBUG:
            self.events.debug(hart)
        if reason in (st.EXIT_STOP, st.EXIT_DEBUG):
            return
        if reason == st.EXIT_WFI and hart["ICOUNT"]:
            self._idle(hart)
            return
        with self.gate.lock:
            self._serving = hart
            try:
                if reason == st.EXIT_MMIO:
                    self._mmio(hart)
                    if self.irq.shared.u8[IrqPage.LOOK]:
                        self._look()  # a guest that polls a device may never come to the end of a slice
                elif reason == st.EXIT_SBI:
                    self.sbi.call(hart)
                elif reason == st.EXIT_LOOK:
                    self._look()
                elif reason in (st.EXIT_BUDGET, st.EXIT_WFI):
                    self.board.rtc.tick()
            finally:
                self._serving = None
        if hart.fences:
            self.gate.await_fences(hart)

    def _mmio(self, hart: Hart) -> None:
        address, size = hart["MMIO_ADDRESS"] & _NEVER, hart["MMIO_SIZE"]
        space = self.board.space
        if hart["MMIO_WRITE"]:
            found = space.write(address, size, hart["MMIO_VALUE"])
        else:
            value = space.read(address, size)
            found = value is not None
            hart["MMIO_VALUE"] = value or 0
        hart["MMIO_DONE"] = st.MMIO_SERVED if found else st.MMIO_REFUSED

    def _look(self) -> None:
        """Serve what devices and other threads left for the harts."""
        self.irq.shared.u8[IrqPage.LOOK] = 0
        full_fence()  # the clear must be visible before the words are read (DESIGN §6)
        self.board.scan()
        while self._input:
            self.board.uart.receive(self._input.popleft())

    def _set_alarm(self, hart: Hart) -> None:
        """Have the hart come back in time for the RTC's alarm, whether it works or sleeps."""
        alarm = self.board.rtc.next_alarm_s()
        hart["BUDGET"] = NO_BUDGET if alarm is None else _ALARM_BUDGET
        hart["SLEEP_NS"] = LONGEST_SLEEP_NS if alarm is None else min(LONGEST_SLEEP_NS, max(1000, int(alarm * 1e9)))

    def _sleep(self, hart: Hart) -> None:
        """Wait for what makes a stopped or suspended hart go on; WFI sleeps in compiled code."""
        was = hart.condition
        hart["SLEEPING"] = 1
        full_fence()  # whoever posts sees that we sleep, or we see the post
        while not hart["STOP_REQUEST"] and hart.condition == was:
            with suppress(BlockingIOError):
                os.eventfd_read(hart.wake_event)
            now = self.clock.ticks()  # before the look: a timer that is due by then does not end the sleep
            if was == SUSPENDED and hart.pending_enabled():
                hart.condition = STARTED
            elif hart.condition == was:
                left_s = (hart.next_timer(now) - now) * st.TICK_NS / 1e9
                select.select([hart.wake_event], [], [], min(_LONGEST_SLEEP_S, left_s))
        hart["SLEEPING"] = 0

    def _idle(self, hart: Hart) -> None:
        """Let a hart whose instructions are the clock sleep: time goes on to the next timer, or to what wakes it.

        Whoever stops the harts to look at them is no event of the guest's: the hart stays ``waiting``, time stands.
        """
        hart.waiting = True
        while not hart["STOP_REQUEST"]:
            if self.irq.shared.u8[IrqPage.LOOK]:
                with self.gate.lock:
                    self._look()
            if hart.pending_enabled():
                hart.waiting = False
                return
            now = self.clock.ticks()
            due = hart.next_timer(now)
            alarm = self.board.rtc.next_alarm_s()
            if alarm is not None:
                due = min(due, now + int(alarm * 1e9) // st.TICK_NS + 1)
            ticks = min(due - now, int(_LONGEST_SLEEP_S * 1e9) // st.TICK_NS)
            before = time.monotonic_ns()
            woken, _, _ = select.select([hart.wake_event, self.irq_event], [], [], ticks * st.TICK_NS / 1e9)
            if not woken:
                self.clock.set_ticks(now + ticks)
            elif self.irq_event in woken:
                self.clock.set_ticks(now + min((time.monotonic_ns() - before) // st.TICK_NS, ticks))
            for fd in woken:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            self.board.rtc.tick()

    def _set_state(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self.events.state(state, reason)

    def close(self) -> None:
        """Release what the machine holds of the host, after ``join``."""
        if self._calls is not None:
            self._calls.close()
        for remote in self.board.remotes:
            remote.release()
        self.board.close()
        for hart in self.harts:
            hart.close()
        os.close(self.irq_event)


sys.setswitchinterval(0.0005)  # the hart's handlers must not wait 5 ms for the bus thread to let go of the interpreter
