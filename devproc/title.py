"""The command of this process as others see it, in ``/proc/PID/cmdline``: of a fork it is its parent's otherwise."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
# struct prctl_mm_map of linux/prctl.h: addresses, of which stat(5) tells all but brk; auxv and the executable stay
_MAP = struct.Struct("<12QIi")
_START_CODE, _START_STACK, _START_DATA, _ENV_END = 26, 28, 45, 51

_kept: list[object] = []


def show(argv: list[bytes]) -> bool:
    """Show ``argv``; return whether the kernel lets a process do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    words = b"".join(word + b"\0" for word in argv)
    text = ctypes.create_string_buffer(words, len(words))
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    code, (start_data, end_data, start_brk, _, _, *env) = (
        [int(word) for word in stat[first - 3 : last - 2]]
        for first, last in ((_START_CODE, _START_STACK), (_START_DATA, _ENV_END))
    )
    at = ctypes.addressof(text)
    places = code[0], code[1], start_data, end_data, start_brk, libc.sbrk(0), code[2], at, at + len(words), *env
    table = ctypes.create_string_buffer(_MAP.pack(*places, 0, 0, -1), _MAP.size)
    if libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(table), _MAP.size, 0):
        return False
    _kept[:] = [text]
    return True
