"""The front-end's log of written pages: a bitmap in shared memory, one bit for 4 KiB of guest addresses.

Both sides change it at the same time: the back-end sets bits, the front-end fetches and clears them. So a bit is set
by an atomic operation; Python has none on shared memory, but the kernel has: ``FUTEX_WAKE_OP`` does an atomic OR on a
32-bit word before it looks for anybody to wake, of whom there is none here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform

from protocol.errors import HostError, Malformed
from protocol.memory import Shared, full_fence
from protocol.truncation import Watch

PAGE = 4096  # VHOST_LOG_PAGE
_SYSCALL = {"x86_64": 202}.get(platform.machine(), 98)  # of futex; 98 on all architectures that came later
_WAKE_OP_PRIVATE = 5 | 128
_OR, _OR_SHIFTED = 2 << 28, (2 | 8) << 28  # FUTEX_OP_OR, FUTEX_OP_OPARG_SHIFT
_ALL = 0xFFFF_FFFF

_call = ctypes.PyDLL(None, use_errno=True).syscall
_call.restype = ctypes.c_long
_call.argtypes = [
    ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint
]  # fmt: skip


def atomic_or(address: int, mask: int) -> None:
    """Set the bits of ``mask`` in the 32-bit word at ``address`` of this process, each by an atomic operation.

    Raises:
        HostError: the host's kernel refuses.
    """
    if mask == _ALL:
        operations = [_OR | 0xFFF << 12]  # the operand has 12 bits and a sign
    elif mask < 1 << 11:
        operations = [_OR | mask << 12]
    else:
        operations = [_OR_SHIFTED | bit << 12 for bit in range(32) if mask >> bit & 1]
    for operation in operations:
        if _call(_SYSCALL, address, _WAKE_OP_PRIVATE, 0, None, address, operation) < 0:
            raise HostError(f"atomic operation on the log of pages: {os.strerror(ctypes.get_errno())}")


class DirtyLog:
    """A mapped log; ``mark`` tells the front-end what has been written."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        """Map ``size`` bytes at ``offset`` of ``fd``, which now belongs to this object.

        Raises:
            Malformed: the descriptor is shorter, or the log does not lie on words.
            HostError: it cannot be mapped, or the host has no atomic operation for it.
        """
        try:
            if not size or offset % 8 or offset + size >= 1 << 63 or os.fstat(fd).st_size < offset + size:
                raise Malformed(f"log of {size} bytes at {offset} of its descriptor")
            self._shared = Shared(fd, offset + size)
        except BaseException:
            os.close(fd)
            raise
        self.size = size
        self.watch = Watch(self._shared.map)
        self._first = offset >> 2
        anchor = ctypes.c_char.from_buffer(self._shared.map)
        self._address = ctypes.addressof(anchor) + offset
        del anchor
        try:
            atomic_or(self._address, 0)
        except HostError:
            self.close()
            raise

    def covers(self, end: int) -> bool:
        """Return whether every page below guest address ``end`` has a bit."""
        return end <= self.size * 8 * PAGE

    def mark(self, gpa: int, length: int) -> None:
        """Tell that ``length`` bytes at ``gpa`` have been written, just now: first the data, then the mark.

        Raises:
            HostError: the host's kernel refuses.
        """
        if not length:
            return
        full_fence()  # the data is out before a bit is found set: else it might be cleared for what was there before
        first, last = gpa // PAGE, min((gpa + length - 1) // PAGE, self.size * 8 - 1)
        words = self._shared.u32
        for word in range(first >> 5, (last >> 5) + 1):
            low, high = max(first - 32 * word, 0), min(last - 32 * word, 31)
            mask = (1 << high + 1) - (1 << low)
            place = self._first + word
            missing = mask & ~words[place] if place < len(words) else mask
            if missing:
                atomic_or(self._address + 4 * word, _ALL if mask == _ALL else missing)

    def close(self) -> None:
        """Unmap it."""
        self.watch.close()
        self._shared.close()


assert mmap.PAGESIZE >= PAGE  # a word at the end of the log lies in the mapping's last page
