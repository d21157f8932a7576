"""A CPU process without a CPU: does to a device process what ``cpu_proc`` does, one access at a time.

It owns the shared memory of a little machine, offers it to a device that takes its name on the bus, and serves
configuration space and BARs by the kind bytes exactly as ``protocol.layout`` documents them. It is the contract's
second implementation, on purpose without any line of ``cpu_proc``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from protocol import messages, names
from protocol.bus import Bus, Fd, Variant
from protocol.layout import CONFIG_BAR, ClockPage, DevicePage, IrqPage, ReadKind, WriteKind
from protocol.link import Link
from protocol.memory import GuestMemory, Shared, full_fence, shm_name

DEVICE1 = "org.busvm.Device1"
RAM_BASE = 0x8000_0000
T = TypeVar("T")

_vm_numbers = itertools.count()


class DeviceGone(Exception):
    """The device did not answer in time."""


class FakeCpu:
    """One machine with one device ``device_id`` on the bus at ``address``."""

    def __init__(self, address: str, folder: Path, *, device_id: str = "disk0", ram_size: int = 16 << 20) -> None:
        self.vm = f"fake{os.getpid()}x{next(_vm_numbers)}"
        self.device_id = device_id
        self.folder = folder
        self.epoch = 0
        self.counters = {"zero_reads": 0, "dropped_writes": 0, "messages": 0, "calls": 0}
        self._address = address
        self._ram_size = ram_size
        self._made: dict[str, Shared] = {}
        self._doorbells: list[int] = []
        self.calls: list[int] = []
        self.link: Link | None = None
        self.page: DevicePage
        self._sequence = 0
        self._history: list[messages.Write] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.bus = self.run(Bus.connect(address))
        self._owners: dict[str, str] = {}
        self._changed = threading.Event()
        self.run(self.bus.watch_names(self._on_name))
        self._ram = self._create("ram", ram_size)
        self.ram = GuestMemory(self._ram, RAM_BASE)
        self.irq = IrqPage(self._create("irq", IrqPage.SIZE))
        self.irq.format()
        self.clock = ClockPage(self._create("clock", ClockPage.SIZE))
        self.clock.format()
        self.irq_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.irq_base = 8

    # plumbing

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 30.0) -> T:
        """Run a coroutine on the bus thread and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _create(self, what: str, size: int) -> Shared:
        self._made[what] = Shared.create(shm_name(self.vm, what), size)
        return self._made[what]

    def _on_name(self, name: str, _old: str, new: str) -> None:
        self._owners[name] = new
        self._changed.set()

    @property
    def bus_name(self) -> str:
        """Bus name of the device."""
        return names.device_name(self.device_id)

    def wait_for_device(self, timeout_s: float = 15.0) -> None:
        """Return when the device has its name, as ``NameOwnerChanged`` says."""
        deadline = time.monotonic() + timeout_s
        if self.bus_name not in self._owners:
            self._owners[self.bus_name] = self.run(self.bus.name_owner(self.bus_name)) or ""
        while True:
            self._changed.clear()  # before the look: what comes in between is not missed
            if self._owners.get(self.bus_name):
                return
            if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                raise DeviceGone(f"{self.bus_name} did not appear")

    def forget_device(self, timeout_s: float = 15.0) -> None:
        """Return when somebody else than the process known so far has the device's name."""
        before = self._owners.pop(self.bus_name, "")
        deadline = time.monotonic() + timeout_s
        while (now := self.run(self.bus.name_owner(self.bus_name)) or before) == before:
            if time.monotonic() > deadline:
                raise DeviceGone(f"{self.bus_name} did not appear again")
            time.sleep(0.01)
        self._owners[self.bus_name] = now

    def call(self, interface: str, member: str, signature: str = "", *body: Any) -> Any:
        """Call a method of the device and return its results."""
        path = names.device_path(self.device_id)
        return self.run(self.bus.call(self.bus_name, path, interface, member, signature, list(body)))

    def get(self, member: str, interface: str = DEVICE1) -> Any:
        """Return a property of the device."""
        return self.call("org.freedesktop.DBus.Properties", "Get", "ss", interface, member)[0]

    # joining

    def offer(self, **changes: Any) -> dict[str, Variant]:
        """Return the argument of ``Attach``; ``changes`` replace items, ``None`` removes one."""
        values: dict[str, tuple[str, Any]] = {
            "version": ("u", 1),
            "vm": ("s", self.vm),
            "epoch": ("t", self.epoch),
            "ram": ("h", Fd(self._ram.fd)),
            "ram_base": ("t", RAM_BASE),
            "ram_size": ("t", self._ram_size),
            "page": ("h", Fd(self.page.shared.fd)),
            "page_size": ("t", self.page.shared.size),
            "irq": ("h", Fd(self.irq.shared.fd)),
            "clock": ("h", Fd(self.clock.shared.fd)),
            "irq_event": ("h", Fd(self.irq_event)),
            "doorbells": ("ah", [Fd(fd) for fd in self._doorbells]),
            "calls": ("ah", [Fd(fd) for fd in self.calls]),
            "link": ("s", self.link.endpoint if self.link else ""),
            "cpu_pid": ("u", os.getpid()),
        }
        for key, value in changes.items():
            if value is None:
                del values[key]
            else:
                values[key] = (values[key][0], value)
        return {key: Variant(kind, value) for key, (kind, value) in values.items()}

    def prepare(self, *, peer_pid: int | None = None) -> None:
        """Make page, doorbells and link for the next incarnation of the device."""
        properties = self.call("org.freedesktop.DBus.Properties", "GetAll", "s", DEVICE1)[0]
        self.epoch += 1
        if "page" not in self._made:
            self.page = DevicePage(self._create("dev." + self.device_id, properties["PageSize"]))
            self._made["page"] = self._made.pop("dev." + self.device_id)
            self.page.format()
            self.page.irq_base = self.irq_base
            self.page.irq_count = properties["Vectors"] + properties["Calls"] + 1
            self.page.calls = properties["Calls"]
            self.calls = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(properties["Calls"])]
            self._doorbells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(properties["Doorbells"])]
        self.page.epoch = self.epoch
        if self.link is not None:
            self.link.close()
        endpoint = f"ipc://{self.folder / f'{self.vm}.{self.epoch}'}"
        self.link = Link(endpoint, epoch=self.epoch, bind=True, peer_pid=peer_pid or properties["Pid"])

    def attach(self) -> dict[str, Any]:
        """Wait for the device, offer the machine, and send what a predecessor left undone."""
        self.wait_for_device()
        self.prepare()
        answer: dict[str, Any] = self.call(DEVICE1, "Attach", "a{sv}", self.offer())[0]
        for message in self._unacknowledged():
            self._send(message)
        return answer

    def _unacknowledged(self) -> list[messages.Write]:
        kept = [m for m in self._history if m.seq > self.page.processed]
        return [messages.Write(self.epoch, m.seq, m.bar, m.offset, m.size, m.value) for m in kept]

    # accesses

    def _send(self, message: messages.Any) -> None:
        assert self.link is not None
        self.counters["messages"] += 1
        self.link.send(message)

    def _place(self, bar: int) -> tuple[int, int, int]:
        """Return image, kind bytes and size of a BAR."""
        if bar == CONFIG_BAR:
            return DevicePage.CONFIG, DevicePage.CONFIG_KINDS, 0x1000
        entry = self.page.bar(bar)
        return entry.image, entry.kinds, entry.size

    def wait_processed(self, timeout_s: float = 10.0) -> None:
        """Return when the device has done all posted writes."""
        deadline = time.monotonic() + timeout_s
        while self.page.processed < self.page.posted:
            if time.monotonic() > deadline:
                raise DeviceGone(f"processed {self.page.processed} of {self.page.posted} writes")
            if self.link is not None:
                self.link.receive()  # nothing is due, but what had no peer yet is sent
            time.sleep(0)

    def read(self, bar: int, offset: int, size: int) -> int:
        """Load, as a hart would."""
        image, kinds, length = self._place(bar)
        assert offset + size <= length
        found = {kind & 15 for kind in self.page.shared.u8[kinds + offset : kinds + offset + size]}
        kind = ReadKind.MESSAGE if ReadKind.MESSAGE in found else ReadKind.ZERO
        kind = ReadKind.PAGE if kind is ReadKind.ZERO and ReadKind.PAGE in found else kind
        if kind is ReadKind.ZERO:
            self.counters["zero_reads"] += 1
            return 0
        if kind is ReadKind.PAGE:
            self.wait_processed()
            return int.from_bytes(self.page.shared.u8[image + offset : image + offset + size], "little")
        return self.ask(bar, offset, size)

    def ask(self, bar: int, offset: int, size: int, timeout_s: float = 10.0) -> int:
        """Load by message."""
        assert self.link is not None
        self._sequence += 1
        self._send(messages.Read(self.epoch, self._sequence, bar, offset, size))
        answer = self.link.receive(timeout_s)
        if not isinstance(answer, messages.Value) or answer.seq != self._sequence:
            raise DeviceGone(f"no value but {answer}")
        return answer.value

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Store, as a hart would."""
        image, kinds, length = self._place(bar)
        assert offset + size <= length
        found = {kind >> 4 for kind in self.page.shared.u8[kinds + offset : kinds + offset + size]}
        if bar == CONFIG_BAR and not found & {WriteKind.POST, WriteKind.SYNC}:
            kind = WriteKind.STORE  # under the write mask, which is 0 where nothing can be written
        else:
            kind = WriteKind(found.pop()) if len(found) == 1 else WriteKind.POST  # SYNC comes with whole registers
        if kind is WriteKind.DROP:
            self.counters["dropped_writes"] += 1
        elif kind in (WriteKind.DOORBELL, WriteKind.RING):
            if kind is WriteKind.RING:
                self._store(bar, image, offset, value.to_bytes(size, "little"))
            stride = self.page.doorbell_stride
            bell = (offset - self.page.doorbell_offset) // stride if stride else value & 0xFFFF
            if bell < len(self._doorbells):
                self.ring(bell)
        elif kind is WriteKind.STORE:
            self._store(bar, image, offset, value.to_bytes(size, "little"))
        else:
            self.post(bar, offset, size, value)
            if kind is WriteKind.SYNC:
                self.wait_processed()

    def _store(self, bar: int, image: int, offset: int, data: bytes) -> None:
        for index, byte in enumerate(data, offset):
            mask = self.page.shared.u8[DevicePage.CONFIG_MASK + index] if bar == CONFIG_BAR else 0xFF
            old = self.page.shared.u8[image + index]
            self.page.shared.u8[image + index] = old & ~mask | byte & mask

    def post(self, bar: int, offset: int, size: int, value: int) -> None:
        """Store by message: counted in the page first, kept until it is processed."""
        message = messages.Write(self.epoch, self.page.posted + 1, bar, offset, size, value)
        self._history = [m for m in self._history if m.seq > self.page.processed] + [message]
        self.page.posted = message.seq
        self._send(message)

    def ring(self, doorbell: int) -> None:
        """Wake the device."""
        os.eventfd_write(self._doorbells[doorbell], 1)

    def barrier(self, what: str, timeout_s: float = 10.0) -> messages.Any:
        """Send a barrier and return the answer."""
        assert self.link is not None
        self._sequence += 1
        self._send(messages.Barrier(self.epoch, self._sequence, what))
        answer = self.link.receive(timeout_s)
        if answer is None:
            raise DeviceGone(f"no answer to barrier {what}")
        return answer

    # interrupts

    def word(self, source: int) -> int:
        """Return the word of the device's source: 0 is the line, 1 + v is vector v, with the calls that are its."""
        first = self.irq_base + self.page.irq_count - len(self.calls)
        mine = [call for call in range(len(self.calls)) if self.page.call_vector(call) == source - 1]
        return self.irq.word(self.irq_base + source) + sum(self.irq.word(first + call) for call in mine)

    def take_calls(self) -> None:
        """Count what back-ends have called by now."""
        self._count_calls(select.select(self.calls, [], [], 0)[0])

    def _count_calls(self, calls: list[int]) -> None:
        first = self.irq_base + self.page.irq_count - len(self.calls)
        for fd in calls:
            os.eventfd_read(fd)
            source = first + self.calls.index(fd)
            self.irq.raise_(source, self.irq.word(source) + 1)
            self.counters["calls"] += 1

    def wait_interrupt(self, source: int, old: int, timeout_s: float = 10.0) -> int:
        """Sleep until the word of ``source`` differs from ``old``; return it."""
        deadline = time.monotonic() + timeout_s
        while (word := self.word(source)) == old:
            waited = [self.irq_event, *self.calls]
            ready, _, _ = select.select(waited, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DeviceGone(f"no interrupt from source {source}")
            self._count_calls([fd for fd in ready if fd != self.irq_event])
            if self.irq_event in ready:
                os.eventfd_read(self.irq_event)
            self.irq.shared.u8[IrqPage.LOOK] = 0
            full_fence()
        return word

    # leaving

    def close(self) -> None:
        """Give everything back."""
        if self.link is not None:
            self.link.close()
        for shared in self._made.values():
            shared.unlink()
            shared.close()
        for fd in [*self._doorbells, *self.calls, self.irq_event]:
            os.close(fd)

        async def leave() -> None:
            self.bus.close()
            await asyncio.sleep(0.01)

        self.run(leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
