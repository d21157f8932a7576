"""What a device holds while it is part of a machine: everything the offer of ``Device1.Attach`` brought.

An offer has descriptors of its own, since those of the call end with it; ``Attachment`` closes all of them, also when
it refuses the offer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, Self

from devproc.before import Before, Layout
from devproc.machine import Machine
from protocol.bus import Fd
from protocol.errors import HostError, Malformed, StaleEpoch, VersionMismatch
from protocol.layout import ClockPage, DevicePage, IrqPage
from protocol.link import Link
from protocol.memory import GuestMemory, Shared

OFFER_VERSION = 1
_DESCRIPTORS = "ram", "page", "irq", "clock", "irq_event", "saved", "before"
_LISTS = "doorbells", "calls"


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
    before: int
    before_size: int
    layout: str

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Return the offer in ``body``; unknown keys are left alone.

        Raises:
            Malformed: a key is missing or of the wrong type.
            HostError: this process has no more descriptors.
        """
        body = {"calls": [], "saved": Fd(-1), "before": Fd(-1), "before_size": 0, "layout": "", **body}
        for field in fields(cls):
            if not _fits(field.name, body.get(field.name)):
                raise Malformed(f"Attach: {field.name} is missing or of the wrong type")
        own: dict[str, Any] = {}
        try:
            for name in _DESCRIPTORS:
                own[name] = os.dup(body[name]) if body[name] >= 0 else -1
            for name in _LISTS:
                own[name] = []
                own[name].extend(os.dup(fd) for fd in body[name])
        except OSError as error:
            _close_all(own)
            raise HostError(f"Attach: {error.strerror}") from error
        return cls(**{field.name: own.get(field.name, body[field.name]) for field in fields(cls)})

    def close(self) -> None:
        """Close the descriptors of an offer that is refused."""
        _close_all(vars(self))


def _fits(name: str, value: object) -> bool:
    if name in _DESCRIPTORS:
        return isinstance(value, Fd)
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(fd, Fd) for fd in value)
    return isinstance(value, str if name in ("vm", "link", "layout") else int)


def _close_all(values: dict[str, Any]) -> None:
    for fd in [
        *(values.get(name, -1) for name in _DESCRIPTORS),
        *(fd for name in _LISTS for fd in values.get(name, [])),
    ]:
        if fd >= 0:
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
        self._loose += [offer.before] if offer.before >= 0 else []
        self._link: Link | None = None
        try:
            if offer.version != OFFER_VERSION:
                raise VersionMismatch(f"Attach: version {offer.version}, this build speaks {OFFER_VERSION}")
            if len(self.doorbells) != doorbells:
                raise Malformed(f"Attach: {len(self.doorbells)} doorbells, {doorbells} wanted")
            if len(self.calls) != calls:
                raise Malformed(f"Attach: {len(self.calls)} calls, {calls} wanted")
            before: DevicePage | None = None
            page = DevicePage(self._map(offer.page, max(page_size, offer.page_size)))
            irq = IrqPage(self._map(offer.irq, IrqPage.SIZE))
            self.clock = ClockPage(self._map(offer.clock, ClockPage.SIZE))
            for layout in (page, irq, self.clock):
                layout.check()
            if page.epoch != offer.epoch:
                raise StaleEpoch(f"Attach: epoch {offer.epoch}, the page has {page.epoch}")
            if offer.before >= 0:
                before = DevicePage(self._map(offer.before, offer.before_size))
                before.check()
            ram = self._map(offer.ram, offer.ram_size)
            memory = GuestMemory(ram, offer.ram_base)
            self.machine = Machine(
                page, memory, irq, offer.irq_event, tuple(self.doorbells), tuple(self.calls), self.clock
            )
            if before is not None:
                self.machine.before = Before(before, Layout.from_text(offer.layout))
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

    def forget_before(self) -> None:
        """Unmap the page of the process before."""
        before, self.machine.before = self.machine.before, None
        if before is not None:
            self._mapped.remove(before.page.shared)
            before.page.shared.close()

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
