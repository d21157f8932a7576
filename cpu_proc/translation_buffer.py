"""Memory for translated code: written at one address, executed at another, never both at one (W^X)."""

from __future__ import annotations

import ctypes
import mmap
import platform
from pathlib import Path

from cpu_proc.engine import state as st
from cpu_proc.engine.x86 import trampoline
from cpu_proc.engine.x86.translate import ROW

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mremap.restype = ctypes.c_void_p
_LIBC.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MREMAP_MAYMOVE = 1
_FAILED = (1 << 64) - 1  # MAP_FAILED

SIZE = 128 << 20
_ROOM = 64 << 10  # for one block more than fits
_START = 4096  # where blocks begin, after the trampoline
_WAYS = SIZE // 8 * 5  # where the ways out of blocks begin, which are seldom executed
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
        self._writable = mmap.mmap(-1, SIZE)
        self._executable = _executable(_address(self._writable))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        self._codes = mmap.mmap(-1, ram_size * 4, flags=flags)
        self._jumps = mmap.mmap(-1, st.JUMP_BYTES * st.TLB_MODES)
        self._fixups = mmap.mmap(-1, _WAYS_OUT * ROW)
        self._escapes = mmap.mmap(-1, mmap.PAGESIZE)
        self._kept = mmap.mmap(-1, st.KEPT_MOST * 8)
        self._straddles = mmap.mmap(-1, ram_size >> 12)
        for at, code in _PARTS.values():
            self._writable[at : at + len(code)] = code
        self.forget_jumps()

    def forget_jumps(self) -> None:
        """Forget which block is at which virtual address."""
        self._jumps[:] = b"\xff" * len(self._jumps)

    def __del__(self) -> None:
        """Unmap what no object of Python's owns."""
        if getattr(self, "_executable", 0):
            _LIBC.munmap(self._executable, SIZE)

    def slots(self) -> dict[str, int]:
        """Return what the hart's state vector has to say about it."""
        writable, executable = _address(self._writable), self._executable
        return {
            "CODE_HOST": _address(self._codes),
            "CODE_BASE": writable,
            "CODE_START": writable + _START,
            "EMIT": writable + _START,
            "CODE_LIMIT": writable + _WAYS - _ROOM,
            "WAYS_START": writable + _WAYS,
            "EMIT_WAYS": writable + _WAYS,
            "WAYS_LIMIT": writable + SIZE - _ROOM,
            "CODE_SHIFT": executable - writable,
            "JUMPS_HOST": _address(self._jumps),
            "FIXUPS_HOST": _address(self._fixups),
            "ESCAPES_HOST": _address(self._escapes),
            "KEPT_HOST": _address(self._kept),
            "STRADDLES_HOST": _address(self._straddles),
            "MXCSR_CLEAR": trampoline.MXCSR_CLEAR,
            **{name: executable + at for name, (at, _) in _PARTS.items() if name in st.SLOTS},
        }


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _executable(writable: int) -> int:
    """Map the same pages once more, to be executed; perf takes a map of names for anonymous memory alone."""
    mapping = _LIBC.mremap(writable, 0, SIZE, _MREMAP_MAYMOVE)  # of size 0: a second mapping
    if mapping == _FAILED or _LIBC.mprotect(mapping, SIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory for translated code")
    return int(mapping)
