"""PLIC: wires become requests, which harts claim and complete (RISC-V Platform-Level Interrupt Controller 1.0).

The layout is that of QEMU's ``virt``: 96 sources, priorities 0 to 7, an M and an S context per hart. Unlike QEMU's, the
gateway of a level source looks at the wire again on completion (§ Interrupt Gateways), so that nothing that is still
asserted is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.engine.state import M, S
from cpu_proc.memory_map import WIRED_SOURCES

PRIORITY, PENDING, ENABLE, CONTEXT = 0x00_0000, 0x00_1000, 0x00_2000, 0x20_0000
ENABLE_STRIDE, CONTEXT_STRIDE = 0x80, 0x1000
THRESHOLD, CLAIM = 0, 4
PRIORITIES = 7  # three bits; 0 never interrupts
_WORDS = WIRED_SOURCES // 32
_SOURCES = (1 << WIRED_SOURCES) - 2  # source 0 does not exist

SetExternalLine = Callable[[int, int, int], None]  # (hart, privilege mode M or S, level)


class Plic:
    """The controller; ``set_external_line`` gets every change of a hart's external interrupt line.

    Sources in ``edges`` have gateways for edges, which remember one edge while a request is in flight; all others are
    sensitive to levels.
    """

    SAVED = (
        "_level",
        "_priority",
        "_enabled",
        "_threshold",
        "_asserted",
        "_in_flight",
        "_remembered",
        "_pending",
    )

    def __init__(self, harts: int, set_external_line: SetExternalLine, edges: frozenset[int] = frozenset()) -> None:
        self._contexts = [(hart, mode) for hart in range(harts) for mode in (M, S)]
        self._set_external_line = set_external_line
        self._edges = sum(1 << source for source in edges) & _SOURCES
        self._level = 0  # the wires, a bit per source, like all that follows
        self.reset()

    def reset(self) -> None:
        """Return to power-on state; the wires keep their levels."""
        self._priority = [0] * WIRED_SOURCES
        self._enabled = [0] * len(self._contexts)
        self._threshold = [0] * len(self._contexts)
        self._asserted = [0] * len(self._contexts)
        self._in_flight = 0  # claimed and not completed: the gateway forwards nothing
        self._remembered = 0  # edges that came meanwhile
        self._pending = self._level & ~self._edges
        for hart, mode in self._contexts:
            self._set_external_line(hart, mode, 0)

    def set_line(self, source: int, level: int) -> None:
        """Change the level of a wire; a request that was forwarded stays when the wire falls (§ Interrupt Flow)."""
        bit = 1 << source & _SOURCES
        risen = bool(level) and not self._level & bit
        self._level = self._level | bit if level else self._level & ~bit
        if not risen:
            return
        if not self._in_flight & bit:
            self._pending |= bit
            self._update()
        elif self._edges & bit:
            self._remembered |= bit

    def feel_edges(self, source: int) -> None:
        """Give a source a gateway for edges; one that is in flight is remembered."""
        self._edges |= 1 << source & _SOURCES

    def _best(self, context: int, above: int) -> int:
        """Return the source of the highest priority over ``above``, the lowest number among equals; 0 if none."""
        ready = self._pending & self._enabled[context]
        best, best_priority = 0, above
        while ready:
            source = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            if self._priority[source] > best_priority:
                best, best_priority = source, self._priority[source]
        return best

    def _update(self) -> None:
        for context, (hart, mode) in enumerate(self._contexts):
            level = int(self._best(context, self._threshold[context]) != 0)
            if level != self._asserted[context]:
                self._asserted[context] = level
                self._set_external_line(hart, mode, level)

    def _claim(self, context: int) -> int:
        """Take the most urgent request; the threshold masks notifications, not claims (§ Interrupt Claim Process)."""
        source = self._best(context, 0)
        if source:
            self._pending &= ~(1 << source)
            self._in_flight |= 1 << source
            self._update()
        return source

    def _complete(self, context: int, source: int) -> None:
        """Let the gateway forward again; a source that the context has not enabled is ignored (§ Completion)."""
        bit = 1 << source if source < WIRED_SOURCES else 0
        if not bit & self._in_flight & self._enabled[context]:
            return
        self._in_flight &= ~bit
        if bit & (self._remembered | self._level & ~self._edges):
            self._pending |= bit
        self._remembered &= ~bit
        self._update()

    def read(self, offset: int, size: int) -> int:
        """Read a 32-bit register; reading the claim register claims."""
        if size != 4:
            return 0
        if offset < PENDING:
            return self._priority[offset >> 2] if offset >> 2 < WIRED_SOURCES else 0
        if offset < ENABLE:
            return self._pending >> (offset - PENDING) * 8 & 0xFFFF_FFFF
        if offset < CONTEXT:
            context, word = divmod(offset - ENABLE, ENABLE_STRIDE)
            return self._enabled[context] >> word * 8 & 0xFFFF_FFFF if context < len(self._contexts) else 0
        context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
        if context >= len(self._contexts):
            return 0
        if register == CLAIM:
            return self._claim(context)
        return self._threshold[context] if register == THRESHOLD else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a 32-bit register; pending bits are read-only, writing the claim register completes."""
        if size != 4:
            return
        if offset < PENDING:
            if 0 < offset >> 2 < WIRED_SOURCES:
                self._priority[offset >> 2] = value & PRIORITIES
                self._update()
        elif ENABLE <= offset < CONTEXT:
            context, byte = divmod(offset - ENABLE, ENABLE_STRIDE)
            if context < len(self._contexts) and byte >> 2 < _WORDS:
                kept = self._enabled[context] & ~(0xFFFF_FFFF << byte * 8)
                self._enabled[context] = (kept | value << byte * 8) & _SOURCES
                self._update()
        elif offset >= CONTEXT:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context >= len(self._contexts):
                return
            if register == CLAIM:
                self._complete(context, value)
            elif register == THRESHOLD:
                self._threshold[context] = value & PRIORITIES
                self._update()
