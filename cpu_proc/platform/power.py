"""sifive_test: the register that powers the machine off, with an exit code, or resets it."""

from __future__ import annotations

from collections.abc import Callable

PASS, FAIL, RESET = 0x5555, 0x3333, 0x7777


class Power:
    """One write-only register; ``off`` gets the exit code, ``reset`` nothing."""

    def __init__(self, off: Callable[[int], None], reset: Callable[[], None]) -> None:
        self._off = off
        self._reset = reset

    def read(self, offset: int, size: int) -> int:
        """Reads are zero."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Act on a finisher value; the code is in bits 31 to 16."""
        if offset != 0 or size not in (2, 4):
            return
        finisher = value & 0xFFFF
        if finisher == PASS:
            self._off(value >> 16)
        elif finisher == FAIL:
            self._off(value >> 16 or 1)
        elif finisher == RESET:
            self._reset()
