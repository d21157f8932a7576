"""AIA: the IMSIC pages that take messages, and the APLIC that turns wires into messages (RISC-V AIA §3, §4).

The interrupt files themselves are part of the hart's state, where its CSRs reach them (``engine.traps``).
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.hart import Hart
from cpu_proc.memory_map import WIRED_SOURCES

SETEIPNUM_LE = 0x000
SETEIPNUM_BE = 0x004

DOMAINCFG, SOURCECFG, SETIP, SETIPNUM, IN_CLRIP, CLRIPNUM = 0x0000, 0x0004, 0x1C00, 0x1CDC, 0x1D00, 0x1DDC
SETIE, SETIENUM, CLRIE, CLRIENUM, SETIPNUM_LE, SETIPNUM_BE = 0x1E00, 0x1EDC, 0x1F00, 0x1FDC, 0x2000, 0x2004
GENMSI, TARGET = 0x3000, 0x3004
MMSIADDRCFG, SMSIADDRCFGH = 0x1BC0, 0x1BCC  # four words; the upper halves follow the lower
DOMAINCFG_IE, DOMAINCFG_DM = 0x100, 0x004
SOURCECFG_D = 0x400
ADDRCFG_LOCK = 1 << 31  # of the second word
INACTIVE, DETACHED, EDGE1, EDGE0, LEVEL1, LEVEL0 = 0, 1, 4, 5, 6, 7

SendMessage = Callable[[int, int], None]  # (hart, identity)


class Imsic:
    """The memory-mapped pages of the interrupt files of one privilege level: one page per hart."""

    def __init__(self, harts: list[Hart], file: str) -> None:
        self._harts = harts
        self._file = file

    def read(self, offset: int, size: int) -> int:
        """All registers of the page read as zero (§3.5)."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Make the written identity pending."""
        index, register = offset >> 12, offset & 0xFFF
        if size != 4 or index >= len(self._harts):
            return
        if register == SETEIPNUM_LE:
            self._harts[index].set_external(self._file, value)
        elif register == SETEIPNUM_BE:
            self._harts[index].set_external(self._file, int.from_bytes(value.to_bytes(4, "little"), "big"))


