"""What a device process is offered when it attaches: the page, memory, interrupts, a link; and what it hands over.

The proxy of a device, its page and its interrupt sources are made here at the first attachment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, cast

from cpu_proc import memory_map as mm
from cpu_proc.device_memory import DeviceMemory
from cpu_proc.machine import Machine
from cpu_proc.pcie.function import Function
from cpu_proc.pcie.port import Card
from cpu_proc.place import Place
from cpu_proc.platform.bus import PlatformDevice, properties
from cpu_proc.remote import Remote
from cpu_proc.slots import BUSES, Slot, Sources
from protocol import names
from protocol.access import Parts
from protocol.bus import Bus, Fd, Variant
from protocol.errors import ProtocolError, VersionMismatch
from protocol.layout import BARS, NO_CALL_VECTOR, BarFlags, DevicePage
from protocol.link import Link
from protocol.memory import Shared, shm_name

DEVICE1 = "org.busvm.Device1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_OFFER_VERSION = 1
_PAGE_MAX = 64 << 20
_VECTORS_MAX = 2048


@dataclass
class Offer:
    """What one process is offered: the next epoch, and what may differ from what the device has."""

    epoch: int
    page: DevicePage
    calls: list[int]
    more: dict[str, Variant] = field(default_factory=dict)


@dataclass
class Accepted:
    """What a process that has attached is reached by: its link, its pid, and what it has handed over."""

    link: Link
    pid: int
    memory: dict[int, DeviceMemory]
    """Memory that is new, by BAR."""

    def drop(self) -> None:
        """Forget it."""
        self.link.close()
        for memory in self.memory.values():
            memory.close()


def check_wishes(wishes: dict[str, Any]) -> None:
    """Check how much a device wants.

    Raises:
        ProtocolError: beyond reason.
    """
    size, vectors, doorbells = wishes["PageSize"], wishes["Vectors"], wishes["Doorbells"]
    calls = wishes.get("Calls", 0)
    if not DevicePage.STATE <= size <= _PAGE_MAX or max(vectors, doorbells, 2 * calls) > _VECTORS_MAX:
        raise ProtocolError(
            f"unreasonable wishes: page {size}, vectors {vectors}, doorbells {doorbells}, calls {calls}"
        )


def _memory_of(answer: dict[str, Any], remote: Remote, page: DevicePage) -> dict[int, DeviceMemory]:
    """Return the memory that a device hands over, less what the machine has already.

    Raises:
        ProtocolError: some of it is none, or one of its BARs is without.
    """
    found: dict[int, DeviceMemory] = {}
    given = [item for item in answer.get("memory", []) if item[1] >= 0]
    try:
        for number, (bar, fd, writable) in enumerate(given):
            entry = page.bar(bar) if bar < BARS else None
            if entry is None or not entry.flags & BarFlags.MEMORY or bar in found:
                for _, left, _ in given[number:]:
                    os.close(left)
                raise ProtocolError(f"it hands over memory for BAR {bar}, which is none")
            made = found[bar] = DeviceMemory(fd, entry.size, writable=writable)
            old = remote.memory.get(bar)
            if old and (old.identity, old.writable) == (made.identity, made.writable):
                found.pop(bar).close()
        for bar in range(BARS):
            entry = page.bar(bar)
            if entry.size and entry.flags & BarFlags.MEMORY and bar not in {*found, *remote.memory}:
                raise ProtocolError(f"its BAR {bar} is memory, which it does not hand over")
    except BaseException:
        for memory in found.values():
            memory.close()
        raise
    return found


class Offers:
    """Makes offers to the devices of one machine."""

    def __init__(self, machine: Machine, bus: Bus, runtime: names.Runtime, clock: Shared, parts: Parts) -> None:
        self.sources = Sources()
        self._parts = parts
        self._machine = machine
        self._bus = bus
        self._runtime = runtime
        self._clock = clock

    async def wishes(self, owner: str, device_id: str) -> dict[str, Any]:
        """Return what the device process ``owner`` says of itself.

        Raises:
            VersionMismatch: its pages are of another build.
        """
        path = names.device_path(device_id)
        answer = await self._bus.call(owner, path, _PROPERTIES, "GetAll", "s", [DEVICE1])
        found = cast(dict[str, Any], answer[0])
        if found["PageVersion"] != DevicePage.VERSION:
            raise VersionMismatch(f"its page layout is {found['PageVersion']}, ours {DevicePage.VERSION}")
        return found

    def make(self, slot: Slot, place: Place, wishes: dict[str, Any], *, more: bool) -> Remote:
        """Return the proxy of a device that is new, with its page; ``slot`` has it then.

        With ``more`` it is function 0 of several.

        Raises:
            ProtocolError: it wants what is beyond reason.
        """
        check_wishes(wishes)
        kind, doorbells, calls = BUSES[place.bus], wishes["Doorbells"], wishes.get("Calls", 0)
        node = properties(wishes["Node"]) if kind is PlatformDevice else {}
        page = self.new_page(f"dev.{slot.id}", wishes)
        remote = kind(slot.id, place.number, page.shared, doorbells, self._machine.stalled, calls)
        if isinstance(remote, PlatformDevice):
            remote.node = node
        elif isinstance(remote, Card):
            remote.port = self._machine.board.root.ports[place.number]
            page.express = 1
        elif isinstance(remote, Function):
            remote.function = place.function
            page.functions = int(more)
        self._machine.take_calls(remote)
        slot.remote = remote
        return remote

    def new_page(self, name: str, wishes: dict[str, Any], first: int | None = None) -> DevicePage:
        """Return a page for a device to fill, with its calls, and its sources from ``first`` on, else new ones.

        Raises:
            BusvmError: there are no more sources, or the host has no room.
        """
        calls = wishes.get("Calls", 0)
        count = 1 + wishes["Vectors"] + calls
        first = self.sources.take(count) if first is None else first
        page = DevicePage(Shared.create(shm_name(self._runtime.vm, name), wishes["PageSize"]))
        page.format()
        page.irq_base, page.irq_count, page.calls = first, count, calls
        for call in range(calls):
            page.set_call_vector(call, NO_CALL_VECTOR)
        return page

    async def make_offer(self, slot: Slot, owner: str, remote: Remote, offer: Offer) -> Accepted:
        """Have the process ``owner`` attach; ``remote`` is as it was, until it is connected with what is returned.

        Raises:
            BusvmError: it does not; nothing has changed.
        """
        page = offer.page
        pid = await self._parts.process(owner)
        page.epoch = offer.epoch
        link = Link(self._runtime.link(slot.id, offer.epoch), epoch=offer.epoch, bind=True, peer_pid=pid)
        body = {
            "version": Variant("u", _OFFER_VERSION),
            "vm": Variant("s", self._runtime.vm),
            "epoch": Variant("t", offer.epoch),
            "ram": Variant("h", Fd(self._machine.ram.fd)),
            "ram_base": Variant("t", mm.DRAM_BASE),
            "ram_size": Variant("t", self._machine.ram.size),
            "page": Variant("h", Fd(page.shared.fd)),
            "page_size": Variant("t", page.shared.size),
            "irq": Variant("h", Fd(self._machine.irq.shared.fd)),
            "clock": Variant("h", Fd(self._clock.fd)),
            "irq_event": Variant("h", Fd(self._machine.irq_event)),
            "doorbells": Variant("ah", [Fd(fd) for fd in remote.doorbells]),
            "calls": Variant("ah", [Fd(fd) for fd in offer.calls]),
            "link": Variant("s", link.endpoint),
            "cpu_pid": Variant("u", os.getpid()),
            **offer.more,
        }
        memory: dict[int, DeviceMemory] = {}
        try:
            answered = await self._bus.call(owner, names.device_path(slot.id), DEVICE1, "Attach", "a{sv}", [body])
            memory = _memory_of(answered[0], remote, page)
            if not page.initialised:
                raise ProtocolError("it answered without filling its page")
        except BaseException:
            link.close()
            for unused in memory.values():
                unused.close()
            raise
        return Accepted(link, pid, memory)
