"""The machine: memory, devices of the CPU process, PCIe root, harts, and the loop that serves them.

Every device in this process, the PCIe root and the hart's Python side run on the hart's thread. Other threads hand
work over: ``do`` queues a function, ``console_input`` bytes; both wake the hart.
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
from pathlib import Path
from typing import Any

from cpu_proc import memory_map as mm
from cpu_proc.boot import loader
from cpu_proc.boot.fdt import flatten
from cpu_proc.boot.sbi import Sbi
from cpu_proc.boot.tree import Description, build
from cpu_proc.clock import GuestClock
from cpu_proc.engine import state as st
from cpu_proc.hart import NO_BUDGET, Hart
from cpu_proc.pcie.root import MemoryWindow, Root
from cpu_proc.platform.aclint import Aclint
from cpu_proc.platform.aia import Aplic, Imsic
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.power import Power
from cpu_proc.platform.rtc import Rtc
from cpu_proc.platform.uart import Uart
from protocol.layout import IrqPage
from protocol.memory import GuestMemory, Shared, full_fence

logger = logging.getLogger(__name__)

WAITING, RUNNING, PAUSED, STALLED, OFF = "waiting", "running", "paused", "stalled", "off"
_LONGEST_SLEEP_S = 1.0
_ALARM_BUDGET = 20_000_000  # instructions, about a tenth of a second
_NEVER = (1 << 64) - 1


@dataclass(frozen=True)
class BootConfig:
    """What to boot."""

    kernel: Path
    initrd: Path | None = None
    cmdline: str = ""


@dataclass
class Events:
    """What the machine tells its owner; each is called on the hart's thread."""

    console: Callable[[bytes], None]
    state: Callable[[str, str], None]
    reset: Callable[[], None] = lambda: None


