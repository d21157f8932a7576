"""What a device holds while it is part of a machine: everything the offer of ``Device1.Attach`` brought.

The descriptors of an offer belong to this process from the moment it arrives; ``Attachment`` closes all of them,
also when it refuses the offer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, Self

from devproc.device import Machine
from protocol.errors import Malformed, StaleEpoch, VersionMismatch
from protocol.layout import ClockPage, DevicePage, IrqPage
from protocol.link import Link
from protocol.memory import GuestMemory, Shared

OFFER_VERSION = 1


@dataclass(frozen=True)
class Offer:
    """The argument of ``Attach``, by the names and in the types of org.busvm.Device1.xml."""

    version: int
    vm: str
    epoch: int
    ram: int
    ram_base: int
    ram_size: int
    page: int
    page_size: int
    irq: int
    clock: int
    irq_event: int
    doorbells: list[int]
    link: str
    cpu_pid: int
    calls: list[int]
    saved: int

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Return the offer in ``body``; unknown keys are left alone.

        Raises:
            Malformed: a key is missing or of the wrong type. The descriptors in it are closed.
        """
        types: dict[str, type] = {"vm": str, "link": str, "doorbells": list, "calls": list}
        body = {"calls": [], "saved": -1, **body}
        for field in fields(cls):
            if not isinstance(body.get(field.name), types.get(field.name, int)):
                close_all(body)
                raise Malformed(f"Attach: {field.name} is missing or of the wrong type")
        return cls(**{field.name: body[field.name] for field in fields(cls)})


def close_all(body: dict[str, Any]) -> None:
    """Close every descriptor in the body of a refused offer."""
    for key in ("ram", "page", "irq", "clock", "irq_event", "saved"):
        _close(body.get(key))
    for key in ("doorbells", "calls"):
        fds = body.get(key)
        for fd in fds if isinstance(fds, list) else ():
            _close(fd)


def _close(fd: object) -> None:
    if isinstance(fd, int) and fd > 2:
        os.close(fd)


class Attachment:
    """Mapped memory, link, doorbells, calls."""

    def __init__(self, offer: Offer, *, page_size: int, doorbells: int, calls: int = 0) -> None:
        """Map everything and connect the link.

        Raises:
            VersionMismatch: another version of the offer or of a layout.
            StaleEpoch: the page belongs to another incarnation.
            HostError: an object is too small, or cannot be mapped.
        """
        self.offer = offer
        self.doorbells = list(offer.doorbells)
        self.calls = list(offer.calls)
        self._mapped: list[Shared] = []
        self._loose = [offer.ram, offer.page, offer.irq, offer.clock, offer.irq_event]
        self._link: Link | None = None
        try:
            if offer.version != OFFER_VERSION:
                raise VersionMismatch(f"Attach: version {offer.version}, this build speaks {OFFER_VERSION}")
            if len(self.doorbells) != doorbells:
                raise Malformed(f"Attach: {len(self.doorbells)} doorbells, {doorbells} wanted")
            if len(self.calls) != calls:
                raise Malformed(f"Attach: {len(self.calls)} calls, {calls} wanted")
            page = DevicePage(self._map(offer.page, max(page_size, offer.page_size)))
            irq = IrqPage(self._map(offer.irq, IrqPage.SIZE))
            self.clock = ClockPage(self._map(offer.clock, ClockPage.SIZE))
            for layout in (page, irq, self.clock):
                layout.check()
            if page.epoch != offer.epoch:
                raise StaleEpoch(f"Attach: epoch {offer.epoch}, the page has {page.epoch}")
            ram = self._map(offer.ram, offer.ram_size)
            memory = GuestMemory(ram, offer.ram_base)
            self.machine = Machine(
                page, memory, irq, offer.irq_event, tuple(self.doorbells), tuple(self.calls), self.clock
            )
            self._link = Link(offer.link, epoch=offer.epoch, bind=False, peer_pid=offer.cpu_pid)
        except BaseException:
            self.close()
            raise

    @property
    def link(self) -> Link:
        """The link to ``cpu_proc``."""
        if self._link is None:
            raise RuntimeError("no link after close")
        return self._link

    def _map(self, fd: int, size: int) -> Shared:
        shared = Shared(fd, size)
        self._loose.remove(fd)
        self._mapped.append(shared)
        return shared

    def close(self) -> None:
        """Close the link, unmap everything, close every descriptor."""
        if self._link is not None:
            self._link.close()
            self._link = None
        for shared in self._mapped:
            shared.close()
        for fd in [*self._loose, *self.doorbells, *self.calls]:
            os.close(fd)
        self._mapped.clear()
        self._loose.clear()
        self.doorbells.clear()
        self.calls.clear()
