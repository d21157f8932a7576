"""The slots of a machine, what is in them, and the interrupt sources that their devices have."""

from __future__ import annotations

from cpu_proc.pcie.function import Function
from cpu_proc.pcie.port import Card
from cpu_proc.place import Place
from cpu_proc.platform.bus import PlatformDevice
from cpu_proc.platform.virtio_mmio import MmioDevice
from cpu_proc.remote import Remote
from protocol.errors import ProtocolError
from protocol.layout import IrqPage

MISSING, ATTACHING, ATTACHED, LOST = "missing", "attaching", "attached", "lost"
UNPLUGGED = "unplugged"  # its port is empty, and kept for it

BUSES: dict[str, type[Remote]] = {
    "pci": Function,
    "pcie": Card,
    "mmio": MmioDevice,
    "platform": PlatformDevice,
}
TRANSPORTS = {kind.transport for kind in BUSES.values()}


class Slot:
    """One slot and what is in it; who comes uninvited has no place until it says what bus it wants."""

    def __init__(self, device_id: str, place: Place | None, state: str = MISSING) -> None:
        self.id = device_id
        self.place = place
        self.declared = place is not None
        self.state = state
        self.type = ""
        self.failure = ""
        self.remote: Remote | None = None
        self.epoch = 0  # of the last incarnation
        self.asked = False  # the guest has been asked to let go of it
        self.leaving = False  # it is on its way out, and its process may not come again
        self.old_sources: list[slice] = []  # words that an ejected device may still write, until its process is gone

    @property
    def shown(self) -> str:
        """Where it is, for people: behind a port with the number of its bus, once the guest has given one."""
        if isinstance(self.remote, Card) and self.remote.port.bus:
            return f"00:{self.remote.port.slot:02x}.0/{self.remote.port.bus:02x}:00.0"
        return str(self.place or "")


class Sources:
    """The words of the interrupt page."""

    def __init__(self) -> None:
        self._free: list[slice] = []
        self._next = 0

    def take(self, count: int) -> int:
        """Return the first of ``count`` words that nobody has.

        Raises:
            ProtocolError: there are no more.
        """
        for index, free in enumerate(self._free):
            if free.stop - free.start == count:  # a device that comes again has as many as before
                del self._free[index]
                return int(free.start)
        if self._next + count > IrqPage.SOURCES:
            raise ProtocolError("out of interrupt sources")
        self._next += count
        return self._next - count

    def give_back(self, slot: Slot) -> None:
        """Take back those that a slot has had: whoever might still write them is gone."""
        self._free += slot.old_sources
        slot.old_sources = []
