"""The machine on the bus: Machine1, Hart1 and Function1 (the XML files in ``protocol``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpu_proc import figures, perf_map
from cpu_proc.eject import Ejector
from cpu_proc.engine.disassembler import disassemble
from cpu_proc.gdbstub.server import Server
from cpu_proc.hart import ISA, PRIVILEGES, STOPPED, Hart
from cpu_proc.isa import abi
from cpu_proc.machine import OFF, PAUSED, RUNNING, STALLED, Machine
from cpu_proc.memory_map import DRAM_BASE
from cpu_proc.replace import Replacer
from cpu_proc.slots import Slot
from cpu_proc.snapshot import Snapshots
from protocol import names
from protocol.access import Parts
from protocol.bus import BusError
from protocol.errors import BusvmError

MACHINE1, HART1 = "org.busvm.Machine1", "org.busvm.Hart1"
FUNCTION1, TRACE1 = "org.busvm.Function1", "org.busvm.Trace1"

_TRANSFER_MAX = 1 << 20
_LINES_MAX = 4096
_REASON_MAX = 256
_SYSRQ_PAUSE_S = 0.5  # sync and remount are work that the kernel queues


def _refuse(name: str, text: str) -> BusError:
    return BusError(f"org.busvm.Error.{name}", text)


class Machine1:
    """org.busvm.Machine1."""

    def __init__(
        self,
        vm: str,
        machine: Machine,
        started_ns: int,
        debugger: Server,
        snapshots: Callable[[], Snapshots],
        parts: Parts,
    ) -> None:
        """``snapshots`` is asked once devices can be there."""
        self.name = vm
        self._snapshots = snapshots
        self._parts = parts
        self.interrupts = "aia"
        self.clock_source = machine.clock.source
        self._machine = machine
        self._started_ns = started_ns
        self._debugger = debugger

    async def _do(self, work: Any) -> Any:
        if self._machine.state == STALLED:
            raise _refuse("Stalled", self._machine.reason)
        return await asyncio.wrap_future(self._machine.do(work))

    async def run(self) -> None:
        """Go on after a pause."""
        await self._do(self._machine.resume)

    async def pause(self) -> None:
        """Stop harts and time."""
        if self._machine.state not in (RUNNING, PAUSED):
            raise _refuse("State", f"the machine is {self._machine.state}")
        await self._do(self._machine.pause)

    async def pause_for(self, reason: str) -> None:
        """Stop harts and time for a device that cannot go on."""
        if self._machine.state not in (RUNNING, PAUSED, STALLED):
            raise _refuse("State", f"the machine is {self._machine.state}")
        await asyncio.wrap_future(self._machine.do(lambda: self._machine.pause(reason[:_REASON_MAX])))

    async def reset(self) -> None:
        """Cold reset."""
        if self._machine.state not in (RUNNING, PAUSED):
            raise _refuse("State", f"the machine is {self._machine.state}")
        await self._do(self._machine.request_reset)

    async def power_down(self) -> None:
        """Ask the guest to power down.

        The machine has no power button that Debian's riscv64 kernel knows (no gpio-keys, no ACPI), so this takes the
        way over the serial console that the kernel offers: SysRq sync, remount read-only, power off.
        """
        if self._machine.state != RUNNING:
            raise _refuse("State", f"the machine is {self._machine.state}")
        for request in b"suo":
            await self._do(lambda key=request: self._machine.board.uart.receive_break(bytes([key])))
            await asyncio.sleep(_SYSRQ_PAUSE_S)

    async def power_fails(self) -> None:
        """Ask the guest to power down; end a machine that does not run (SIGPWR: what an engine stops it with)."""
        try:
            await self.power_down()
        except BusError:
            self._machine.quit(0)

    def quit(self, exit_status: int) -> None:
        """End the VM now."""
        self._machine.quit(exit_status)

    def part_of(self, pid: int) -> str:
        """Id of the part of the VM that a process is."""
        return self._parts.of_process(pid)

    def memory_map(self) -> list[tuple[int, int, str]]:
        """Physical address space."""
        return sorted([*self._machine.board.space.regions(), (DRAM_BASE, self._machine.ram.size, "ram")])

    def read_memory(self, gpa: int, length: int) -> bytes:
        """Read guest RAM."""
        data = self._machine.memory.read(gpa, length) if length <= _TRANSFER_MAX else None
        if data is None:
            raise _refuse("OutOfRange", f"{length} bytes at {gpa:#x} are not all RAM, or more than 1 MiB")
        return data

    def write_memory(self, gpa: int, data: bytes) -> None:
        """Write guest RAM."""
        if len(data) > _TRANSFER_MAX or not self._machine.memory.write(gpa, data):
            raise _refuse("OutOfRange", f"{len(data)} bytes at {gpa:#x} are not all RAM, or more than 1 MiB")

    async def save_state(self, folder: str) -> None:
        """Save into a folder, between two instructions."""
        await self._snapshots().save(Path(folder))

    async def write_perf_map(self) -> tuple[str, int]:
        """Name translated blocks for perf, between two instructions."""
        try:
            path, count = await self._do(lambda: perf_map.write(self._machine.harts))
        except BusvmError as error:
            raise _refuse("Failed", error.message) from error
        return str(path), count

    def device_tree(self) -> bytes:
        """The tree the guest was given."""
        return self._machine.blob

    @property
    def state(self) -> str:
        """waiting | running | paused | stalled | off."""
        return self._machine.state

    @property
    def state_reason(self) -> str:
        """Why."""
        return self._machine.reason

    @property
    def exit_status(self) -> int:
        """The guest's exit status once it is off."""
        return self._machine.exit_status if self._machine.state == OFF else 0

    @property
    def memory_size(self) -> int:
        """Bytes of RAM."""
        return self._machine.ram.size

    @property
    def harts(self) -> int:
        """Number of harts."""
        return len(self._machine.harts)

    @property
    def clock(self) -> int:
        """Guest time in ns."""
        return self._machine.clock.now_ns()

    @property
    def debugger(self) -> bool:
        """Whether a debugger is connected."""
        return self._debugger.connected

    @property
    def debugger_counters(self) -> dict[str, int]:
        """What debuggers sent, and what was wrong with it."""
        return dict(self._debugger.counters)

    @property
    def start_time(self) -> int:
        """Host ns from the start of the process to the first guest instruction."""
        return max(0, self._machine.first_instruction_ns - self._started_ns)


