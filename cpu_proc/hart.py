"""One hart: its state vector, its decoded code, and the call into compiled code.

A ``Hart`` belongs to its thread. While ``run`` is in compiled code no Python lock is held; other threads may only call
``stop``, ``post``, ``set_line`` and ``wake``, and read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from cpu_proc import memory_map as mm
from cpu_proc.engine import state as st
from cpu_proc.engine.x86.trampoline import FLAGS_TABLE
from cpu_proc.isa import abi
from cpu_proc.isa.csr import COUNTERS, MENVCFG_MASK, STATEEN0_MASK
from cpu_proc.translation_buffer import TranslationBuffer, missing
from protocol.errors import HostError
from protocol.layout import ClockPage, IrqPage
from protocol.memory import GuestMemory, Shared

_LIBC = ctypes.CDLL(None, use_errno=True)
_SLOT = st.SLOTS
LONGEST_SLEEP_NS = 1_000_000_000  # then the hart comes back to Python, which looks at what has no other clock
NO_BUDGET = (1 << 63) - 1  # instructions until `run` comes back by itself: none

PRIVILEGES = {st.U: "U", st.S: "S", st.M: "M"}
EXTENSIONS = (  # in the canonical order of the ISA string (RISC-V unprivileged §36)
    *("zicbom", "zicbop", "zicboz", "zicntr", "zicond", "zicsr", "zifencei", "zihintntl", "zihintpause", "zihpm"),
    *("zawrs", "zfa", "zfh", "zfhmin", "zba", "zbb", "zbc", "zbkb", "zbs"),
    *("smaia", "smstateen", "ssaia", "sstc", "svadu", "svinval", "svnapot", "svpbmt"),
)
ISA = "_".join(("rv64imafdc", *EXTENSIONS))
INTERPRETER, TRANSLATOR = "interpreter", "translator"
STARTED, STOPPED, SUSPENDED = "started", "stopped", "suspended"  # SBI §9, hart states


def _address(function: str) -> int:
    return ctypes.cast(getattr(_LIBC, function), ctypes.c_void_p).value or 0


def address_of(shared: Shared, offset: int = 0) -> int:
    """Return the host address of a byte of a shared object."""
    return ctypes.addressof(ctypes.c_char.from_buffer(shared.map)) + offset


UNDECODED_BYTES = 4096 * 4


class DecodedCode:
    """What is known of the code in guest RAM, by physical page; pages cost memory once they are executed.

    ``decoded`` has a word per parcel, ``copy`` the bytes it was made from, ``generation`` when that was last checked;
    ``undecoded`` is one page of words that stay empty.
    """

    def __init__(self, ram_size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE: almost all of it stays untouched
        sizes = (ram_size * 4 + UNDECODED_BYTES, ram_size, ram_size // 512)
        self._maps = [mmap.mmap(-1, size, flags=flags) for size in sizes]
        self.decoded, self.copy, self.generation = (ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in self._maps)
        self.undecoded = self.decoded + ram_size * 4
        self._words = np.frombuffer(self._maps[0], np.int64).reshape(-1, 2048)  # a row a page, a word a parcel
        self._generations = np.frombuffer(self._maps[2], np.int64)

    def forget(self, offset: int) -> None:
        """Forget the instructions at this offset of every page: a debugger wants to stop at one of them."""
        self._words[np.flatnonzero(self._generations), (offset & 0xFFF) >> 1] = 0


class Hart:
    """Registers, control state and the engine of hart ``index``."""

    def __init__(self, index: int, engine: Any, ram: Shared, ram_base: int, irq: IrqPage, clock: ClockPage) -> None:
        self.index = index
        self.engine = engine
        registers = np.zeros(st.ALL, np.int64)
        self.state = registers[: st.SIZE]
        self.x = registers[st.X_AT : st.F_AT]
        self.f = registers[st.F_AT :]
        self.exits = dict.fromkeys(st.EXIT_NAMES, 0)
        self.engine_name = INTERPRETER
        self.condition = STARTED
        self.waiting = False  # in a WFI that Python sees to the end of
        self.fences: list[tuple[Hart, int]] = []  # posts that must be seen before this hart goes on
        self.wake_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._memory = GuestMemory(ram, ram_base)
        self._code = DecodedCode(ram.size)
        self._tlb = np.full(st.TLB_WORDS, -1, np.int64)
        self._filled = np.zeros(2 * st.FILLED_MOST, np.int64)
        self._crossings = np.full(st.CROSSINGS * 2, -1, np.int64)
        self._timespec = np.zeros(2, np.int64)
        self._timeout = np.zeros(2, np.int64)
        self._pollfds = np.zeros((2, 2), np.int32)  # struct pollfd: fd, then events and revents
        self._pollfds[:, 1] = select.POLLIN
        self._watch = np.zeros(1, np.int64)
        self._one = np.ones(1, np.int64)
        self._windows = np.zeros((1, st.WINDOW_WORDS), np.int64)
        self._x_host = int(self.x.ctypes.data)
        self._f_host = int(self.f.ctypes.data)
        for name, value in {
            "RAM_BASE": ram_base,
            "RAM_SIZE": ram.size,
            "RAM_HOST": address_of(ram),
            "DEC_HOST": self._code.decoded,
            "COPY_HOST": self._code.copy,
            "PAGE_GENERATION_HOST": self._code.generation,
            "UNDECODED_HOST": self._code.undecoded,
            "GENERATION": 1,
            "TLB_HOST": int(self._tlb.ctypes.data),
            "FILLED_HOST": int(self._filled.ctypes.data),
            "CROSSING_HOST": int(self._crossings.ctypes.data),
            "LOOK_HOST": address_of(irq.shared, IrqPage.LOOK),
            "CLOCK_FUNCTION": _address("clock_gettime"),
            "READ_FUNCTION": _address("read"),
            "WRITE_FUNCTION": _address("write"),
            "PPOLL_FUNCTION": _address("ppoll"),
            "MEMCMP_FUNCTION": _address("memcmp"),
            "MEMSET_FUNCTION": _address("memset"),
            "MADVISE_FUNCTION": _address("madvise"),
            **engine.addresses,
            "TIMESPEC_HOST": int(self._timespec.ctypes.data),
            "ONE_HOST": int(self._one.ctypes.data),
            "CLOCK_OFFSET_HOST": address_of(clock.shared, ClockPage.offset_ns.offset),  # type: ignore[attr-defined]
            "CLOCK_RUNNING_HOST": address_of(clock.shared, ClockPage.running.offset),  # type: ignore[attr-defined]
            "CLOCK_STOPPED_HOST": address_of(clock.shared, ClockPage.stopped_at_ns.offset),  # type: ignore[attr-defined]
            "SELF_HOST": int(self.state.ctypes.data),
            "WAKE_FD": self.wake_event,
            "TIMEOUT_HOST": int(self._timeout.ctypes.data),
            "POLLFDS_HOST": int(self._pollfds.ctypes.data),
            "SLEEP_NS": LONGEST_SLEEP_NS,
            "IMSIC_S_BASE": mm.IMSIC_S.base,
            "IMSIC_M_BASE": mm.IMSIC_M.base,
            "BUDGET": NO_BUDGET,
            "MHARTID": index,
        }.items():
            self[name] = value
        self._buffer: TranslationBuffer | None = None
        self.connect([self], self._watch, -1)
        self.reset()

    def use(self, engine: str) -> None:
        """Choose what executes from now on: ``INTERPRETER`` or ``TRANSLATOR``.

        Raises:
            HostError: there is no translator for this host.
        """
        if engine == TRANSLATOR and self._buffer is None:
            lacking = missing()
            if lacking:
                raise HostError(f"the translator needs {lacking}", hint='vm.engine = "auto" takes what there is')
            self._buffer = TranslationBuffer(self["RAM_SIZE"])
            for name, value in self._buffer.slots().items():
                self[name] = value
            self.state[st.FLAGS_TABLE : st.FLAGS_TABLE + 8] = np.frombuffer(FLAGS_TABLE, np.int64)
        self.engine_name = engine
        self["TRANSLATING"] = int(engine == TRANSLATOR)
        self.flush_translations()

    def connect(self, harts: Iterable[Hart], watch: Any, irq_event: int) -> None:
        """Tell the hart of all harts, itself included, in the order of their numbers.

        The sleeping hart that finds ``watch`` zero and sets it is the one that waits for ``irq_event`` too.
        """
        self._watch = watch
        self["WATCH_HOST"] = int(watch.ctypes.data)
        self["IRQ_FD"] = irq_event
        self._pollfds[0, 0], self._pollfds[1, 0] = self.wake_event, irq_event
        self._peers = np.array([hart["SELF_HOST"] for hart in harts], np.int64)
        self["HARTS"] = len(self._peers)
        self["HARTS_HOST"] = int(self._peers.ctypes.data)

    def close(self) -> None:
        """Release what the hart holds of the host."""
        os.close(self.wake_event)

    def __getitem__(self, slot: str) -> int:
        return int(self.state[_SLOT[slot]])

    def __setitem__(self, slot: str, value: int) -> None:
        self.state[_SLOT[slot]] = value - (1 << 64) if value >= 1 << 63 else value

    def reset(self) -> None:
        """Put the architectural state to what it is after power-on (RISC-V privileged §3.4)."""
        self.x[:] = 0
        self.f[:] = 0
        for name in _SLOT:
            if name == "EXIT":
                break  # what follows belongs to the engine
            if name != "MHARTID":
                self[name] = 0
        self["PRIV"] = st.M
        self.waiting = False
        self["RESERVATION"] = -1
        self["STIMECMP"] = self["MTIMECMP"] = -1  # unsigned: the end of time
        for name in ("EXIT", "MMIO_DONE", "TIMER_DUE", "LINES", "REMAINING", "PMP_OPEN"):
            self[name] = 0
        for name in st.POSTED:
            if name != "WANTED":  # posts are counted for ever, so that nobody waits for a number that is gone
                self[name] = 0
        self["SEEN"] = self["COLLECTED"] = self["WANTED"]
        self.flush_translations()

    def enter_supervisor(self, pc: int, a0: int, a1: int) -> None:
        """Set what firmware hands over to an S-mode payload: traps delegated, counters and timer open."""
        self["PRIV"] = st.S
        self["PC"] = pc
        self["MEDELEG"] = 0xB1FF
        self["MIDELEG"] = 0x222
        self["MCOUNTEREN"] = self["SCOUNTEREN"] = COUNTERS
        self["MENVCFG"] = MENVCFG_MASK & ~1
        self["MSTATEEN0"] = STATEEN0_MASK
        for place in (1, 2, 3):
            self[f"MSTATEEN{place}"] = -(1 << 63)
        self.open_memory()
        self["BUILTIN_SBI"] = 1
        self.x[10], self.x[11] = a0, a1

    def open_memory(self) -> None:
        """Let S and U mode reach all memory: one entry, NAPOT over everything."""
        self["PMPADDR0"], self["PMPCFG0"], self["PMP_OPEN"] = (1 << 54) - 1, 0x1F, 1

    def next_timer(self, now: int) -> int:
        """Return the tick at which the next timer interrupt becomes due; one that is due already ends no sleep."""
        never = (1 << 64) - 1
        return min((due for due in (self["STIMECMP"] & never, self["MTIMECMP"] & never) if due > now), default=never)

    def enter_machine(self, pc: int) -> None:
        """Begin in M mode at ``pc``, with registers as after a reset."""
        self["PRIV"] = st.M
        self["PC"] = pc
        self["BUILTIN_SBI"] = 0

    def set_windows(self, rows: list[list[int]]) -> Any:
        """Replace the windows that compiled code serves by itself.

        Returns the old table, which has to live until no hart can be reading it. The new one is no shorter: a hart
        may pair its address with the old count.
        """
        old = self._windows
        table = np.zeros((max(len(old), len(rows)), st.WINDOW_WORDS), np.int64)
        for index, row in enumerate(rows):
            table[index, : len(row)] = row
        self["WINDOWS"] = 0
        self._windows = table
        self["WINDOWS_HOST"] = int(table.ctypes.data)
        self["WINDOWS"] = len(rows)
        self["MEMORIES"] = int(any(table[:, st.W_MEMORY]))
        return old

    def run(self) -> int:
        """Execute until something needs Python; return why (``EXIT_*``)."""
        self.state[_SLOT["EXIT"]] = 0
        self.engine.run(self.state, self._x_host, self._f_host)
        reason = int(self.state[_SLOT["EXIT"]])
        self.exits[st.EXIT_NAMES[reason]] += 1
        return reason

    def translate(self, va: int) -> int | None:
        """Return the physical address that ``va`` has for an observer, whatever the permissions; ``None`` if none.

        For debuggers: walks the tables in Python, changes nothing.
        """
        satp = self["SATP"] & (1 << 64) - 1
        va &= (1 << 64) - 1
        if satp >> 60 == 0 or self["PRIV"] == st.M:
            return va
        table, levels = (satp & 0xFFF_FFFF_FFFF) << 12, (satp >> 60) - 5
        if (va + (1 << 11 + 9 * levels) & (1 << 64) - 1) >> 12 + 9 * levels:
            return None  # the bits above the address are not copies of its highest
        for level in reversed(range(levels)):
            pte = self._memory.load(table + (va >> 12 + 9 * level & 511) * 8, 8)
            if pte is None or not pte & 1:
                return None
            below = (1 << 12 + 9 * level) - 1
            if pte & 0xA:
                if pte >> 63:  # Svnapot: 64 KiB
                    pte, below = pte & ~(15 << 10), 0xFFFF
                return ((pte >> 10 & 0xFFF_FFFF_FFFF) << 12) & ~below | va & below
            table = (pte >> 10 & 0xFFF_FFFF_FFFF) << 12
        return None

    def fetch(self, va: int) -> int | None:
        """Return the instruction word at ``va`` without side effects, or ``None`` where there is no memory."""
        parcels = []
        for at in (va, va + 2):
            pa = self.translate(at)
            parcels.append(None if pa is None else self._memory.load(pa, 2))
        if parcels[0] is None:
            return None
        return parcels[0] if parcels[0] & 3 != 3 else parcels[0] | (parcels[1] or 0) << 16

    def flush_translations(self) -> None:
        """Forget translations and look at all code again (what a remote fence asks for)."""
        self["GENERATION"] += 1
        self._tlb[:] = -1
        self._crossings[:] = -1
        if self._buffer:
            self._buffer.forget_jumps()

    def forget_code_at(self, va: int) -> None:
        """Have the instruction at ``va`` decoded anew wherever it is; pages are looked at when they are entered."""
        self._code.forget(va)
        self._tlb[st.TLB_FETCHES :] = -1

    def pending_enabled(self) -> bool:
        """Tell whether WFI would return now."""
        return bool(self.engine.pending(self.state) & self["MIE"])

    # what any thread may call

    def stop(self) -> None:
        """Have the hart come out of compiled code."""
        self["STOP_REQUEST"] = 1

    def wake(self) -> None:
        """End the hart's sleep."""
        with suppress(BlockingIOError):  # a counter that is full wakes as well
            os.eventfd_write(self.wake_event, 1)

    def post(self, slot: str, bits: int) -> int:
        """Leave bits in a ``POSTED_*`` slot; return the number that ``has_seen`` takes."""
        target, write, one = self["SELF_HOST"], self["WRITE_FUNCTION"], self["ONE_HOST"]
        return int(self.engine.post(target, _SLOT[slot], bits - (1 << 64) if bits >= 1 << 63 else bits, write, one))

    def has_seen(self, number: int) -> bool:
        """Tell whether the hart executes nothing any more that began before the post of this number."""
        return self["SEEN"] >= number or not self["RUNNING"]

    def set_external(self, file: str, identity: int) -> None:
        """Make ``identity`` pending in the interrupt file ``SI`` or ``MI``."""
        if 0 < identity < 256:
            self.post(f"POSTED_{file}{identity >> 6}", 1 << (identity & 63))

    def set_line(self, interrupt: int, level: int) -> None:
        """Set the level of the wire for one interrupt of ``mip``; under the machine's lock."""
        bit = 1 << interrupt
        self["LINES"] = self["LINES"] | bit if level else self["LINES"] & ~bit
        self.post("POSTED_MIP", 0)

    def registers(self) -> dict[str, int]:
        """Return all registers by ABI name, as unsigned numbers."""
        mask = (1 << 64) - 1
        values = {"pc": self["PC"] & mask}
        values.update({name: int(self.x[i]) & mask for i, name in enumerate(abi.INTEGER)})
        values["zero"] = 0
        values.update({name: int(self.f[i]) & mask for i, name in enumerate(abi.FLOAT)})
        for name in ("FFLAGS", "FRM", "MSTATUS", "MEDELEG", "MIDELEG", "MIE", "MTVEC", "MEPC", "MCAUSE", "MTVAL"):
            values[name.lower()] = self[name] & mask
        for name in ("STVEC", "SSCRATCH", "SEPC", "SCAUSE", "STVAL", "SATP", "STIMECMP"):
            values[name.lower()] = self[name] & mask
        return values
