"""Shared memory whose owner makes it shorter: what is mapped beyond its end raises SIGBUS, which ends a process.

While a ``survival`` is in force, a page of watched memory that is gone becomes a page of zeros of our own, and its
``Watch`` is ``torn``: the connection can be given up in order, and everything else of the process lives on. What the
kernel itself finds missing, in ``preadv`` and its like, is ``EFAULT`` anyway.

The handler is Python, called by ctypes in the midst of an access. That is sound for the accesses there are: through
views, by the interpreter, which holds its lock and no other. A SIGBUS of anything else goes to the handler of before,
which is put back when the last ``survival`` ends.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PAGE = mmap.PAGESIZE
_SIGINFO = 4  # SA_SIGINFO
_ADDRESS = 16  # of si_addr, on hosts with 64 bits
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
]  # fmt: skip
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """The C library's ``struct sigaction``."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Buffer(ctypes.Structure):
    """Python's ``Py_buffer``, of which the first word is the address."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15))


def _address(mapping: mmap.mmap) -> int:
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(found), 0)  # also where it is read-only
    address = found.address or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return address


class Watch:
    """A mapping that somebody else can make shorter."""

    def __init__(self, mapping: mmap.mmap, start: int = 0, size: int | None = None) -> None:
        """Watch ``size`` bytes of ``mapping`` from ``start`` on, or all of it."""
        self._start = _address(mapping) + start
        self._end = self._start + (len(mapping) - start if size is None else size)
        self.torn = False
        """Whether a page was found missing."""
        _watches.append(self)

    def mend(self, address: int) -> bool:
        """Put a page of zeros at ``address``, if it is in this mapping; return whether it is there now."""
        if not self._start <= address < self._end:
            return False
        page = address & -_PAGE
        self.torn = True
        return bool(_libc.mmap(page, _PAGE, mmap.PROT_READ | mmap.PROT_WRITE, _FLAGS, -1, 0) == page)

    def close(self) -> None:
        """Watch no longer: before the memory is unmapped."""
        if self in _watches:
            _watches.remove(self)


_watches: list[Watch] = []
_before = _Action()


def _on_fault(_number: int, info: int, _context: int) -> None:
    address = ctypes.c_void_p.from_address(info + _ADDRESS).value or 0
    if not any(watch.mend(address) for watch in _watches):
        _libc.sigaction(signal.SIGBUS, ctypes.byref(_before), None)  # the access comes again, and is theirs


_handler = _Handler(_on_fault)


class _Survivals:
    """How many there are: the first installs the handler, the last puts that of before back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def begin(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                ours = _Action(handler=ctypes.cast(_handler, ctypes.c_void_p), flags=_SIGINFO)
                _libc.sigaction(signal.SIGBUS, ctypes.byref(ours), ctypes.byref(_before))

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count:
                return
            now = _Action()
            _libc.sigaction(signal.SIGBUS, None, ctypes.byref(now))
            if now.handler == ctypes.cast(_handler, ctypes.c_void_p).value:  # else somebody came after us, and stays
                _libc.sigaction(signal.SIGBUS, ctypes.byref(_before), None)


_survivals = _Survivals()


@contextmanager
def survival() -> Iterator[None]:
    """Survive that watched memory becomes shorter, as long as the context lasts, or another one of this process."""
    _survivals.begin()
    try:
        yield
    finally:
        _survivals.end()