class Hart1:
    """org.busvm.Hart1."""

    def __init__(self, machine: Machine, hart: Hart) -> None:
        self.index = hart.index
        self.isa = ISA
        self.engine = hart.engine_name
        self.clock_source = machine.clock.source
        self._machine = machine
        self._hart = hart
        self._speed = figures.Speed(hart, lambda: machine.first_instruction_ns)

    async def read_registers(self) -> dict[str, int]:
        """All registers, taken between two instructions."""
        if self._machine.state == STALLED:  # the hart stands in an access: what it shows now holds
            return self._hart.registers()
        values: dict[str, int] = await asyncio.wrap_future(self._machine.do(self._hart.registers))
        return values

    async def read_register(self, name: str) -> int:
        """One register."""
        values = await self.read_registers()
        if name not in values:
            raise _refuse("NoRegister", f"no register {name!r}")
        return values[name]

    async def write_register(self, name: str, value: int) -> None:
        """Set an integer or floating register or pc of a paused machine."""
        if self._machine.state != PAUSED:
            raise _refuse("State", "registers can be written while the machine is paused")
        signed = value - (1 << 64) if value >= 1 << 63 else value

        def store() -> None:
            if name == "pc":
                self._hart["PC"] = signed
            elif name in abi.INTEGER[1:]:
                self._hart.x[abi.INTEGER.index(name)] = signed
            elif name in abi.FLOAT:
                self._hart.f[abi.FLOAT.index(name)] = signed
            else:
                raise _refuse("NoRegister", f"no writable register {name!r}")

        await asyncio.wrap_future(self._machine.do(store))

    async def disassemble(self, address: int, count: int) -> list[tuple[int, int, int, str]]:
        """Instructions from a virtual address on."""
        if self._machine.state == STALLED:
            raise _refuse("Stalled", self._machine.reason)

        def lines() -> list[tuple[int, int, int, str]]:
            found, at = [], address
            for _ in range(min(count, _LINES_MAX)):
                word = self._hart.fetch(at)
                if word is None:
                    break
                size, text = disassemble(word, at)
                found.append((at, size, word & (1 << 8 * size) - 1, text))
                at += size
            return found

        rows: list[tuple[int, int, int, str]] = await asyncio.wrap_future(self._machine.do(lines))
        return rows

    @property
    def state(self) -> str:
        """started | stopped | suspended."""
        return STOPPED if self._machine.state == OFF else self._hart.condition

    @property
    def privilege(self) -> str:
        """U, S or M."""
        return PRIVILEGES[self._hart["PRIV"]]

    @property
    def pc(self) -> int:
        """Program counter as of the last look."""
        return self._hart["PC"] & (1 << 64) - 1

    @property
    def instructions(self) -> int:
        """Retired instructions."""
        return max(0, self._hart["INSTRET"])

    @property
    def exits(self) -> dict[str, int]:
        """Returns of the compiled loop by reason, and what it counted itself."""
        counters = ("WALKS", "FETCH_MISSES", "DECODES", "PAGE_SERVED", "DOORBELLS", "TRAPS", "INTERRUPTS")
        return {**self._hart.exits, **{name.lower(): self._hart[name] for name in counters}}

    @property
    def mips(self) -> float:
        """Million instructions a second since the last look."""
        return self._speed.mips()

    @property
    def translator(self) -> dict[str, int]:
        """What the translator has done."""
        return figures.translator(self._hart)


