"""A PCI function that lives in another process: configuration space, where its BARs are, MSI-X."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from cpu_proc import memory_map as mm
from cpu_proc.calls import Route
from cpu_proc.hart import address_of
from cpu_proc.remote import Remote, Stalled
from protocol.layout import BARS, CONFIG_BAR, CONFIG_SIZE, DevicePage, WriteKind
from protocol.memory import Shared
from protocol.trace import Kind

logger = logging.getLogger(__name__)

COMMAND, BAR0 = 0x04, 0x10
COMMAND_MEMORY, COMMAND_MASTER = 0x2, 0x4
MSIX_ENABLE = 0x8000


@dataclass(frozen=True)
class Msix:
    """MSI-X: vectors, the BAR with the table, where table and pending bits lie in the page, and the capability."""

    vectors: int
    bar: int
    table: int
    pending: int
    capability: int


class Function(Remote):
    """The proxy of one remote function, ``function`` of slot ``slot`` of bus 0."""

    transport = "pci"
    function = 0

    def __init__(
        self, device_id: str, slot: int, page: Shared, doorbells: int, stalled: Stalled, calls: int = 0
    ) -> None:
        super().__init__(device_id, slot, page, doorbells, stalled, calls)
        self.msix: Msix | None = None

    # where it is; a card in the slot of a port is elsewhere (``port.Card``)

    @property
    def ecam(self) -> int | None:
        """Where its configuration space is among all of them; ``None`` while it is nowhere."""
        return self.slot << 15 | self.function << 12

    @property
    def wire_slot(self) -> int:
        """The slot of bus 0 that says which wire its pin pulls."""
        return self.slot

    @property
    def wire_bit(self) -> int:
        """Its bit among the functions of this number that pull a wire."""
        return 1 << self.slot

    @property
    def sends_messages(self) -> bool:
        """Whether the guest has enabled MSI-X."""
        return self.msix is not None and bool(self.config(self.msix.capability + 2, 2) & MSIX_ENABLE)

    def settle(self) -> None:
        """Add MSI-X."""
        super().settle()
        self.msix = self._find_msix()

    def _find_msix(self) -> Msix | None:
        page = self.page
        vectors, capability = page.msix_vectors, page.msix_cap
        if not vectors:
            return None
        place = self._places.get(page.msix_bar)
        table, pending = page.msix_table, page.msix_pba
        fits = place is not None and table + 16 * vectors <= place.size and pending + (vectors + 7) // 8 <= place.size
        known = vectors < self.sources.stop - self.sources.start - len(self.calls)
        if place is None or not fits or not known or table & 7 or capability & 3 or capability > CONFIG_SIZE - 12:
            logger.warning("dev=%s MSI-X does not lie in its page: left out", self.id)
            return None
        return Msix(vectors, page.msix_bar, place.image + table, place.image + pending, capability)

    def route(self, source: int) -> Route | None:
        """Return where the thread of calls finds what the message of a call is; ``None`` while somebody traces it."""
        msix = self.msix
        if msix is None or self.trace:
            return None
        page = address_of(self.shared)
        call = source - (self.page.irq_base + self.page.irq_count - len(self.calls))
        vector = page + DevicePage.call_vector_at(call)
        return Route(page + DevicePage.CONFIG + msix.capability + 2, vector, page + msix.table, msix.vectors)

    def due(self, words: list[int]) -> dict[int, list[int]]:
        """Return by vector which of its source words, vectors and calls, differ from what was delivered."""
        found: dict[int, list[int]] = {}
        first_call = len(words) - len(self.calls)
        for source in range(1, len(words)):
            if words[source] != self.last_words[source]:
                call = source - first_call
                vector = source - 1 if call < 0 else self.page.call_vector(call)
                found.setdefault(vector, []).append(source)
        return found

    # configuration space

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return self.read_image(CONFIG_BAR, DevicePage.CONFIG, DevicePage.CONFIG_KINDS, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> bool:
        """Write configuration space under its mask; return whether decoding or MSI-X may have changed."""
        started = time.monotonic_ns() if self.trace else 0
        number, changed = self._config_write(offset, size, value)
        if self.trace:
            self.trace.access(Kind.WRITE, CONFIG_BAR, (offset, size), value, number, started)
        return changed

    def _config_write(self, offset: int, size: int, value: int) -> tuple[int, bool]:
        """Do it; return also the number of the message that it took, or 0."""
        first = DevicePage.CONFIG_KINDS + offset
        kinds = {kind >> 4 for kind in self.shared.u8[first : first + size]}
        if kinds & {WriteKind.POST, WriteKind.SYNC}:
            return self.post(CONFIG_BAR, offset, size, value, sync=WriteKind.SYNC in kinds), False
        for i in range(size):
            at = offset + i
            mask = self.shared.u8[DevicePage.CONFIG_MASK + at]
            old = self.shared.u8[DevicePage.CONFIG + at]
            self.shared.u8[DevicePage.CONFIG + at] = (old & ~mask) | (value >> (8 * i) & mask)
        if WriteKind.RING in kinds and self.doorbells:
            os.eventfd_write(self.doorbells[0], 1)
        cap = self.msix.capability if self.msix else 0
        return 0, offset < BAR0 + 4 * BARS or (cap != 0 and cap <= offset + size and offset < cap + 4)

    def config(self, offset: int, size: int) -> int:
        """Return what configuration space holds, without side effects."""
        return int.from_bytes(self.shared.bytes(DevicePage.CONFIG + offset, size), "little")

    # BARs

    def bar_address(self, index: int) -> int:
        """Return the guest address that BAR ``index`` decodes, 0 when it does not."""
        place = self._places.get(index)
        if place is None or not self.config(COMMAND, 2) & COMMAND_MEMORY:
            return 0
        width = 8 if place.wide else 4
        address = self.config(BAR0 + 4 * index, width) & -16
        top = (1 << (8 * width)) - place.size
        return 0 if address == 0 or address > top else address

    def rows(self, python_stores: int = -1) -> list[list[int]]:
        """Add configuration space, to read from; the table of MSI-X needs a look when it changes."""
        ecam = self.ecam
        if ecam is None:
            return []
        bars = super().rows(self.msix.bar if self.msix else python_stores)
        if self.trace and self.trace.registers:
            return bars
        base = address_of(self.shared)
        row = [
            mm.PCIE_ECAM.base + ecam,
            CONFIG_SIZE,
            base + DevicePage.CONFIG,
            base + DevicePage.CONFIG_KINDS,
            base + DevicePage.posted.offset,  # type: ignore[attr-defined]
            base + DevicePage.processed.offset,  # type: ignore[attr-defined]
        ]
        return [row, *bars]
