"""What is soldered on: the devices of the CPU process, the PCIe root, and where each of them is.

Everything here is called with the machine's lock held (docs/decisions/0006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cpu_proc import memory_map as mm
from cpu_proc.clock import GuestClock
from cpu_proc.hart import Hart
from cpu_proc.pcie.root import MemoryWindow, Root
from cpu_proc.platform.aclint import Aclint
from cpu_proc.platform.aia import Aplic, Imsic
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.power import Power
from cpu_proc.platform.rtc import Rtc
from cpu_proc.platform.uart import Uart
from protocol.layout import IrqPage


@dataclass(frozen=True)
class Wiring:
    """What the devices call."""

    console: Callable[[bytes], None]
    power_off: Callable[[int], None]
    request_reset: Callable[[], None]
    set_windows: Callable[[list[list[int]]], None]


class Board:
    """All devices of one machine in the CPU process."""

    def __init__(self, harts: list[Hart], ram_size: int, irq: IrqPage, clock: GuestClock, wiring: Wiring) -> None:
        self._harts = harts
        self.space = space = AddressSpace()
        for hart in harts:
            hart["IMSIC_PRESENT"] = 1
        self.aplic = Aplic(self._send_message)
        self.uart = Uart(lambda b: wiring.console(bytes([b])), lambda v: self.aplic.set_line(mm.UART0_IRQ, v))
        self.rtc = Rtc(lambda v: self.aplic.set_line(mm.RTC_IRQ, v))
        high = mm.pcie_high(ram_size)
        self.root = Root(space, irq, [mm.PCIE_MMIO, high], self.aplic.set_line, wiring.set_windows)
        space.add(mm.UART0, self.uart, "uart0")
        space.add(mm.PCIE_ECAM, self.root, "pcie-ecam")
        space.add(mm.PCIE_MMIO, MemoryWindow(self.root, mm.PCIE_MMIO.base), "pcie-mmio")
        space.add(high, MemoryWindow(self.root, high.base), "pcie-mmio-high")
        space.add(mm.TEST, Power(wiring.power_off, wiring.request_reset), "test")
        space.add(mm.RTC, self.rtc, "rtc")
        space.add(mm.CLINT, Aclint(harts, clock.ticks, clock.set_ticks), "clint")
        space.add(mm.APLIC_S, self.aplic, "aplic-s")
        space.add(mm.IMSIC_S, Imsic(harts, "SI"), "imsic-s")
        space.add(mm.IMSIC_M, Imsic(harts, "MI"), "imsic-m")

    def _send_message(self, hart: int, identity: int) -> None:
        if hart < len(self._harts):  # a target that does not exist is dropped, as on a bus
            self._harts[hart].set_external("SI", identity)

    def reset(self) -> None:
        """Return all devices to their power-on state, those in other processes included."""
        for function in self.root.functions.values():
            function.barrier("reset")
            function.last_words = []
        for function in self.root.functions.values():
            self.root.add(function)
        self.aplic.reset()
        self.uart.reset()
        self.rtc.reset()
