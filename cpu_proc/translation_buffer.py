"""Memory for translated code: written at one address, executed at another, never both at one (W^X)."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from pathlib import Path
from typing import Any

from cpu_proc.engine import state as st
from cpu_proc.engine.x86 import trampoline
from cpu_proc.engine.x86.translate import ROW

SIZE = 64 << 20
_ROOM = 64 << 10  # for one block more than fits
_START = 4096  # where blocks begin, after the trampoline
_WAYS_OUT = st.BLOCK_MOST * 8  # that one block may have
_PARTS = {"TRAMPOLINE": (0, trampoline.enter()), "LEAVE": (st.LEAVE_AT, trampoline.leave()),
          "GET_MXCSR": (512, trampoline.GET_MXCSR), "SET_MXCSR": (576, trampoline.SET_MXCSR)}  # fmt: skip
_NEEDED = ("abm", "bmi1", "bmi2", "fma", "popcnt")  # what the emitter uses, as /proc/cpuinfo spells it


def missing() -> str | None:
    """Return what the translator lacks on this host, or ``None``."""
    if platform.machine() != "x86_64":
        return f"an emitter for {platform.machine()}"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "/proc/cpuinfo, which tells what the host's CPU has"
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    lacking = [name for name in _NEEDED if name not in flags]
    return f"the host's CPU to have {', '.join(lacking)}" if lacking else None


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
        self._fixups = mmap.mmap(-1, _WAYS_OUT * ROW)
        self._escapes = mmap.mmap(-1, mmap.PAGESIZE)
        for at, code in _PARTS.values():
            self._writable[at : at + len(code)] = code
        self.forget_jumps()

    def forget_jumps(self) -> None:
        """Forget which block is at which virtual address."""
        self._jumps[:] = b"\xff" * len(self._jumps)

    def slots(self) -> dict[str, int]:
        """Return what the hart's state vector has to say about it."""
        writable, executable = _address(self._writable), _read_only_address(self._executable)
        return {
            "CODE_HOST": _address(self._codes),
            "CODE_BASE": writable,
            "CODE_START": writable + _START,
            "EMIT": writable + _START,
            "CODE_LIMIT": writable + SIZE - _ROOM,
            "CODE_SHIFT": executable - writable,
            "JUMPS_HOST": _address(self._jumps),
            "FIXUPS_HOST": _address(self._fixups),
            "ESCAPES_HOST": _address(self._escapes),
            **{name: executable + at for name, (at, _) in _PARTS.items() if name in st.SLOTS},
        }


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _read_only_address(memory: mmap.mmap) -> int:
    import numpy as np

    array: Any = np.frombuffer(memory, np.uint8)
    return int(array.ctypes.data)
