"""Discovery: device processes appear on the bus, and the CPU process attaches them; nobody stands in between.

Before the machine runs a device that nobody expected gets the first free slot; from then on a free port, which is how
it is plugged. ``cpu_proc.eject`` takes a device out of its port.

A device takes the name ``org.busvm.device.<id>``. Its page, doorbells and interrupt sources are made at the first
attachment and outlive it: a later process of the same id gets the same ones with the next epoch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from cpu_proc import memory_map as mm
from cpu_proc.device_memory import DeviceMemory
from cpu_proc.machine import Machine
from cpu_proc.pcie.function import Function
from cpu_proc.pcie.port import Card
from cpu_proc.place import SLOTS, Place, port_slot
from cpu_proc.platform.bus import PlatformDevice, properties
from cpu_proc.platform.virtio_mmio import MmioDevice
from cpu_proc.remote import Remote, new_calls
from cpu_proc.saved_device import SavedDevice
from protocol import names
from protocol.access import Parts
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import BusvmError, ConfigError, ProtocolError, VersionMismatch
from protocol.layout import BARS, NO_CALL_VECTOR, BarFlags, DevicePage, IrqPage
from protocol.link import Link
from protocol.memory import Shared, shm_name

logger = logging.getLogger(__name__)

_DEVICE1 = "org.busvm.Device1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_OFFER_VERSION = 1
_PAGE_MAX = 64 << 20
_VECTORS_MAX = 2048

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


def _memory_of(answer: dict[str, Any], remote: Remote) -> dict[int, DeviceMemory]:
    """Return the memory that a device hands over, less what the machine has already.

    Raises:
        ProtocolError: some of it is none, or one of its BARs is without.
    """
    found: dict[int, DeviceMemory] = {}
    given = [item for item in answer.get("memory", []) if item[1] >= 0]
    try:
        for number, (bar, fd, writable) in enumerate(given):
            entry = remote.page.bar(bar) if bar < BARS else None
            if entry is None or not entry.flags & BarFlags.MEMORY or bar in found:
                for _, left, _ in given[number:]:
                    os.close(left)
                raise ProtocolError(f"it hands over memory for BAR {bar}, which is none")
            made = found[bar] = DeviceMemory(fd, entry.size, writable=writable)
            old = remote.memory.get(bar)
            if old and (old.identity, old.writable) == (made.identity, made.writable):
                found.pop(bar).close()
        for bar in range(BARS):
            entry = remote.page.bar(bar)
            if entry.size and entry.flags & BarFlags.MEMORY and bar not in {*found, *remote.memory}:
                raise ProtocolError(f"its BAR {bar} is memory, which it does not hand over")
    except BaseException:
        for memory in found.values():
            memory.close()
        raise
    return found


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
        reserved: Mapping[str, Place] | None = None,
        removed: Callable[[Slot], None] = lambda _slot: None,
        parts: Parts | None = None,
        saved: Sequence[SavedDevice] = (),
    ) -> None:
        """``reserved`` are places of devices that may come later; ``removed`` is called when a slot is no more.

        ``saved`` are devices of a snapshot that the machine goes on from.

        Raises:
            ConfigError: these are not the expected ones.
        """
        self._saved = {device.id: device for device in saved}
        self._refused: BusvmError | None = None
        if saved and self._saved.keys() != set(expected):
            raise ConfigError(
                f"the snapshot has the devices {', '.join(sorted(self._saved))}, not {', '.join(sorted(expected))}",
                hint="the vm.toml of then",
            )
        self._machine = machine
        self._bus = bus
        self._runtime = runtime
        self._clock = clock
        self._changed = changed
        self._removed = removed
        self._parts = parts
        self.slots = {device_id: Slot(device_id, place) for device_id, place in expected.items()}
        for device_id, place in (reserved or {}).items():
            self.slots[device_id] = Slot(device_id, place, UNPLUGGED)
        self._epochs: dict[str, int] = {}  # of devices whose slot is no more
        self._free_sources: list[slice] = []
        self._owners: dict[str, str] = {}
        self._next_source = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._complete = asyncio.Event()
        self._closed = False
        self.sealed = False  # once the machine runs, what it does not know is welcome in a free port alone
        self._check_complete()

    async def start(self) -> None:
        """Watch the bus, and attach whoever is there already."""
        await self._bus.watch_names(self._on_name)
        for name in await self._bus.list_names():
            owner = await self._bus.name_owner(name) if name.startswith(names.DEVICE_NAME_PREFIX) else None
            if owner:
                self._on_name(name, "", owner)

    async def wait_complete(self) -> None:
        """Return when every expected device is attached, or one of a snapshot cannot be."""
        await self._complete.wait()

    def check_restored(self) -> None:
        """Raise what kept a device of a snapshot from going on."""
        if self._refused is not None:
            raise self._refused

    def missing(self) -> list[Slot]:
        """Return the slots without the device that belongs there."""
        return [slot for slot in self.slots.values() if slot.state not in (ATTACHED, UNPLUGGED)]

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
        self._free_sources += slot.old_sources
        slot.old_sources = []
        if slot.state == ATTACHING:
            slot.failure = "died while attaching"
        if slot.remote is None and self.sealed:
            self.forget(slot)
            return
        self._set_state(slot, LOST if slot.remote else MISSING)
        if slot.remote:
            logger.warning("dev=%s epoch=%d the device process is gone", device_id, slot.remote.epoch)
            slot.remote.lose()

    def _set_state(self, slot: Slot, state: str) -> None:
        slot.state = state
        self._changed(slot)

    def forget(self, slot: Slot) -> None:
        """Note that nothing is plugged in ``slot``, which is no more unless it is kept for the device."""
        slot.failure = ""
        if slot.declared:
            self._set_state(slot, UNPLUGGED)
        elif not slot.old_sources and self.slots.get(slot.id) is slot:
            self._epochs[slot.id] = slot.epoch
            del self.slots[slot.id]
            self._removed(slot)
        else:
            self._set_state(slot, UNPLUGGED)  # until its process is gone
            slot.place = None

    async def _attach(self, device_id: str, owner: str) -> None:
        slot = self._slot_for(device_id)
        if slot is None or slot.leaving:
            logger.warning("dev=%s refused: %s", device_id, "it is leaving" if slot else "it is no id of a device")
            return
        self._set_state(slot, ATTACHING)
        try:
            await self._offer(slot, owner)
        except (BusvmError, TimeoutError, KeyError, TypeError) as error:
            slot.failure = f"{type(error).__name__}: {error}"
            if device_id in self._saved and slot.remote is None and isinstance(error, BusvmError):
                self._refused = ConfigError(f"{device_id} cannot go on from the snapshot: {error.message}")
                self._complete.set()
            logger.warning("dev=%s attach failed: %s", device_id, slot.failure)
            if self._owners.get(device_id) == owner:
                empty = UNPLUGGED if self.sealed else MISSING
                self._set_state(slot, LOST if slot.remote else empty)
            return
        slot.failure = ""
        if self._owners.get(device_id) != owner:  # it died while the harts were called together
            return
        self._set_state(slot, ATTACHED)
        logger.info("dev=%s epoch=%d attached pid=%d", device_id, slot.remote.epoch, slot.remote.pid)  # type: ignore[union-attr]
        self._check_complete()

    def _slot_for(self, device_id: str) -> Slot | None:
        slot = self.slots.get(device_id)
        if slot is None and names.ID_PATTERN.match(device_id):
            slot = self.slots[device_id] = Slot(device_id, None)
            slot.epoch = self._epochs.pop(device_id, 0)
        return slot

    def _place(self, slot: Slot, transport: str) -> Place:
        """Return the slot's place, for who comes uninvited the first that is free."""
        if transport not in TRANSPORTS:
            raise ProtocolError(f"its transport is {transport!r}, this machine has {', '.join(sorted(TRANSPORTS))}")
        if slot.place is None:
            slot.place = self._free_place(transport)
        if BUSES[slot.place.bus].transport != transport:
            raise ProtocolError(
                f"its transport is {transport!r}, its slot is {slot.place}", hint="--transport is the device's"
            )
        return slot.place

    def _free_place(self, transport: str) -> Place:
        bus = "pcie" if self.sealed else transport
        if self.sealed and transport != BUSES[bus].transport:
            raise ProtocolError(f"its transport is {transport!r}: a running machine takes PCI devices alone")
        ports = len(self._machine.board.root.ports)
        numbers = [*range(ports)] if bus == "pcie" else [*SLOTS[bus]]
        taken = {other.place for other in self.slots.values()}
        taken |= {Place("pci", port_slot(port)) for port in range(ports)}
        free = [place for number in numbers if (place := Place(bus, number)) not in taken]
        if not free:
            what = "hot-plug port" if bus == "pcie" else f"slot of {bus}"
            raise ProtocolError(f"no {what} is free", hint="vm.hotplug-ports" if bus == "pcie" else None)
        return free[0]

    async def _offer(self, slot: Slot, owner: str) -> None:
        path = names.device_path(slot.id)
        part = await self._parts.of_caller(owner) if self._parts else slot.id
        if part != slot.id:
            raise ProtocolError(
                f"its process is {part}, and takes the name of another device" if part else "it is gone"
            )
        answer = await self._bus.call(owner, path, _PROPERTIES, "GetAll", "s", [_DEVICE1])
        wishes = cast(dict[str, Any], answer[0])
        pid = await self._bus.peer_pid(owner)
        if wishes["PageVersion"] != DevicePage.VERSION:
            raise VersionMismatch(f"its page layout is {wishes['PageVersion']}, ours {DevicePage.VERSION}")
        place = self._place(slot, wishes["Transport"])
        first = slot.remote is None
        remote = slot.remote or self._make(slot, place, wishes)
        saved = self._saved.get(slot.id) if first else None
        if saved:
            self._check_saved(saved, place, wishes)
            saved.put(remote, self._machine.irq)
        if -1 in remote.calls:  # its predecessor waited for them itself (Wiring1.ConnectCalls)
            self._machine.forget_calls(remote)
            remote.calls = new_calls(len(remote.calls))
            self._machine.take_calls(remote)
        shape = remote.shared.size, len(remote.doorbells), len(remote.calls)
        if not first and shape != (wishes["PageSize"], wishes["Doorbells"], wishes.get("Calls", 0)):
            raise ProtocolError("another shape than the device that was there", hint="restart the VM to change it")
        epoch = slot.epoch = max(remote.page.epoch, slot.epoch) + 1
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
        host = os.open(saved.host, os.O_RDONLY | os.O_CLOEXEC) if saved and saved.host else -1
        if host >= 0:
            offer["saved"] = Variant("h", Fd(host))
        memory: dict[int, DeviceMemory] = {}
        try:
            answered = await self._bus.call(owner, path, _DEVICE1, "Attach", "a{sv}", [offer])
            memory = _memory_of(answered[0], remote)
            if not remote.page.initialised:
                raise ProtocolError("it answered without filling its page")
            if self._closed or self._owners.get(slot.id) != owner:
                raise BusError("org.busvm.Error.Gone", "it died while attaching")
        except BaseException:
            link.close()
            for unused in memory.values():
                unused.close()
            if first:
                self.release(slot, remote)
            raise
        finally:
            if host >= 0:
                os.close(host)
        slot.type = str(wishes["Type"])
        remote.connect(link, pid, epoch)
        if memory and not first:
            await asyncio.wrap_future(self._machine.do(lambda: self._machine.board.exchange(remote, memory)))
        if first:
            remote.memory = memory
            await asyncio.wrap_future(self._machine.do(lambda: self._machine.board.add(remote, saved)))
            self._saved.pop(slot.id, None)

    @staticmethod
    def _check_saved(saved: SavedDevice, place: Place, wishes: dict[str, Any]) -> None:
        if (saved.type, saved.place) != (wishes["Type"], place):
            raise ProtocolError(f"it was a {saved.type} at {saved.place}, now it is a {wishes['Type']} at {place}")

    def release(self, slot: Slot, remote: Remote) -> None:
        """Give back what ``remote`` had of the host; the machine has it no more."""
        slot.remote = None
        self._machine.forget_calls(remote)
        remote.close()
        if remote.trace:
            remote.trace.close()
            remote.trace = None
        first = remote.page.irq_base
        slot.old_sources.append(slice(first, first + remote.page.irq_count))
        if slot.id not in self._owners:
            self._free_sources += slot.old_sources
            slot.old_sources = []
        remote.release()

    def _make(self, slot: Slot, place: Place, wishes: dict[str, Any]) -> Remote:
        size, vectors, doorbells = wishes["PageSize"], wishes["Vectors"], wishes["Doorbells"]
        calls = wishes.get("Calls", 0)
        if not DevicePage.STATE <= size <= _PAGE_MAX or max(vectors, doorbells, 2 * calls) > _VECTORS_MAX:
            raise ProtocolError(
                f"unreasonable wishes: page {size}, vectors {vectors}, doorbells {doorbells}, calls {calls}"
            )
        sources = 1 + vectors + calls
        node = properties(wishes["Node"]) if place.bus == PlatformDevice.transport else {}
        first_source = self._take_sources(sources)
        shared = Shared.create(shm_name(self._runtime.vm, f"dev.{slot.id}"), size)
        remote = BUSES[place.bus](slot.id, place.number, shared, doorbells, self._machine.stalled, calls)
        if isinstance(remote, PlatformDevice):
            remote.node = node
        remote.page.format()
        if isinstance(remote, Card):
            remote.port = self._machine.board.root.ports[place.number]
            remote.page.express = 1
        remote.page.irq_base = first_source
        remote.page.irq_count = sources
        remote.page.calls = calls
        for call in range(calls):
            remote.page.set_call_vector(call, NO_CALL_VECTOR)
        self._machine.take_calls(remote)
        slot.remote = remote
        return remote

    def _take_sources(self, count: int) -> int:
        """Return the first of ``count`` words of the interrupt page that nobody has."""
        for index, free in enumerate(self._free_sources):
            if free.stop - free.start == count:  # a device that comes again has as many as before
                del self._free_sources[index]
                return int(free.start)
        if self._next_source + count > IrqPage.SOURCES:
            raise ProtocolError("out of interrupt sources")
        self._next_source += count
        return self._next_source - count

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
