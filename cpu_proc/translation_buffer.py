"""Memory for translated code: written at one address, executed at another, never both at one (W^X)."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from typing import Any

from cpu_proc.engine import state as st

SIZE = 64 << 20
_ROOM = 64 << 10  # for one block more than fits
_START = 4096  # after the trampoline

# rdi: code, rsi: integer registers, rdx: state, rcx: loads, r8: stores, r9: instructions left
_TRAMPOLINE = bytes.fromhex(
    "53 55 41 54 41 55 41 56 41 57 48 83 ec 08"  # push rbx rbp r12 r13 r14 r15; sub rsp, 8
    "48 8d 9e 80 00 00 00 48 89 d5 49 89 cc 4d 89 c5 4d 89 ce"  # lea rbx, [rsi+128]; mov rbp, r12, r13, r14
    "4c 8b bd {page} ff d7 4c 89 b5 {fuel}"  # mov r15, S[CODE_PAGE]; call rdi; mov S[FUEL], r14
    "48 83 c4 08 41 5f 41 5e 41 5d 41 5c 5d 5b c3".format(
        page=(st.SLOTS["CODE_PAGE"] * 8).to_bytes(4, "little").hex(),
        fuel=(st.SLOTS["FUEL"] * 8).to_bytes(4, "little").hex(),
    )
)


def supported() -> bool:
    """Tell whether there is an emitter for this host."""
    return platform.machine() == "x86_64"


class TranslationBuffer:
    """The buffer and the tables of one hart."""

    def __init__(self, ram_size: int) -> None:
        fd = os.memfd_create("busvm-code", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, SIZE)
            self._writable = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._executable = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        finally:
            os.close(fd)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        self._codes = mmap.mmap(-1, ram_size * 4, flags=flags)
        self._jumps = mmap.mmap(-1, st.JUMP_BYTES * st.TLB_MODES)
        self._fixups = mmap.mmap(-1, st.BLOCK_MOST * 24)
        self._writable[: len(_TRAMPOLINE)] = _TRAMPOLINE
        self.forget_jumps()

    def forget_jumps(self) -> None:
        """Forget which block is at which virtual address."""
        self._jumps[:] = b"\xff" * len(self._jumps)

    def slots(self) -> dict[str, int]:
        """Return what the hart's state vector has to say about it."""
        writable, executable = _address(self._writable), _read_only_address(self._executable)
        return {
            "CODE_HOST": _address(self._codes),
            "CODE_START": writable + _START,
            "EMIT": writable + _START,
            "CODE_LIMIT": writable + SIZE - _ROOM,
            "CODE_SHIFT": executable - writable,
            "TRAMPOLINE": executable,
            "JUMPS_HOST": _address(self._jumps),
            "FIXUPS_HOST": _address(self._fixups),
        }


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _read_only_address(memory: mmap.mmap) -> int:
    import numpy as np

    array: Any = np.frombuffer(memory, np.uint8)
    return int(array.ctypes.data)
