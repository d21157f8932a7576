"""The memory of a vhost-user front-end as it comes and goes: while it changes, no ring runs and no host I/O is under
way in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from devproc.vhost_rings import Rings
from protocol.errors import Malformed
from protocol.vhost_user.back_end import Serve
from protocol.vhost_user.connection import Message
from protocol.vhost_user.messages import Request
from protocol.vhost_user.payloads import U64, MemTable, SingleRegion
from protocol.vhost_user.regions import Regions

if TYPE_CHECKING:
    from devproc.vhost_rings import VhostUserDevice

MEMORY_SLOTS = 64


class FrontEndMemory:
    """The front-end's regions as the device's memory."""

    def __init__(self, device: VhostUserDevice, regions: Regions, rings: Rings) -> None:
        self._device = device
        self._regions = regions
        self._rings = rings
        device.machine.memory = regions.memory

    def handlers(self) -> dict[Request, Serve]:
        """Return what serves the messages about memory."""
        return {
            Request.SET_MEM_TABLE: self._set_table,
            Request.GET_MAX_MEM_SLOTS: lambda _message: U64(MEMORY_SLOTS),
            Request.ADD_MEM_REG: self._add,
            Request.REM_MEM_REG: self._remove,
        }

    def _set_table(self, message: Message) -> None:
        regions = message.get(MemTable).regions
        pairs = [(region, message.take_fd()) for region in regions]
        self._exchange(lambda: self._regions.set(pairs))

    def _add(self, message: Message) -> None:
        if len(self._regions.all) >= MEMORY_SLOTS:
            raise Malformed(f"more than {MEMORY_SLOTS} regions")
        fd = message.take_fd()
        self._exchange(lambda: self._regions.add(message.get(SingleRegion).region, fd))

    def _remove(self, message: Message) -> None:
        self._exchange(lambda: self._regions.remove(message.get(SingleRegion).region))

    def _exchange(self, change: Callable[[], None]) -> None:
        with self._rings.paused():
            try:
                change()
            finally:
                self._device.machine.memory = self._regions.memory

    def close(self) -> None:
        """Give all memory up."""
        self._regions.close()
        self._device.machine.memory = self._regions.memory