class Machine:
    """One VM's machine. ``start`` begins execution; the owner watches ``Events.state`` for ``off``."""

    def __init__(
        self, engine: Any, ram: Shared, irq: IrqPage, clock: GuestClock, boot: BootConfig, events: Events
    ) -> None:
        self.ram = ram
        self.memory = GuestMemory(ram, mm.DRAM_BASE)
        self.irq = irq
        self.clock = clock
        self.boot_config = boot
        self.events = events
        self.state, self.reason = WAITING, ""
        self.exit_status = 0
        self.blob = b""
        self.first_instruction_ns = 0
        self.irq_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.harts = [Hart(0, engine, ram, mm.DRAM_BASE, irq, clock.page)]
        self.sbi = Sbi(self)
        self._commands: deque[Callable[[], None]] = deque()
        self._input: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._paused = False
        self._reset_wanted = False
        self._ended = False
        self._build()

    def _build(self) -> None:
        self.space = space = AddressSpace()
        hart = self.harts[0]
        hart["IMSIC_PRESENT"] = 1
        self.aplic = Aplic(self._send_message)
        self.uart = Uart(lambda b: self.events.console(bytes([b])), lambda v: self.aplic.set_line(mm.UART0_IRQ, v))
        self.rtc = Rtc(lambda v: self.aplic.set_line(mm.RTC_IRQ, v))
        high = mm.pcie_high(self.ram.size)
        self.root = Root(space, self.irq, [mm.PCIE_MMIO, high], self.aplic.set_line, self._set_windows)
        space.add(mm.UART0, self.uart, "uart0")
        space.add(mm.PCIE_ECAM, self.root, "pcie-ecam")
        space.add(mm.PCIE_MMIO, MemoryWindow(self.root, mm.PCIE_MMIO.base), "pcie-mmio")
        space.add(high, MemoryWindow(self.root, high.base), "pcie-mmio-high")
        space.add(mm.TEST, Power(self.power_off, self.request_reset), "test")
        space.add(mm.RTC, self.rtc, "rtc")
        space.add(mm.CLINT, Aclint(self.harts, self.clock.ticks, self.clock.set_ticks), "clint")
        space.add(mm.APLIC_S, self.aplic, "aplic-s")
        space.add(mm.IMSIC_S, Imsic(self.harts, "SI"), "imsic-s")
        space.add(mm.IMSIC_M, Imsic(self.harts, "MI"), "imsic-m")

    def _send_message(self, hart: int, identity: int) -> None:
        if hart < len(self.harts):  # a target that does not exist is dropped, as on a bus
            self.harts[hart].set_external("SI", identity)

    def _set_windows(self, rows: list[list[int]]) -> None:
        for hart in self.harts:
            hart.set_windows(rows)

    # what other threads call

    def start(self) -> None:
        """Begin to execute what ``load_guest`` has placed; returns at once."""
        self._thread = threading.Thread(target=self._run, name="hart0", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], Any]) -> Future[Any]:
        """Run ``work`` on the hart's thread between two instructions."""
        future: Future[Any] = Future()

        def command() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        if self._thread is None or self._ended:
            command()
            return future
        self._commands.append(command)
        self.harts[0]["STOP_REQUEST"] = 1
        self.wake()
        return future

    def console_input(self, data: bytes) -> None:
        """Give bytes to the UART."""
        self._input.append(data)
        self.irq.shared.u8[IrqPage.LOOK] = 1
        self.wake()

    def wake(self) -> None:
        """Wake a sleeping hart."""
        with suppress(BlockingIOError):
            os.eventfd_write(self.irq_event, 1)

    def pause(self) -> None:
        """Stop between two instructions, and stop time (on the hart's thread, through ``do``)."""
        if self.state in (RUNNING, STALLED):
            self._paused = True
            self.clock.stop()
            self._set_state(PAUSED, "on request")

    def resume(self) -> None:
        """Go on."""
        if self._paused:
            self._paused = False
            self.clock.start()
            self._set_state(RUNNING, "")

    def power_off(self, status: int) -> None:
        """End with this exit status."""
        self.exit_status = status
        self._ended = True
        self.harts[0]["STOP_REQUEST"] = 1

    def quit(self, status: int) -> None:
        """End from another thread, even while the hart waits for a device."""
        for function in self.root.functions.values():
            function.close()
        if self._thread is None:
            self.power_off(status)
            self._set_state(OFF, "on request")
            return
        self.do(lambda: self.power_off(status))

    def request_reset(self) -> None:
        """Reset before the next instruction."""
        self._reset_wanted = True
        self.harts[0]["STOP_REQUEST"] = 1

    def join(self) -> None:
        """Wait for the hart's thread to end."""
        if self._thread is not None:
            self._thread.join()

    def stalled(self, device: str | None) -> None:
        """Note that a device does not answer; guest time stands still meanwhile."""
        if device is not None:
            self.clock.stop()
            self._set_state(STALLED, f"{device} does not answer")
        elif self.state == STALLED:
            self.clock.start()
            self._set_state(RUNNING, "")

    # what SBI calls, on the hart's thread

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
        """Place kernel, initial RAM disk and device tree, and point the boot hart at the kernel.

        Raises:
            ConfigError: the guest cannot be loaded.
        """
        boot = self.boot_config
        kernel = loader.load_kernel(self.ram, boot.kernel)
        described = Description(len(self.harts), self.ram.size, boot.cmdline)
        limit = loader.tree_address(self.ram, len(flatten(build(described))) + 256)
        initrd = loader.load_initrd(self.ram, boot.initrd, kernel.end, limit) if boot.initrd else None
        self.blob = flatten(build(Description(len(self.harts), self.ram.size, boot.cmdline, initrd)))
        tree = loader.place_tree(self.ram, self.blob)
        for hart in self.harts:
            hart.enter_supervisor(kernel.entry, hart.index, tree)

    def _reset(self) -> None:
        """Cold reset: all devices, all harts, guest loaded anew."""
        self._reset_wanted = False
        for function in self.root.functions.values():
            function.barrier("reset")
            function.last_words = []
        for function in self.root.functions.values():
            self.root.add(function)
        self.aplic.reset()
        self.uart.reset()
        self.rtc.reset()
        for hart in self.harts:
            hart.reset()
        self.load_guest()
        self.events.reset()

    # the hart's thread

    def _run(self) -> None:
        hart = self.harts[0]
        self.clock.start()
        self._set_state(RUNNING, "")
        self.first_instruction_ns = time.monotonic_ns()
        try:
            while not self._ended:
                # a hart that never sleeps comes back now and then while the alarm is set
                hart["BUDGET"] = _ALARM_BUDGET if self.rtc.armed else NO_BUDGET
                self._serve(hart, hart.run())
        except Exception:
            logger.exception("the CPU process failed at pc=%#x", hart["PC"])
            self.exit_status = 70  # EX_SOFTWARE: our own fault, said with a traceback in the log
        self.clock.stop()
        self._set_state(OFF, f"exit status {self.exit_status}")

    def _serve(self, hart: Hart, reason: int) -> None:
        if reason == st.EXIT_MMIO:
            self._mmio(hart)
        elif reason == st.EXIT_SBI:
            self.sbi.call(hart)
        elif reason == st.EXIT_LOOK:
            self._look()
        elif reason == st.EXIT_WFI:
            self._sleep(hart)
        elif reason == st.EXIT_BUDGET:
            self.rtc.tick()
        if hart["STOP_REQUEST"]:
            self._stop(hart)

    def _mmio(self, hart: Hart) -> None:
        address, size = hart["MMIO_ADDRESS"] & _NEVER, hart["MMIO_SIZE"]
        if hart["MMIO_WRITE"]:
            self.space.write(address, size, hart["MMIO_VALUE"])
        else:
            hart["MMIO_VALUE"] = self.space.read(address, size)
        hart["MMIO_DONE"] = 1

    def _look(self) -> None:
        """Serve what devices and other threads left for the hart."""
        self.irq.shared.u8[IrqPage.LOOK] = 0
        full_fence()  # the clear must be visible before the words are read (DESIGN §6)
        self.root.scan()
        while self._input:
            self.uart.receive(self._input.popleft())

    def _sleep(self, hart: Hart) -> None:
        """Wait for an interrupt."""
        while not hart["STOP_REQUEST"]:
            with suppress(BlockingIOError):
                os.eventfd_read(self.irq_event)
            if self.irq.shared.u8[IrqPage.LOOK]:
                self._look()
            self.rtc.tick()
            if hart.pending_enabled():
                return
            select.select([self.irq_event], [], [], self._until_timer(hart))

    def _until_timer(self, hart: Hart) -> float:
        due = min(hart["STIMECMP"] & _NEVER, hart["MTIMECMP"] & _NEVER)
        wait = max(0, due - self.clock.ticks()) * st.TICK_NS / 1e9
        alarm = self.rtc.next_alarm_s()
        return min(wait, _LONGEST_SLEEP_S, _LONGEST_SLEEP_S if alarm is None else alarm)

    def _stop(self, hart: Hart) -> None:
        """Run queued commands; stay here while paused."""
        while not self._ended:
            hart["STOP_REQUEST"] = 0
            while self._commands:
                self._commands.popleft()()
            if self._reset_wanted and not self._ended:
                self._reset()
            if not self._paused:
                break
            with suppress(BlockingIOError):
                os.eventfd_read(self.irq_event)
            if not self._commands:
                select.select([self.irq_event], [], [], _LONGEST_SLEEP_S)

    def _set_state(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self.events.state(state, reason)

    def close(self) -> None:
        """Release what the machine holds of the host, after ``join``."""
        for function in self.root.functions.values():
            function.release()
        os.close(self.irq_event)


sys.setswitchinterval(0.0005)  # the hart's handlers must not wait 5 ms for the bus thread to let go of the interpreter
