"""A random-number source with a counter and an interrupt: the smallest complete PCI device.

Copy this folder, change the numbers, and run it. ``docs/writing-a-device.md`` explains each line.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from devproc.pci import PciDevice
from devproc.registers import Bar, Register


@dataclass(frozen=True)
class Config:
    """The command line of the device."""

    limit: Annotated[int, "words to hand out before the source runs dry, 0 for no limit"] = 0


class Rng(PciDevice):
    """A random-number source: one 32-bit word per read of ``data``."""

    vendor, device, class_code = 0x1234, 0x11E8, 0x10_0000
    vectors = 1
    bar0 = Bar(size=0x100)

    data = Register(bar0, 0x00, access="r", doc="Next word. Reading consumes it.")
    status = Register(bar0, 0x04, access="r", reset=1, shadow=True, doc="Bit 0: words are available.")
    control = Register(bar0, 0x08, mask=0x3, doc="Bit 0: enable. Bit 1: interrupt when the source runs dry.")
    taken = Register(bar0, 0x0C, access="r", doc="Words handed out.")
    events = Register(bar0, 0x10, access="rw1c", mask=0x1, doc="Bit 0: ran dry. Write 1 to clear.")
    scratch = Register(bar0, 0x14, doc="For the driver's own use; stored without asking the device.")

    def __init__(self, config: Config, source: Callable[[int], int] = secrets.randbits) -> None:
        super().__init__()
        self.config = config
        self._source = source

    @data.on_read
    def next_word(self) -> int:
        """Hand out a word; the state is in the page before the guest has it."""
        if not self.control & 1 or not self.status & 1:
            return 0
        self.taken += 1
        if self.taken == self.config.limit:
            self.status = 0
            self.events |= 1
            self._signal()
        return self._source(32)

    @control.on_write
    @events.on_write
    def _changed(self, _value: int) -> None:
        self._signal()

    def _signal(self) -> None:
        wanted = bool(self.events & 1 and self.control & 2)
        if wanted:
            self.interrupt(0)
        self.line(wanted and not self.msix_enabled)
