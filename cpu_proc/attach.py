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
from pathlib import Path
from typing import Any

from cpu_proc.machine import Machine
from cpu_proc.offering import DEVICE1, Offer, Offers
from cpu_proc.place import SLOTS, Place, port_slot
from cpu_proc.remote import Remote, new_calls
from cpu_proc.saved_device import SavedDevice
from cpu_proc.slots import ATTACHED, ATTACHING, BUSES, LOST, MISSING, TRANSPORTS, UNPLUGGED, Slot
from protocol import names
from protocol.access import Parts
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import BusvmError, ConfigError, ProtocolError
from protocol.memory import Shared
from protocol.tasks import Tasks

logger = logging.getLogger(__name__)

_SERVING = ("attached", "quiesced")  # states of a device
_MISS_S = 0.2


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
        reserved: Mapping[str, Place],
        removed: Callable[[Slot], None],
        parts: Parts,
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
        self.offers = Offers(machine, bus, runtime, clock, parts)
        self._changed = changed
        self._removed = removed
        self._parts = parts
        self.slots = {device_id: Slot(device_id, place) for device_id, place in expected.items()}
        for device_id, place in reserved.items():
            self.slots[device_id] = Slot(device_id, place, UNPLUGGED)
        self._epochs: dict[str, int] = {}  # of devices whose slot is no more
        self._owners: dict[str, str] = {}
        self._tasks = Tasks()
        self._complete = asyncio.Event()
        self._closed = False
        self.sealed = False  # once the machine runs, what it does not know is welcome in a free port alone
        self._check_complete()

    async def start(self) -> None:
        """Watch the bus, and attach whoever is there already."""
        await self._bus.watch_names(self._on_name)
        await self._greet()

    async def _greet(self) -> None:
        async for name, owner in self._bus.owned(lambda name: name.startswith(names.DEVICE_NAME_PREFIX)):
            self._on_name(name, "", owner)

    def owner(self, device_id: str) -> str:
        """Return the unique name of the process that has a device's name, or nothing."""
        return self._owners.get(device_id, "")

    def replaced(self, slot: Slot, owner: str) -> None:
        """Note that the process ``owner`` serves a slot, which takes the name when its predecessor has gone."""
        self._owners[slot.id] = owner
        self._set_state(slot, ATTACHED)

    def left(self) -> None:
        """The bus is gone, and its unique names with it; who is attached stays so."""
        self._owners.clear()
        for slot in self.slots.values():
            if slot.state == ATTACHING:  # it is asked anew when it comes back
                self._set_state(slot, LOST if slot.remote else MISSING)

    async def back(self) -> None:
        """The bus is there again: whoever is on it before us is greeted, and who died meanwhile is missed."""
        await self._greet()
        self._tasks.start(self._miss())

    async def _miss(self) -> None:
        """Note the death of those of whom no bus has told, until all others have come back."""
        while absent := [s for s in self.slots.values() if s.state == ATTACHED and s.id not in self._owners]:
            for slot in absent:
                if slot.remote and not Path(f"/proc/{slot.remote.pid}").exists():
                    self._lose(slot.id)
            await asyncio.sleep(_MISS_S)

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
            self._tasks.start(self._attach(device_id, new))

    def _lose(self, device_id: str) -> None:
        slot = self.slots.get(device_id)
        if slot is None:
            return
        self.offers.sources.give_back(slot)
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
        if slot.state == ATTACHED and await self._is_still_there(slot, owner):
            logger.info("dev=%s epoch=%d is on the bus again", device_id, slot.epoch)
            return
        if slot.state == ATTACHED:
            self._lose(device_id)  # another process has its name, and no bus has told of the death of the first
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

    async def _is_still_there(self, slot: Slot, owner: str) -> bool:
        """Tell whether a newcomer is the process that is attached, which was without a bus for a while."""
        try:
            seen = await self.offers.wishes(owner, slot.id)
            pid = await self._parts.process(owner)
        except (BusvmError, TimeoutError):
            return False
        remote = slot.remote
        known = remote is not None and (remote.pid, remote.epoch) == (pid, seen.get("Epoch"))
        return known and seen.get("State") in _SERVING

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
        used = {
            (place.bus, place.number) for place in taken if place
        }  # whole slots: function 0 of one has no say later
        free = [place for number in numbers if (place := Place(bus, number))[:2] not in used]
        if not free:
            what = "hot-plug port" if bus == "pcie" else f"slot of {bus}"
            raise ProtocolError(f"no {what} is free", hint="vm.hotplug-ports" if bus == "pcie" else None)
        return free[0]

    async def _asked(self, slot: Slot, owner: str) -> dict[str, Any]:
        """Return what the process ``owner`` wishes, if it is the device of ``slot``: a guest waits, so both at once."""
        part: str | BaseException
        wishes: dict[str, Any] | BaseException
        part, wishes = await asyncio.gather(
            self._parts.of_caller(owner),
            self.offers.wishes(owner, slot.id),
            return_exceptions=True,
        )
        if isinstance(part, BaseException):
            raise part
        if part != slot.id:
            raise ProtocolError(
                f"its process is {part}, and takes the name of another device" if part else "it is gone"
            )
        if isinstance(wishes, BaseException):
            raise wishes
        return wishes

    async def _offer(self, slot: Slot, owner: str) -> None:
        path = names.device_path(slot.id)
        wishes = await self._asked(slot, owner)
        if wishes.get("State") in _SERVING:  # it took an offer whose answer went down with a bus, or another machine's
            await self._bus.call(owner, path, DEVICE1, "Detach")
        place = self._place(slot, wishes["Transport"])
        first = slot.remote is None
        remote = slot.remote or self.offers.make(slot, place, wishes, more=not place.function and self._has_more(place))
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
        host = os.open(saved.host, os.O_RDONLY | os.O_CLOEXEC) if saved and saved.host else -1
        try:
            more = {"saved": Variant("h", Fd(host))} if host >= 0 else {}
            offered = Offer(epoch, remote.page, remote.calls, more)
            accepted = await self.offers.make_offer(slot, owner, remote, offered)
            if self._closed or self._owners.get(slot.id) != owner:
                accepted.drop()
                raise BusError("org.busvm.Error.Gone", "it died while attaching")
        except BaseException:
            if first:
                self.release(slot, remote)
            raise
        finally:
            if host >= 0:
                os.close(host)
        slot.type = str(wishes["Type"])
        remote.connect(accepted.link, accepted.pid, epoch)
        memory = accepted.memory
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
            self.offers.sources.give_back(slot)
        remote.release()

    def _has_more(self, place: Place) -> bool:
        """Tell whether the slot of function 0 has others."""
        places = [slot.place for slot in self.slots.values() if slot.place]
        return any(other[:2] == place[:2] and other.function for other in places)

    async def close(self) -> None:
        """Stop attaching; tell attached devices to leave."""
        self._closed = True
        self._tasks.cancel()
        for slot in self.slots.values():
            if slot.remote and slot.state == ATTACHED:
                try:
                    await self._bus.call(
                        names.device_name(slot.id), names.device_path(slot.id), DEVICE1, "Detach", timeout_s=5
                    )
                except (BusvmError, TimeoutError) as error:
                    logger.info("dev=%s did not detach: %s", slot.id, error)
