"""A real hart over memory of its own, without a machine around it: load words, step, look at registers."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

from cpu_proc.clock import GuestClock
from cpu_proc.engine import compiled
from cpu_proc.hart import INTERPRETER, Hart
from cpu_proc.isa.csr import STATEEN0_MASK, numbers
from protocol.layout import ClockPage, IrqPage
from protocol.memory import Shared

RAM = 0x8000_0000
TABLES = RAM + 0x10_0000  # page tables of ``Bench.map``
MASK = (1 << 64) - 1

U_MODE, S_MODE, M_MODE = 0, 1, 3
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))  # of a page table entry
RWX = V | R | W | X | A | D
NONE, TRAP, MMIO, WFI, SBI, LOOK, STOP, BUDGET = range(8)


@functools.cache
def engine() -> Any:
    """Return the compiled engine."""
    return compiled.load()


def anonymous(size: int, name: str = "test") -> Shared:
    """Return shared memory that has no name in the file system."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return Shared(fd, size)


class Bench:
    """One hart in M mode at the start of RAM, and shorthand for driving it."""

    def __init__(self, ram_size: int = 4 << 20, engine_name: str = INTERPRETER) -> None:
        self.ram = anonymous(ram_size)
        self.irq = IrqPage(anonymous(IrqPage.SIZE))
        self.irq.format()
        self.clock = GuestClock(ClockPage(anonymous(ClockPage.SIZE)))
        self.clock.start()
        self.hart = Hart(0, engine(), self.ram, RAM, self.irq, self.clock.page)
        self.hart.use(engine_name)
        self._ready()

    def reset(self) -> None:
        """Forget everything: registers, memory, decoded code."""
        self.ram.u8[:] = bytes(self.ram.size)
        self.irq.shared.u8[IrqPage.LOOK] = 0
        self.hart.reset()
        for name in ("BUILTIN_SBI", "STOP_REQUEST"):
            self.hart[name] = 0
        self._ready()

    def _ready(self) -> None:
        self.hart["IMSIC_PRESENT"] = 1
        self.hart["SLEEP_NS"] = 1_000_000  # nobody wakes it: WFI comes back
        self.hart["PC"] = RAM
        self.open_memory()
        self.hart["MSTATEEN0"] = STATEEN0_MASK
        self._next_table = 0

    def open_memory(self) -> None:
        """Let S and U mode reach all memory, as firmware does."""
        self.hart.open_memory()

    # memory

    def words(self, at: int, *words: int) -> int:
        """Store 32-bit words at a physical address; return the address after them."""
        for index, word in enumerate(words):
            self.ram.u32[(at - RAM) // 4 + index] = word & 0xFFFF_FFFF
        return at + 4 * len(words)

    def bytes(self, at: int, data: bytes) -> None:
        """Store bytes at a physical address."""
        self.ram.u8[at - RAM : at - RAM + len(data)] = data

    def store(self, at: int, value: int, size: int = 8) -> None:
        """Store one number."""
        self.bytes(at, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def load(self, at: int, size: int = 8) -> int:
        """Return one number."""
        return int.from_bytes(self.ram.u8[at - RAM : at - RAM + size], "little")

    # registers

    def x(self, number: int) -> int:
        """Return an integer register, unsigned."""
        return int(self.hart.x[number]) & MASK

    def set_x(self, number: int, value: int) -> None:
        """Set an integer register."""
        self.hart.x[number] = signed(value)

    def f(self, number: int) -> int:
        """Return a floating register's bits."""
        return int(self.hart.f[number]) & MASK

    def set_f(self, number: int, value: int) -> None:
        """Set a floating register's bits."""
        self.hart.f[number] = signed(value)

    def get(self, slot: str) -> int:
        """Return a slot of the state vector, unsigned."""
        return self.hart[slot] & MASK

    def __getitem__(self, slot: str) -> int:
        return self.get(slot)

    def __setitem__(self, slot: str, value: int) -> None:
        self.hart[slot] = signed(value)

    # running

    def step(self, count: int = 1) -> int:
        """Execute up to ``count`` instructions, trapped ones included; return why it ended."""
        self.hart["BUDGET"] = count
        return self.hart.run()

    def run(self, program: Iterable[int], at: int = RAM, count: int | None = None) -> int:
        """Put instruction words at ``at`` and step through them once."""
        words = list(program)
        self.words(at, *words)
        self.hart["PC"] = at
        self.hart.flush_translations()  # new code, as after fence.i
        return self.step(len(words) if count is None else count)

    def trapped(self, mode: str = "M") -> tuple[int, int, int]:
        """Return (cause, epc, tval) as the mode ``M`` or ``S`` sees them."""
        low = mode.lower()
        return self.get(f"{low}cause".upper()), self.get(f"{low}epc".upper()), self.get(f"{low}tval".upper())

    # address spaces

    def map(self, va: int, pa: int, flags: int, level: int = 0, levels: int = 3) -> int:
        """Enter one translation into the tables at ``TABLES`` and turn it on; return where its entry is."""
        if not self._next_table:
            self._next_table = TABLES + 0x1000
        self.hart["SATP"] = signed(levels + 5 << 60 | TABLES >> 12)
        table = TABLES
        for depth in range(levels - 1, level, -1):
            at = table + (va >> 12 + 9 * depth & 511) * 8
            if not self.load(at) & 1:
                self.store(at, self._next_table >> 12 << 10 | V)
                self._next_table += 0x1000
            table = self.load(at) >> 10 << 12
        at = table + (va >> 12 + 9 * level & 511) * 8
        self.store(at, pa >> 12 << 10 | flags)
        self.hart.flush_translations()
        return at

    def close(self) -> None:
        """Give the memory back; the hart keeps addresses into it, so nothing runs after this."""
        self.hart.close()
        for shared in (self.ram, self.irq.shared, self.clock.page.shared):
            shared.close()


def signed(value: int) -> int:
    """Return the 64-bit pattern of ``value`` as the int64 that the state vector holds."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


# Encoders of the formats: enough of an assembler for directed tests (RISC-V unprivileged §2.3)


def r_type(opcode: int, funct3: int, funct7: int, rd: int = 0, rs1: int = 0, rs2: int = 0) -> int:
    """Return an R-type word."""
    return funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def i_type(opcode: int, funct3: int, rd: int, rs1: int, imm: int) -> int:
    """Return an I-type word."""
    return (imm & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def s_type(opcode: int, funct3: int, rs1: int, rs2: int, imm: int) -> int:
    """Return an S-type word."""
    return (imm >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 31) << 7 | opcode


def b_type(funct3: int, rs1: int, rs2: int, offset: int) -> int:
    """Return a branch."""
    return (
        (offset >> 12 & 1) << 31 | (offset >> 5 & 63) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12
        | (offset >> 1 & 15) << 8 | (offset >> 11 & 1) << 7 | 0x63
    )  # fmt: skip


def jal(rd: int, offset: int) -> int:
    """Return ``jal``."""
    return (
        (offset >> 20 & 1) << 31 | (offset >> 1 & 0x3FF) << 21 | (offset >> 11 & 1) << 20
        | (offset >> 12 & 0xFF) << 12 | rd << 7 | 0x6F
    )  # fmt: skip


def addi(rd: int, rs1: int, imm: int) -> int:
    """Return ``addi``."""
    return i_type(0x13, 0, rd, rs1, imm)


def jalr(rd: int, rs1: int, imm: int = 0) -> int:
    """Return ``jalr``."""
    return i_type(0x67, 0, rd, rs1, imm)


_WIDTHS = {"b": 0, "h": 1, "w": 2, "d": 3, "bu": 4, "hu": 5, "wu": 6}


def load(width: str, rd: int, rs1: int, imm: int = 0) -> int:
    """Return ``lb`` … ``lwu`` by suffix."""
    return i_type(0x03, _WIDTHS[width], rd, rs1, imm)


def store(width: str, rs2: int, rs1: int, imm: int = 0) -> int:
    """Return ``sb`` … ``sd`` by suffix."""
    return s_type(0x23, _WIDTHS[width], rs1, rs2, imm)


_CSR_NUMBERS = numbers()


def _csr(funct3: int, csr: str | int, rd: int, rs1: int) -> int:
    return i_type(0x73, funct3, rd, rs1, csr if isinstance(csr, int) else _CSR_NUMBERS[csr])


def csrrw(rd: int, csr: str | int, rs1: int) -> int:
    """Return ``csrrw``."""
    return _csr(1, csr, rd, rs1)


def csrrs(rd: int, csr: str | int, rs1: int = 0) -> int:
    """Return ``csrrs``; with ``rs1`` = 0, ``csrr``."""
    return _csr(2, csr, rd, rs1)


def csrrc(rd: int, csr: str | int, rs1: int) -> int:
    """Return ``csrrc``."""
    return _csr(3, csr, rd, rs1)


def csrrwi(rd: int, csr: str | int, value: int) -> int:
    """Return ``csrrwi``."""
    return _csr(5, csr, rd, value)


def csrrsi(rd: int, csr: str | int, value: int) -> int:
    """Return ``csrrsi``."""
    return _csr(6, csr, rd, value)


def csrrci(rd: int, csr: str | int, value: int) -> int:
    """Return ``csrrci``."""
    return _csr(7, csr, rd, value)


def amo(funct5: int, width: int, rd: int, rs1: int, rs2: int = 0) -> int:
    """Return an atomic of ``width`` 4 or 8 bytes."""
    return r_type(0x2F, 2 if width == 4 else 3, funct5 << 2, rd, rs1, rs2)


def lr(width: int, rd: int, rs1: int) -> int:
    """Return ``lr.w`` or ``lr.d``."""
    return amo(0b00010, width, rd, rs1)


def sc(width: int, rd: int, rs2: int, rs1: int) -> int:
    """Return ``sc.w`` or ``sc.d``."""
    return amo(0b00011, width, rd, rs1, rs2)


def sfence(rs1: int = 0, rs2: int = 0) -> int:
    """Return ``sfence.vma``."""
    return r_type(0x73, 0, 0b0001001, 0, rs1, rs2)


NOP = addi(0, 0, 0)
FENCE_I = 0x0000_100F
ECALL, EBREAK, SRET, MRET, WFI_WORD = 0x73, 0x10_0073, 0x1020_0073, 0x3020_0073, 0x1050_0073


def li(rd: int, value: int) -> list[int]:
    """Return the 11 words that load any constant: 11 bits at a time."""
    value &= MASK
    words = [addi(rd, 0, value >> 55)]
    for shift in (44, 33, 22, 11, 0):
        words += [i_type(0x13, 1, rd, rd, 11), i_type(0x13, 6, rd, rd, value >> shift & 0x7FF)]
    return words