class Function1:
    """org.busvm.Function1."""

    def __init__(self, machine: Machine, slot: Slot, ejector: Ejector, replacer: Replacer) -> None:
        self._machine = machine
        self.id = slot.id
        self.bus_name = names.device_name(slot.id)
        self._slot = slot
        self._ejector = ejector
        self._replacer = replacer

    async def eject(self, force: bool, timeout: float) -> None:
        """Take it out of its port."""
        await self._ejector.eject(self._slot, force=force, timeout_s=timeout)

    async def replace(self, newcomer: str) -> None:
        """Have another process go on in its place."""
        await self._replacer.replace(self._slot, newcomer)

    @property
    def slot(self) -> str:
        """Where it is: a path of PCI, or the name of its node in the device tree."""
        return self._slot.shown

    @property
    def type(self) -> str:
        """Type of the device."""
        return self._slot.type

    @property
    def state(self) -> str:
        """missing | attaching | attached | lost | unplugged."""
        return self._slot.state

    @property
    def failure(self) -> str:
        """Why the last attempt to attach failed."""
        return self._slot.failure

    @property
    def pid(self) -> int:
        """Process id of the device."""
        return self._slot.remote.pid if self._slot.remote else 0

    @property
    def epoch(self) -> int:
        """Incarnation."""
        return self._slot.remote.epoch if self._slot.remote else 0

    @property
    def bars(self) -> list[tuple[int, int, int]]:
        """BAR, guest address, size."""
        return self._slot.remote.bars() if self._slot.remote else []

    @property
    def counters(self) -> dict[str, int]:
        """Accesses and what was wrong with them."""
        remote = self._slot.remote
        if remote is None:
            return {}
        counted = remote.counters | ({"calls": self._machine.calls_of(remote)} if remote.calls else {})
        torn = sum(memory.torn for memory in remote.memory.values())
        return counted | ({"torn_memory": torn} if remote.memory else {})
