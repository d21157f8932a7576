"""Breakpoints and watchpoints: what the client asked for, and the tables in which compiled code looks.

Software and hardware breakpoints are the same here, memory is never changed for one; the client is told which of them
it had asked for. All harts share the tables; they change only while all harts stand still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_proc.engine import state as st
from cpu_proc.hart import Hart

MOST = 256  # of either
SOFTWARE, HARDWARE, WRITE, READ, ACCESS = range(5)  # as in Z packets
_BREAKS = {SOFTWARE: "swbreak", HARDWARE: "hwbreak"}
_WATCHES = {WRITE: "watch", READ: "rwatch", ACCESS: "awatch"}
_KINDS = {WRITE: st.WATCH_STORES, READ: st.WATCH_LOADS, ACCESS: st.WATCH_LOADS | st.WATCH_STORES}
_WATCHED_MOST = 1 << 20  # bytes
_SIGN = 1 << 63


def _signed(address: int) -> int:
    return (address & (_SIGN - 1)) - (address & _SIGN)


@dataclass(frozen=True)
class Point:
    """What one Z packet asked for; ``size`` counts for watchpoints alone."""

    type: int
    address: int
    size: int


class Points:
    """All of them."""

    def __init__(self, harts: list[Hart]) -> None:
        self._harts = harts
        self._breaks = np.zeros(MOST, np.int64)
        self._watches = np.zeros((MOST, st.WATCH_WORDS), np.int64)
        self._set: dict[Point, None] = {}
        for hart in harts:
            hart["BREAKS_HOST"] = int(self._breaks.ctypes.data)
            hart["WATCHES_HOST"] = int(self._watches.ctypes.data)

    def all(self) -> list[Point]:
        """Return what is set, in the order of its setting."""
        return list(self._set)

    def insert(self, kind: int, address: int, size: int) -> bool:
        """Set one; again is the same as once. Tell whether there is room for it."""
        if kind >= WRITE and not (0 < size <= _WATCHED_MOST and (address & (_SIGN - 1)) + size <= _SIGN):
            return False
        point = Point(kind, address, size if kind >= WRITE else 0)
        if point in self._set:
            return True
        if sum((other.type >= WRITE) == (kind >= WRITE) for other in self._set) >= MOST:
            return False
        self._set[point] = None
        self._publish()
        for hart in self._harts:
            if kind >= WRITE:
                hart.flush_translations()
            else:
                hart.forget_code_at(address)
        return True

    def remove(self, kind: int, address: int, size: int) -> None:
        """Take one away, if it is there."""
        self._set.pop(Point(kind, address, size if kind >= WRITE else 0), None)
        self._publish()

    def clear(self) -> None:
        """Take all away."""
        self._set.clear()
        self._publish()

    def break_at(self, pc: int) -> str:
        """Return the stop reason of a breakpoint at ``pc``, or nothing."""
        pc &= (1 << 64) - 1
        return next((word for kind, word in _BREAKS.items() if Point(kind, pc, 0) in self._set), "")

    def watch(self, row: int) -> tuple[str, int] | None:
        """Return the stop reason and address of a row of the table, counted from one."""
        watches = [point for point in self._set if point.type >= WRITE]
        if not 0 < row <= len(watches):
            return None
        return _WATCHES[watches[row - 1].type], watches[row - 1].address

    def _publish(self) -> None:
        breaks = {point.address for point in self._set if point.type < WRITE}
        watches = [point for point in self._set if point.type >= WRITE]
        for index, address in enumerate(sorted(breaks)):
            self._breaks[index] = _signed(address)
        for index, point in enumerate(watches):
            last = _signed(point.address + point.size - 1)
            self._watches[index] = (_signed(point.address), last, _KINDS[point.type])
        for hart in self._harts:
            hart["BREAKS"], hart["WATCHES"] = len(breaks), len(watches)
