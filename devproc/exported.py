"""The device on the bus: Device1, Registers1, Trace1 and Queues1 (the XML files in ``protocol``), served from a thread.

The thread runs the only event loop of the process. It never touches the device: what changes anything is called on
the device loop, what is shown is read from the page.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from devproc import vmstate
from devproc.attachment import Offer
from devproc.bus_thread import Ahead, BusThread
from devproc.describe import digest
from devproc.faults.exported import FAULT1, Fault1
from devproc.loop import WAITING, DeviceLoop
from devproc.newcomer import Newcomer
from devproc.tracing import fields
from devproc.virtio import VirtioDevice
from devproc.wiring import BusWiring
from protocol import names
from protocol.bus import Bus, BusError, Disconnected, Fd, Variant
from protocol.errors import BusvmError, Malformed, NotFound
from protocol.layout import DevicePage
from protocol.objects import Tree
from protocol.trace import accept

logger = logging.getLogger(__name__)

PAUSE_POLL_S = 0.2

MACHINE1, PAUSED = "org.busvm.Machine1", "paused"
DEVICE1, REGISTERS1, QUEUES1 = "org.busvm.Device1", "org.busvm.Registers1", "org.busvm.Queues1"
TRACE1 = "org.busvm.Trace1"


class Device1:
    """org.busvm.Device1."""

    def __init__(self, loop: DeviceLoop, *, device_id: str, kind: str, description: str) -> None:
        device = loop.device
        self.id = device_id
        self.type = kind
        self.transport = device.transport
        self.description = description
        self.pid = os.getpid()
        self.page_size = device.page_size
        self.page_version = DevicePage.VERSION
        self.schema = digest(device.registers, device.state_version)
        self.vectors = device.vectors
        self.doorbells = device.doorbells
        self.calls = device.calls
        self.configuration = device.configuration()
        self.node = {name: Variant(_type_of(value), value) for name, value in device.device_tree().items()}
        self._loop = loop

    @property
    def state(self) -> str:
        """waiting | attached | quiesced | failed."""
        return self._loop.state

    @property
    def epoch(self) -> int:
        """The incarnation that is attached."""
        return self._loop.epoch

    @property
    def counters(self) -> dict[str, int]:
        """Counters of device and link."""
        return self._loop.counters()

    async def attach(self, body: dict[str, Any]) -> dict[str, Variant]:
        """Join the machine that offers itself."""
        offer = Offer.parse(body)
        answer = await asyncio.wrap_future(self._loop.call(lambda: self._loop.attach(offer)))
        types = {"version": "u", "epoch": "t", "resumed": "u"}
        memories = [(bar, Fd(fd), writable) for bar, (fd, writable) in self._loop.device.memories().items()]
        return {key: Variant(types[key], value) for key, value in answer.items()} | (
            {"memory": Variant("a(uhb)", memories)} if memories else {}
        )

    async def detach(self) -> None:
        """Leave."""
        await asyncio.wrap_future(self._loop.call(self._loop.detach))

    async def save(self, descriptor: int) -> None:
        """Write what is not in the page."""
        await asyncio.wrap_future(self._loop.call(lambda: self._loop.save(descriptor)))

    async def layout(self) -> tuple[str, bool]:
        """Say where in the page everything is, for who goes on from it, and whether there is something beside it."""
        return await asyncio.wrap_future(self._loop.call(self._loop.layout))

    async def consider(self, page: int, page_size: int, layout: str) -> None:
        """Say whether it could go on from the page of another process."""
        try:
            await asyncio.wrap_future(self._loop.call(lambda: self._loop.consider(page, page_size, layout)))
        except BusvmError as error:
            hint = f" ({error.hint})" if error.hint else ""  # an error on the bus has no other place for it
            raise BusError("org.busvm.Error.Refused", f"{error.message}{hint}") from error

    async def reset(self) -> None:
        """Power-on state, only while not attached."""
        await asyncio.wrap_future(self._loop.call(self._loop.reset))


def _type_of(value: object) -> str:
    """Return the type on the bus of a device tree property."""
    if isinstance(value, list):
        return "a" + _type_of(value[0])
    return "b" if value is True else {int: "u", str: "s", bytes: "ay"}[type(value)]


class Registers1:
    """org.busvm.Registers1."""

    def __init__(self, loop: DeviceLoop) -> None:
        self._loop = loop
        self._registers = loop.device.registers

    def list(self) -> list[tuple[str, int, int, int, str, str]]:
        """Return what the device declares."""
        return [(r.name, *self._registers.place(r), r.width, r.access, r.doc) for r in self._registers.all]

    def read(self, name: str) -> int:
        """Return the stored value."""
        register = self._registers.by_name.get(name)
        if register is None:
            raise BusError("org.busvm.Error.NotFound", f"no register {name!r}")
        if self._loop.state == WAITING:
            raise BusError("org.busvm.Error.NotAttached", "the device has no page yet")
        return int(getattr(self._loop.device, name))

    async def write(self, name: str, value: int) -> None:
        """Write as the guest would."""
        self.read(name)
        await asyncio.wrap_future(self._loop.call(lambda: self._loop.device.set_register(name, value)))

    @property
    def values(self) -> dict[str, int]:
        """All stored values."""
        return {r.name: self.read(r.name) for r in self._registers.all}


class Trace1:
    """org.busvm.Trace1."""

    def __init__(self, loop: DeviceLoop) -> None:
        self._loop = loop
        self.request = fields(loop.device.request_header)
        self.answer = fields(loop.device.request_answer)

    @property
    def active(self) -> bool:
        """Whether somebody traces."""
        return self._loop.device.observer is not None

    async def start(self, page: int, lifeline: int, _options: dict[str, Any]) -> None:
        """Write events from now on."""
        kept = os.dup(lifeline)
        try:
            shared = accept(os.dup(page))
        except Malformed:
            os.close(kept)
            raise
        await asyncio.wrap_future(self._loop.call(lambda: self._loop.trace(shared, kept)))

    async def stop(self) -> None:
        """Write no more."""
        await asyncio.wrap_future(self._loop.call(self._loop.untrace))


class Queues1:
    """org.busvm.Queues1."""

    def __init__(self, device: VirtioDevice) -> None:
        self._device = device

    @property
    def count(self) -> int:
        """Number of queues."""
        return self._device.queue_count

    def list(self) -> list[dict[str, int]]:
        """Return one table per queue."""
        return self._device.queue_tables()


class DeviceOnBus(BusThread):
    """A device on the bus, by the name that makes ``cpu_proc`` attach it."""

    def __init__(
        self,
        loop: DeviceLoop,
        *,
        address: str,
        device_id: str,
        kind: str,
        description: str,
        objects: dict[str, object] | None = None,
        ahead: Ahead | None = None,
        newcomer: Newcomer | None = None,
    ) -> None:
        super().__init__(loop, address, ahead)
        self._device_loop = loop
        self._id = device_id
        self._kind = kind
        self._description = description
        self._objects = objects or {}
        self._newcomer = newcomer
        self._pause: asyncio.Task[None] | None = None
        self._pausing = False

    async def show(self, bus: Bus, tree: Tree) -> None:
        """Add Device1 and its like."""
        loop, path = self._device_loop, names.device_path(self._id)

        def fired(*what: int | str) -> None:
            self.later(lambda: tree.signal(path, FAULT1, "Fired", *what))

        shown = Device1(loop, device_id=self._id, kind=self._kind, description=self._description)
        tree.add(path, DEVICE1, shown)
        tree.add(path, REGISTERS1, Registers1(loop))
        tree.add(path, TRACE1, Trace1(loop))
        tree.add(path, FAULT1, Fault1(loop, fired))
        if isinstance(loop.device, VirtioDevice):
            tree.add(path, QUEUES1, Queues1(loop.device))
        tree.add(vmstate.PATH, vmstate.INTERFACE, vmstate.VMState1(loop, self._id, self._kind))
        for interface, implementation in self._objects.items():
            tree.add(path, interface, implementation)
        loop.device.wiring = BusWiring(bus, self._id, self.later, asyncio.get_running_loop())
        loop.device.ask_pause = lambda reason: self._ask_pause(bus, reason)
        loop.on_state = lambda: self.later(lambda: tree.changed(path, DEVICE1, "State", "Epoch"))
        asked = [bus.watch_names(self._machine_gone), bus.queue_for(vmstate.NAME)]
        if self._newcomer is None:
            asked.append(bus.request_name(names.device_name(self._id)))
        await asyncio.gather(*asked)  # in this order, and at once: a guest waits
        if self._newcomer is not None:  # the name is the predecessor's until that has gone
            self._newcomer.introduce(bus.unique_name, lambda: self.later(lambda: self._take_name(bus)))

    def _take_name(self, bus: Bus) -> None:
        self._naming = asyncio.get_running_loop().create_task(bus.queue_for(names.device_name(self._id)))

    def _ask_pause(self, bus: Bus, reason: str) -> bool:
        """Have the machine paused (called on the device loop); one request stands for all until it goes on."""
        if not self.is_open:
            return False
        if not self._pausing:
            self._pausing = True
            logger.warning("pausing the machine: %s; `orchestrator resume` tries again", reason)
            self.later(lambda: self._start_pause(bus, reason))
        return True

    def _start_pause(self, bus: Bus, reason: str) -> None:
        self._pause = asyncio.get_running_loop().create_task(self._paused(bus, reason))

    async def _paused(self, bus: Bus, reason: str) -> None:
        device = self._device_loop.device
        try:
            await bus.call(names.MACHINE_NAME, names.MACHINE_PATH, MACHINE1, "PauseFor", "s", [f"{self._id}: {reason}"])
            while await self._is_paused(bus):
                await asyncio.sleep(PAUSE_POLL_S)
        except (BusvmError, TimeoutError) as error:
            logger.warning("the machine cannot be paused: %s", error)
            self._pausing = False
            self._device_loop.call(device.give_up)
            return
        self._pausing = False  # first: what gets stuck from here on asks for a pause of its own
        self._device_loop.call(device.retry)

    async def _is_paused(self, bus: Bus) -> bool:
        """Tell whether the machine stands still; while there is no bus, or no machine on it yet, it is taken for so."""
        get = "org.freedesktop.DBus.Properties", "Get", "ss", [MACHINE1, "State"]
        try:
            return bool((await bus.call(names.MACHINE_NAME, names.MACHINE_PATH, *get))[0] == PAUSED)
        except (Disconnected, NotFound):
            return self._device_loop.state != WAITING

    def _machine_gone(self, name: str, old: str, new: str) -> None:
        if name == names.MACHINE_NAME and old and not new:
            self._device_loop.call(self._device_loop.detach)
