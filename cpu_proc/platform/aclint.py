"""ACLINT in the place and layout of the SiFive CLINT: machine software interrupts and machine timer."""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.hart import Hart

_MSIP = 3
MTIMECMP, MTIME = 0x4000, 0xBFF8


class Aclint:
    """msip at 0, mtimecmp at 0x4000, mtime at 0xBFF8; ``ticks`` is the time base."""

    def __init__(self, harts: list[Hart], ticks: Callable[[], int], set_ticks: Callable[[int], None]) -> None:
        self._harts = harts
        self._ticks = ticks
        self._set_ticks = set_ticks

    def read(self, offset: int, size: int) -> int:
        """Read msip (4 bytes), mtimecmp or mtime (4 or 8)."""
        if offset < MTIMECMP:
            hart = self._hart(offset >> 2)
            return int(bool(hart and hart["LINES"] >> _MSIP & 1)) if size == 4 else 0
        word = self._wide(offset & ~7)
        return word >> (8 * (offset & 7)) & ((1 << 8 * size) - 1) if size >= 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write msip, mtimecmp or mtime."""
        if size < 4:
            return
        if offset < MTIMECMP:
            hart = self._hart(offset >> 2)
            if hart and size == 4:
                hart.set_line(_MSIP, value & 1)
            return
        aligned = offset & ~7
        if size == 4:
            shift = 8 * (offset & 7)
            value = self._wide(aligned) & ~(0xFFFF_FFFF << shift) | value << shift
        hart = self._hart((aligned - MTIMECMP) >> 3)
        if aligned == MTIME:
            self._set_ticks(value)
        elif hart:
            hart["MTIMECMP"] = value
            hart.post("POSTED_MIP", 0)  # a sleeping hart reckons anew when it wakes

    def _wide(self, aligned: int) -> int:
        if aligned == MTIME:
            return self._ticks()
        hart = self._hart((aligned - MTIMECMP) >> 3)
        return hart["MTIMECMP"] & (1 << 64) - 1 if hart else 0

    def _hart(self, index: int) -> Hart | None:
        return self._harts[index] if 0 <= index < len(self._harts) else None
