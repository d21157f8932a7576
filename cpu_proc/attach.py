"""Discovery: device processes appear on the bus, and the CPU process attaches them; nobody stands in between.

A device takes the name ``org.busvm.device.<id>``. Its page, doorbells and interrupt sources are made at the first
attachment and outlive it: a later process of the same id gets the same ones with the next epoch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from cpu_proc import memory_map as mm
from cpu_proc.machine import Machine
from cpu_proc.pcie.function import Function
from cpu_proc.place import SLOTS, Place
from cpu_proc.platform.bus import PlatformDevice, properties
from cpu_proc.platform.virtio_mmio import MmioDevice
from cpu_proc.remote import Remote
from protocol import names
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import BusvmError, ProtocolError, VersionMismatch
from protocol.layout import NO_CALL_VECTOR, DevicePage, IrqPage
from protocol.link import Link
from protocol.memory import Shared, shm_name

logger = logging.getLogger(__name__)

_DEVICE1 = "org.busvm.Device1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_OFFER_VERSION = 1
_PAGE_MAX = 64 << 20
_VECTORS_MAX = 2048

MISSING, ATTACHING, ATTACHED, LOST = "missing", "attaching", "attached", "lost"


BUSES: dict[str, type[Remote]] = {kind.transport: kind for kind in (Function, MmioDevice, PlatformDevice)}


class Slot:
    """One slot and what is in it; who comes uninvited has no place until it says what bus it wants."""

    def __init__(self, device_id: str, place: Place | None) -> None:
        self.id = device_id
        self.place = place
        self.state = MISSING
        self.type = ""
        self.failure = ""
        self.remote: Remote | None = None


class Attacher:
    """Attaches what appears on ``bus``; ``changed`` is called with the slot whose state changed."""

    def __init__(
        self,
        machine: Machine,
        bus: Bus,
        runtime: names.Runtime,
        clock: Shared,
        expected: Mapping[str, Place],
        changed: Callable[[Slot], None],
    ) -> None:
        self._machine = machine
        self._bus = bus
        self._runtime = runtime
        self._clock = clock
        self._changed = changed
        self.slots = {device_id: Slot(device_id, place) for device_id, place in expected.items()}
        self._owners: dict[str, str] = {}
        self._next_source = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._complete = asyncio.Event()
        self._closed = False
        self.sealed = False  # once the machine runs, only devices it knows may come (nothing is hot-plugged)
        self._check_complete()

    async def start(self) -> None:
        """Watch the bus, and attach whoever is there already."""
        await self._bus.watch_names(self._on_name)
        for name in await self._bus.list_names():
            owner = await self._bus.name_owner(name) if name.startswith(names.DEVICE_NAME_PREFIX) else None
            if owner:
                self._on_name(name, "", owner)

    async def wait_complete(self) -> None:
        """Return when every expected device is attached."""
        await self._complete.wait()

    def missing(self) -> list[Slot]:
        """Return the slots without an attached device."""
        return [slot for slot in self.slots.values() if slot.state != ATTACHED]

    def _check_complete(self) -> None:
        if not self.missing():
            self._complete.set()

    def _on_name(self, name: str, old: str, new: str) -> None:
        if self._closed or not name.startswith(names.DEVICE_NAME_PREFIX):
            return
        device_id = name.removeprefix(names.DEVICE_NAME_PREFIX)
        if old and self._owners.get(device_id) == old:
            del self._owners[device_id]
            self._lose(device_id)
        if new and self._owners.get(device_id) != new:
            self._owners[device_id] = new
            task = asyncio.get_running_loop().create_task(self._attach(device_id, new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _lose(self, device_id: str) -> None:
        slot = self.slots.get(device_id)
        if slot is None:
            return
        if slot.state == ATTACHING:
            slot.failure = "died while attaching"
        self._set_state(slot, LOST if slot.remote else MISSING)
        if slot.remote:
            logger.warning("dev=%s epoch=%d the device process is gone", device_id, slot.remote.epoch)
            slot.remote.lose()

    def _set_state(self, slot: Slot, state: str) -> None:
        slot.state = state
        self._changed(slot)

    async def _attach(self, device_id: str, owner: str) -> None:
        slot = self._slot_for(device_id)
        if slot is None:
            logger.warning("dev=%s refused: no slot for a new device in a running machine", device_id)
            return
        self._set_state(slot, ATTACHING)
        try:
            await self._offer(slot, owner)
        except (BusvmError, TimeoutError, KeyError, TypeError) as error:
            slot.failure = f"{type(error).__name__}: {error}"
            logger.warning("dev=%s attach failed: %s", device_id, slot.failure)
            if self._owners.get(device_id) == owner:
                self._set_state(slot, LOST if slot.remote else MISSING)
            return
        slot.failure = ""
        self._set_state(slot, ATTACHED)
        logger.info("dev=%s epoch=%d attached pid=%d", device_id, slot.remote.epoch, slot.remote.pid)  # type: ignore[union-attr]
        self._check_complete()

    def _slot_for(self, device_id: str) -> Slot | None:
        slot = self.slots.get(device_id)
        if slot is None and not self.sealed and names.ID_PATTERN.match(device_id):
            slot = self.slots[device_id] = Slot(device_id, None)
        return slot

    def _place(self, slot: Slot, bus: str) -> Place:
        """Return the slot's place on ``bus``, for who comes uninvited the first that is free."""
        if bus not in BUSES:
            raise ProtocolError(f"its transport is {bus!r}, this machine has {' and '.join(BUSES)}")
        if slot.place is None:
            taken = {other.place for other in self.slots.values()}
            free = [place for number in SLOTS[bus] if (place := Place(bus, number)) not in taken]
            if not free:
                raise ProtocolError(f"no slot of {bus} is free")
            slot.place = free[0]
        if slot.place.bus != bus:
            raise ProtocolError(
                f"its transport is {bus!r}, its slot is {slot.place}", hint="--transport is the device's"
            )
        return slot.place

    async def _offer(self, slot: Slot, owner: str) -> None:
        path = names.device_path(slot.id)
        answer = await self._bus.call(owner, path, _PROPERTIES, "GetAll", "s", [_DEVICE1])
        wishes = cast(dict[str, Any], answer[0])
        pid = await self._bus.peer_pid(owner)
        if wishes["PageVersion"] != DevicePage.VERSION:
            raise VersionMismatch(f"its page layout is {wishes['PageVersion']}, ours {DevicePage.VERSION}")
        place = self._place(slot, wishes["Transport"])
        first = slot.remote is None
        remote = slot.remote or self._make(slot, place, wishes)
        shape = remote.shared.size, len(remote.doorbells), len(remote.calls)
        if not first and shape != (wishes["PageSize"], wishes["Doorbells"], wishes.get("Calls", 0)):
            raise ProtocolError("another shape than the device that was there", hint="restart the VM to change it")
        epoch = remote.page.epoch + 1
        remote.page.epoch = epoch
        link = Link(self._runtime.link(slot.id, epoch), epoch=epoch, bind=True, peer_pid=pid)
        offer = {
            "version": Variant("u", _OFFER_VERSION),
            "vm": Variant("s", self._runtime.vm),
            "epoch": Variant("t", epoch),
            "ram": Variant("h", Fd(self._machine.ram.fd)),
            "ram_base": Variant("t", mm.DRAM_BASE),
            "ram_size": Variant("t", self._machine.ram.size),
            "page": Variant("h", Fd(remote.shared.fd)),
            "page_size": Variant("t", remote.shared.size),
            "irq": Variant("h", Fd(self._machine.irq.shared.fd)),
            "clock": Variant("h", Fd(self._clock.fd)),
            "irq_event": Variant("h", Fd(self._machine.irq_event)),
            "doorbells": Variant("ah", [Fd(fd) for fd in remote.doorbells]),
            "calls": Variant("ah", [Fd(fd) for fd in remote.calls]),
            "link": Variant("s", link.endpoint),
            "cpu_pid": Variant("u", os.getpid()),
        }
        try:
            await self._bus.call(owner, path, _DEVICE1, "Attach", "a{sv}", [offer])
            if not remote.page.initialised:
                raise ProtocolError("it answered without filling its page")
            if self._closed or self._owners.get(slot.id) != owner:
                raise BusError("org.busvm.Error.Gone", "it died while attaching")
        except BaseException:
            link.close()
            if first:
                slot.remote = None
                self._machine.forget_calls(remote)
                remote.close()
                remote.release()
            raise
        slot.type = str(wishes["Type"])
        remote.connect(link, pid, epoch)
        if first:
            self._machine.board.add(remote)

    def _make(self, slot: Slot, place: Place, wishes: dict[str, Any]) -> Remote:
        size, vectors, doorbells = wishes["PageSize"], wishes["Vectors"], wishes["Doorbells"]
        calls = wishes.get("Calls", 0)
        if not DevicePage.STATE <= size <= _PAGE_MAX or max(vectors, doorbells, 2 * calls) > _VECTORS_MAX:
            raise ProtocolError(
                f"unreasonable wishes: page {size}, vectors {vectors}, doorbells {doorbells}, calls {calls}"
            )
        sources = 1 + vectors + calls
        if self._next_source + sources > IrqPage.SOURCES:
            raise ProtocolError("out of interrupt sources")
        node = properties(wishes["Node"]) if place.bus == PlatformDevice.transport else {}
        shared = Shared.create(shm_name(self._runtime.vm, f"dev.{slot.id}"), size)
        remote = BUSES[place.bus](slot.id, place.number, shared, doorbells, self._machine.stalled, calls)
        if isinstance(remote, PlatformDevice):
            remote.node = node
        remote.page.format()
        remote.page.irq_base = self._next_source
        remote.page.irq_count = sources
        remote.page.calls = calls
        for call in range(calls):
            remote.page.set_call_vector(call, NO_CALL_VECTOR)
        self._next_source += sources
        self._machine.take_calls(remote)
        slot.remote = remote
        return remote

    async def close(self) -> None:
        """Stop attaching; tell attached devices to leave."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        for slot in self.slots.values():
            if slot.remote and slot.state == ATTACHED:
                try:
                    await self._bus.call(
                        names.device_name(slot.id), names.device_path(slot.id), _DEVICE1, "Detach", timeout_s=5
                    )
                except (BusvmError, TimeoutError) as error:
                    logger.info("dev=%s did not detach: %s", slot.id, error)