class Aplic:
    """One interrupt domain that delivers by messages only; ``send`` makes an identity pending at a hart.

    A domain with a ``child`` hands single sources down to it (§4.5.2); what a domain was not given is inactive there.
    Messages go straight to the harts' interrupt files, whatever addresses firmware has configured for them.
    """

    SAVED = (
        "_given",
        "_level",
        "_addresses",
        "_enabled_domain",
        "_sourcecfg",
        "_target",
        "_pending",
        "_enabled",
        "_genmsi",
    )

    def __init__(self, send: SendMessage, child: Aplic | None = None) -> None:
        self._send = send
        self.child = child
        self._given = [True] * WIRED_SOURCES
        self._level = [0] * WIRED_SOURCES
        self.reset()

    def reset(self) -> None:
        """Return to power-on state, where nothing is handed down; the wires keep their levels."""
        if self.child:
            self.child.reset()
            for source in range(WIRED_SOURCES):
                self.child.give(source, False)
        self._addresses = [0] * 4
        self._enabled_domain = False
        self._sourcecfg = [0] * WIRED_SOURCES
        self._target = [0] * WIRED_SOURCES
        self._pending = [False] * WIRED_SOURCES
        self._enabled = [False] * WIRED_SOURCES
        self._genmsi = 0

    def delegate_all(self) -> None:
        """Hand every source down, as firmware that serves an S-mode system does."""
        for source in range(1, WIRED_SOURCES):
            self.write(SOURCECFG + (source - 1) * 4, 4, SOURCECFG_D)

    def give(self, source: int, given: bool) -> None:
        """Get a source from the parent, or lose it; either way it begins inactive."""
        if self._given[source] != given:
            self._given[source] = True
            self._configure(source, INACTIVE)
            self._given[source] = given

    def set_line(self, source: int, level: int) -> None:
        """Change the level of a wire, which runs through the domains."""
        if self.child:
            self.child.set_line(source, level)
        before = self._input(source)
        self._level[source] = int(bool(level))
        after = self._input(source)
        if before == after:
            return
        mode = self._sourcecfg[source] & 7
        if mode in (LEVEL1, LEVEL0):
            # §4.7: in message mode a level source is pending from the rise until it is forwarded or the wire falls
            self._pending[source] = bool(after)
        elif after and mode in (EDGE1, EDGE0):
            self._pending[source] = True
        self._forward(source)

    def feel_edges(self, source: int) -> None:
        """Nothing: what a source is sensitive to is the guest's to say (``sourcecfg``)."""

    def _input(self, source: int) -> int:
        """Return the rectified input (§4.5.2)."""
        mode = self._sourcecfg[source] & 7
        if mode in (EDGE0, LEVEL0):
            return 1 - self._level[source]
        return self._level[source] if mode in (EDGE1, LEVEL1) else 0

    def _forward(self, source: int) -> None:
        if self._enabled_domain and self._pending[source] and self._enabled[source]:
            self._pending[source] = False
            target = self._target[source]
            self._send(target >> 18, target & 0x7FF)

    def _set_pending(self, source: int) -> None:
        if not 0 < source < WIRED_SOURCES:
            return
        mode = self._sourcecfg[source] & 7
        if mode == INACTIVE or (mode in (LEVEL1, LEVEL0) and not self._input(source)):
            return
        self._pending[source] = True
        self._forward(source)

    def _set_enabled(self, source: int, enabled: bool) -> None:
        if 0 < source < WIRED_SOURCES and self._sourcecfg[source] & 7:
            self._enabled[source] = enabled
            self._forward(source)

    def read(self, offset: int, size: int) -> int:
        """Read a 32-bit register."""
        if size != 4:
            return 0
        if MMSIADDRCFG <= offset <= SMSIADDRCFGH and self.child:
            return self._addresses[(offset - MMSIADDRCFG) >> 2]
        if offset == DOMAINCFG:
            return 0x8000_0000 | (DOMAINCFG_IE if self._enabled_domain else 0) | DOMAINCFG_DM
        if SOURCECFG <= offset < SOURCECFG + (WIRED_SOURCES - 1) * 4:
            return self._sourcecfg[offset >> 2]
        if TARGET <= offset < TARGET + (WIRED_SOURCES - 1) * 4:
            return self._target[(offset - GENMSI) >> 2]
        rows: tuple[tuple[int, Callable[[int], int]], ...] = (
            (SETIP, lambda i: self._pending[i]),
            (IN_CLRIP, self._input),
            (SETIE, lambda i: self._enabled[i]),
        )
        for base, source_bit in rows:
            if base <= offset < base + WIRED_SOURCES // 8:
                first = (offset - base) * 8
                return sum(1 << i for i in range(32) if source_bit(first + i))
        return self._genmsi if offset == GENMSI else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a 32-bit register."""
        if size != 4:
            return
        words = WIRED_SOURCES // 8
        if offset == DOMAINCFG:
            self._enabled_domain = bool(value & DOMAINCFG_IE)
            for source in range(1, WIRED_SOURCES):
                self._forward(source)
        elif SOURCECFG <= offset < SOURCECFG + (WIRED_SOURCES - 1) * 4:
            self._configure(offset >> 2, value)
        elif TARGET <= offset < TARGET + (WIRED_SOURCES - 1) * 4:
            self._target[(offset - GENMSI) >> 2] = value & 0xFFFC_07FF
        elif SETIP <= offset < SETIP + words:
            self._each(offset - SETIP, value, self._set_pending)
        elif IN_CLRIP <= offset < IN_CLRIP + words:
            self._each(offset - IN_CLRIP, value, self._clear_pending)
        elif SETIE <= offset < SETIE + words:
            self._each(offset - SETIE, value, lambda s: self._set_enabled(s, True))
        elif CLRIE <= offset < CLRIE + words:
            self._each(offset - CLRIE, value, lambda s: self._set_enabled(s, False))
        elif offset in (SETIPNUM, SETIPNUM_LE):
            self._set_pending(value)
        elif offset == SETIPNUM_BE:
            self._set_pending(int.from_bytes(value.to_bytes(4, "little"), "big"))
        elif offset == CLRIPNUM:
            self._clear_pending(value)
        elif offset == SETIENUM:
            self._set_enabled(value, True)
        elif offset == CLRIENUM:
            self._set_enabled(value, False)
        elif MMSIADDRCFG <= offset <= SMSIADDRCFGH:
            if not self._addresses[1] & ADDRCFG_LOCK:
                self._addresses[(offset - MMSIADDRCFG) >> 2] = value
        elif offset == GENMSI:
            self._genmsi = value & 0xFFFC_07FF
            self._send(value >> 18, value & 0x7FF)

    def _configure(self, source: int, value: int) -> None:
        if not self._given[source]:
            return
        mode, down = value & 7, bool(value & SOURCECFG_D)
        if down or mode in (2, 3):  # handed down, to nobody perhaps; reserved modes
            mode = INACTIVE
        if self.child:
            self.child.give(source, down)
        self._sourcecfg[source] = SOURCECFG_D if down and self.child else mode
        self._pending[source] = bool(mode in (LEVEL1, LEVEL0) and self._input(source))
        if mode == INACTIVE:
            self._enabled[source] = False
            self._target[source] = 0
        self._forward(source)

    def _clear_pending(self, source: int) -> None:
        if 0 < source < WIRED_SOURCES:  # level sources too, in a domain that delivers by messages (§4.7)
            self._pending[source] = False

    @staticmethod
    def _each(byte: int, bits: int, act: Callable[[int], None]) -> None:
        for i in range(32):
            if bits >> i & 1:
                act(byte * 8 + i)
