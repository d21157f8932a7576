"""What is soldered on: the devices of the CPU process, the PCIe root, and where each of them is.

Everything here is called with the machine's lock held (docs/decisions/0006).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_proc import memory_map as mm
from cpu_proc.boot import images
from cpu_proc.boot.reset_vector import Rom
from cpu_proc.clock import GuestClock
from cpu_proc.device_memory import DeviceMemory
from cpu_proc.engine import state as st
from cpu_proc.engine.state import M
from cpu_proc.hart import Hart
from cpu_proc.pcie.function import Function
from cpu_proc.pcie.port import Card
from cpu_proc.pcie.root import MemoryWindow, Root
from cpu_proc.platform import bus as platform_bus
from cpu_proc.platform import virtio_mmio
from cpu_proc.platform.aclint import Aclint
from cpu_proc.platform.aia import Aplic, Imsic
from cpu_proc.platform.flash import BANK, Flash, FlashFile
from cpu_proc.platform.fw_cfg import FwCfg, standard_items
from cpu_proc.platform.mmio import AddressSpace
from cpu_proc.platform.plic import Plic
from cpu_proc.platform.power import Power
from cpu_proc.platform.rtc import Rtc
from cpu_proc.platform.uart import Uart
from cpu_proc.platform.wired import Slots, WiredDevice
from cpu_proc.remote import Remote
from cpu_proc.saved_device import SavedDevice
from protocol.layout import IrqPage
from protocol.memory import GuestMemory

_S_EXTERNAL, _M_EXTERNAL = 9, 11  # interrupts of mip


@dataclass(frozen=True)
class Wiring:
    """What the devices call."""

    console: Callable[[bytes], None]
    power_off: Callable[[int], None]
    request_reset: Callable[[], None]
    set_windows: Callable[[list[list[int]]], None]


@dataclass(frozen=True)
class Fitting:
    """What differs from board to board: interrupt controllers, what is in the flash, files of fw_cfg, root ports."""

    interrupts: str = "aia"  # or "plic"
    flash: tuple[Path | None, Path | None] = (None, None)
    files: tuple[tuple[str, Path | str], ...] = ()
    ports: int = 0


class Board:
    """All devices of one machine in the CPU process."""

    def __init__(
        self,
        harts: list[Hart],
        memory: GuestMemory,
        irq: IrqPage,
        clock: GuestClock,
        wiring: Wiring,
        fitting: Fitting | None = None,
    ) -> None:
        """Build the board.

        Raises:
            ConfigError: a file of flash or fw_cfg cannot be used.
            HostError: another process has a flash file.
        """
        fitting = fitting or Fitting()
        self._harts = harts
        self.space = space = AddressSpace()
        for hart in harts:
            hart["IMSIC_PRESENT"] = int(fitting.interrupts == "aia")
        self.wires: Plic | Aplic = self._plic() if fitting.interrupts == "plic" else self._aia()
        set_line = self.wires.set_line
        self.uart = Uart(lambda b: wiring.console(bytes([b])), lambda v: set_line(mm.UART0_IRQ, v))
        self.rtc = Rtc(lambda v: set_line(mm.RTC_IRQ, v), clock.wall_ns)
        high = mm.pcie_high(memory.size)
        self._set_windows = wiring.set_windows
        self.root = Root(space, irq, [mm.PCIE_MMIO, high], set_line, self.update_windows, fitting.ports)
        common = space, irq, set_line, self.update_windows
        self.slots = Slots(*common, slots=virtio_mmio.SLOTS, first_wire=mm.VIRTIO_IRQ, empty=virtio_mmio.EMPTY)
        self.platform = Slots(*common, slots=platform_bus.SLOTS, first_wire=mm.PLATFORM_IRQ, empty={})
        self.memories = platform_bus.Memories(space)
        self.rom = Rom()
        self.fw_cfg = FwCfg(memory, standard_items(len(harts), memory.size), _files(fitting))
        self.flash = self._flash(fitting)
        space.add(mm.MROM, self.rom, "mrom")
        space.add(mm.FW_CFG, self.fw_cfg, "fw-cfg")
        space.add(mm.UART0, self.uart, "uart0")
        space.add(mm.PCIE_ECAM, self.root, "pcie-ecam")
        space.add(mm.PCIE_MMIO, MemoryWindow(self.root, mm.PCIE_MMIO.base), "pcie-mmio")
        space.add(high, MemoryWindow(self.root, high.base), "pcie-mmio-high")
        space.add(mm.TEST, Power(wiring.power_off, wiring.request_reset), "test")
        space.add(mm.RTC, self.rtc, "rtc")
        space.add(mm.CLINT, Aclint(harts, clock.ticks, clock.set_ticks), "clint")
        self.update_windows()

    def _plic(self) -> Plic:
        plic = Plic(len(self._harts), self._set_external_line)
        self.space.add(mm.PLIC, plic, "plic")
        return plic

    def _set_external_line(self, hart: int, mode: int, level: int) -> None:
        self._harts[hart].set_line(_M_EXTERNAL if mode == M else _S_EXTERNAL, level)

    def _aia(self) -> Aplic:
        low = Aplic(lambda hart, identity: self._send_message("SI", hart, identity))
        high = Aplic(lambda hart, identity: self._send_message("MI", hart, identity), low)
        self.space.add(mm.APLIC_M, high, "aplic-m")
        self.space.add(mm.APLIC_S, low, "aplic-s")
        self.space.add(mm.IMSIC_M, Imsic(self._harts, "MI"), "imsic-m")
        self.space.add(mm.IMSIC_S, Imsic(self._harts, "SI"), "imsic-s")
        return high

    def _send_message(self, file: str, hart: int, identity: int) -> None:
        if hart < len(self._harts):  # a target that does not exist is dropped, as on a bus
            self._harts[hart].set_external(file, identity)

    def _flash(self, fitting: Fitting) -> list[Flash]:
        if not any(fitting.flash):
            return []
        files = [FlashFile(path, f"flash{i}") if path else None for i, path in enumerate(fitting.flash)]
        banks = [Flash(file, self.update_windows) for file in files]
        for index, bank in enumerate(banks):
            self.space.add(_bank(index), bank, f"flash{index}")
        return banks

    @property
    def remotes(self) -> list[Remote]:
        """The devices in other processes."""
        return [*self.root.all_functions, *self.slots.devices, *self.platform.devices]

    @property
    def platform_devices(self) -> list[platform_bus.PlatformDevice]:
        """The devices of the platform bus, which the device tree names."""
        return [device for device in self.platform.devices if isinstance(device, platform_bus.PlatformDevice)]

    def add(self, remote: Remote, saved: SavedDevice | None = None) -> None:
        """Put a device of another process into its slot; one of a snapshot has been there."""
        if saved and isinstance(remote, Card):
            remote.port.card = remote
        self._add(remote)
        if saved:
            remote.last_words = saved.delivered

    def _add(self, remote: Remote) -> None:
        if isinstance(remote, Function):
            self.root.add(remote)
        elif isinstance(remote, platform_bus.PlatformDevice):
            self.memories.place(remote)
            if remote.calls:
                self.wires.feel_edges(mm.PLATFORM_IRQ + remote.slot)
            self.platform.add(remote)
        elif isinstance(remote, WiredDevice):
            self.slots.add(remote)

    def exchange(self, remote: Remote, memory: dict[int, DeviceMemory]) -> None:
        """Give BARs of a device other memory; no hart executes anything meanwhile."""
        old = [remote.memory[bar] for bar in memory if bar in remote.memory]
        remote.memory |= memory
        remote.settle()
        self.update_windows()
        for gone in old:
            gone.close()

    def scan(self) -> None:
        """Look at the interrupt sources of all devices in other processes."""
        self.root.scan()
        self.slots.scan()
        self.platform.scan()

    def update_windows(self) -> None:
        """Tell the harts what they may serve by themselves: code first, since each instruction looks for it."""
        rows = [_code(mm.MROM, self.rom.image)]
        rows += [_code(_bank(index), bank.content) for index, bank in enumerate(self.flash) if bank.readable]
        self._set_windows([*rows, *self.root.rows(), *self.slots.rows(), *self.platform.rows()])

    def stand_in_for_firmware(self) -> None:
        """Set up what M-mode firmware would have, for a guest that begins in S mode."""
        if isinstance(self.wires, Aplic):
            self.wires.delegate_all()

    def stateful(self) -> dict[str, Any]:
        """Return the devices with state of their own, by name; each lists its fields in ``SAVED``."""
        found: dict[str, Any] = {"uart0": self.uart, "rtc": self.rtc, "fw-cfg": self.fw_cfg, "pcie": self.root}
        found |= {f"port{port.index}": port for port in self.root.ports}
        found |= {f"flash{index}": bank for index, bank in enumerate(self.flash)}
        if isinstance(self.wires, Plic):
            return found | {"plic": self.wires}
        return found | {"aplic-m": self.wires, "aplic-s": self.wires.child}

    def reset(self) -> None:
        """Return all devices to their power-on state, those in other processes included."""
        for remote in self.remotes:
            remote.barrier("reset")
            remote.last_words = []
        self.root.reset()
        for remote in self.remotes:
            self.add(remote)
        self.wires.reset()
        self.fw_cfg.reset()
        for bank in self.flash:
            bank.reset()
        self.uart.reset()
        self.rtc.reset()
        self.update_windows()

    def close(self) -> None:
        """Let go of files."""
        for bank in self.flash:
            bank.close()


def _bank(index: int) -> mm.Region:
    return mm.Region(mm.FLASH.base + index * BANK, BANK)


def _code(place: mm.Region, image: mmap.mmap) -> list[int]:
    """Return the row of memory that is read and executed where it is; stores come to Python."""
    host = ctypes.addressof(ctypes.c_char.from_buffer(image))
    row = [0] * st.WINDOW_WORDS
    row[st.W_BASE], row[st.W_SIZE], row[st.W_IMAGE], row[st.W_CODE] = place.base, place.size, host, 1
    return row


def _files(fitting: Fitting) -> dict[str, bytes]:
    return {
        name: content.encode() if isinstance(content, str) else images.read(content, f"fw_cfg {name}")
        for name, content in fitting.files
    }
