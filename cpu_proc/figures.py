"""What a hart's engine has done, in numbers: read while it runs, each for itself, so they need not fit together."""

from __future__ import annotations

import time
from collections.abc import Callable

from cpu_proc.hart import TRANSLATOR, Hart

_LEAST_NS = 500_000_000  # between two looks; what asks sooner gets the answer of the last one
_COUNTERS = {  # of the translator, by slot
    "BLOCKS": "blocks",
    "CODE_FLUSHES": "flushes",
    "CHAINS": "chains",
    "ENTRIES": "entries",
    "INTERPRETED": "interpreted",
}


def translator(hart: Hart) -> dict[str, int]:
    """Return what the translator has made and how it was used; nothing where the interpreter executes.

    ``blocks`` were translated, into ``code_bytes`` of code since the last of the ``flushes``; ``chains`` are jumps that
    lead straight to a block, ``entries`` calls from outside of translated code, ``interpreted`` instructions that the
    interpreter executed nevertheless.
    """
    if hart.engine_name != TRANSLATOR:
        return {}
    figures = {name: hart[slot] for slot, name in _COUNTERS.items()}
    return {**figures, "code_bytes": max(0, hart["EMIT"] - hart["CODE_START"] + hart["EMIT_WAYS"] - hart["WAYS_START"])}


class Speed:
    """Millions of instructions a second of the host's time."""

    def __init__(
        self, hart: Hart, began_ns: Callable[[], int], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Measure ``hart``, whose first instruction is executed at ``began_ns``, or zero while it was not."""
        self._hart = hart
        self._began_ns = began_ns
        self._clock_ns = clock_ns
        self._looked_ns, self._retired = 0, 0
        self._shown = 0.0

    def mips(self) -> float:
        """Return the speed since the last look, at first since the first instruction."""
        now, retired, since = self._clock_ns(), self._hart["INSTRET"], self._looked_ns or self._began_ns()
        if since and now - since >= _LEAST_NS:
            self._shown = max(0, retired - self._retired) * 1000 / (now - since)  # less after a reset
            self._looked_ns, self._retired = now, retired
        return self._shown
