"""The way into translated code and out of it again: a few instructions at the start of the buffer.

Unlike everything else here this is made once, by Python.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.x86.assembler import PINNED, S_PLACE, X_PLACE

_SAVED = ("53", "55", "41 54", "41 55", "41 56", "41 57")  # push rbx, rbp, r12 to r15
_RESTORED = ("41 5f", "41 5e", "41 5d", "41 5c", "5d", "5b")


def _pinned(opcode: int) -> bytes:
    """Return mov between each pinned register and its place: 0x8B loads, 0x89 stores."""
    return b"".join(
        bytes((0x48 | host >> 3 << 2, opcode, 0x45 | (host & 7) << 3, X_PLACE + 8 * x & 0xFF))
        for x, host in PINNED.items()
    )


def enter() -> bytes:
    """Return ``enter(code, state, entries, fuel)``, back through ``leave`` with what a block left in rax."""
    return (
        bytes.fromhex("".join(_SAVED))
        + bytes.fromhex("48 8d ae")  # lea rbp, [rsi + …]
        + (-S_PLACE).to_bytes(4, "little")
        + bytes.fromhex("49 89 d4 49 89 ce 48 89 f8")  # mov r12, rdx; mov r14, rcx; mov rax, rdi
        + _pinned(0x8B)
        + bytes.fromhex("ff e0")  # jmp rax
    )


def leave() -> bytes:
    """Return where blocks go when they are left."""
    return (
        _pinned(0x89)
        + bytes.fromhex("4c 89 b5")  # mov S[FUEL], r14
        + (S_PLACE + st.SLOTS["FUEL"] * 8).to_bytes(4, "little", signed=True)
        + bytes.fromhex("".join(_RESTORED) + "c3")
    )


MXCSR_CLEAR = 0x1F80  # to nearest even, nothing trapped, no flags
# invalid, denormal, by zero, overflow, underflow, inexact of the host's flags, bits 0 to 5, as bits of fflags
_FLAGS = (16, 0, 8, 4, 2, 1)
FLAGS_TABLE = bytes(sum(_FLAGS[bit] for bit in range(6) if host >> bit & 1) for host in range(64))

# get_mxcsr() and set_mxcsr(value)
GET_MXCSR = bytes.fromhex("48 83 ec 08 0f ae 1c 24 8b 04 24 48 83 c4 08 c3")
SET_MXCSR = bytes.fromhex("57 0f ae 14 24 5f 31 c0 c3")
