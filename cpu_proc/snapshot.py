"""Saving a running machine: stop it between two instructions, have every device finish, write, go on.

The devices are quiesced by a barrier on their links: host I/O is through, the pages are all there is. Each process
writes what it has beside its page into a descriptor it is given. Whatever fails, the machine goes on as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from cpu_proc import saving
from cpu_proc.attach import Attacher
from cpu_proc.machine import PAUSED, RUNNING, Machine
from cpu_proc.saved_device import HOST_SUFFIX, SavedDevice
from cpu_proc.slots import ATTACHED, UNPLUGGED, Slot
from protocol import names
from protocol.bus import Bus, BusError, Fd
from protocol.errors import BusvmError

_DEVICE1 = "org.busvm.Device1"
_SAVE_S = 300.0  # a disk's overlay may be large


def _refuse(name: str, text: str) -> BusError:
    return BusError(f"org.busvm.Error.{name}", text)


class Snapshots:
    """Saves one machine; belongs to the thread of the bus."""

    def __init__(self, machine: Machine, attacher: Attacher, bus: Bus) -> None:
        self._machine = machine
        self._attacher = attacher
        self._bus = bus
        self._busy = False

    async def save(self, folder: Path) -> None:
        """Write everything into ``folder``, which is made.

        Raises:
            BusError: the machine or a device cannot be saved, or the folder not be written.
        """
        slots = self._slots()
        if self._busy or self._machine.state not in (RUNNING, PAUSED):
            raise _refuse("State", f"the machine is {'being saved' if self._busy else self._machine.state}")
        self._busy = True
        was_running = self._machine.state == RUNNING
        try:
            await self._do(lambda: self._machine.pause("for a snapshot"))
            await self._do(lambda: self._barrier(slots, "quiesce"))
            try:
                await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
                host = {slot.id: await self._host_state(slot, folder) for slot in slots}
                await self._do(lambda: saving.save(self._machine, folder, self._devices(slots, host)))
            finally:
                await self._do(lambda: self._barrier(slots, "resume"))
        except OSError as error:
            raise _refuse("Failed", f"{folder}: {error.strerror}") from error
        except BusvmError as error:
            raise error if isinstance(error, BusError) else _refuse("Failed", error.message) from error
        finally:
            self._busy = False
            if was_running:
                await self._do(self._machine.resume)

    def _slots(self) -> list[Slot]:
        slots = [slot for slot in self._attacher.slots.values() if slot.state != UNPLUGGED]
        for slot in slots:
            if slot.state != ATTACHED or slot.remote is None or slot.leaving:
                raise _refuse("State", f"{slot.id} is {slot.state}")
        return slots

    async def _do(self, work: Any) -> Any:
        return await asyncio.wrap_future(self._machine.do(work))

    @staticmethod
    def _barrier(slots: list[Slot], what: str) -> None:
        for slot in slots:
            if slot.remote is not None:
                slot.remote.barrier(what)

    async def _host_state(self, slot: Slot, folder: Path) -> Path | None:
        """Have a device write what it has beside its page; return where, if there was anything."""
        path = folder / f"{slot.id}{HOST_SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            name, at = names.device_name(slot.id), names.device_path(slot.id)
            await self._bus.call(name, at, _DEVICE1, "Save", "h", [Fd(fd)], timeout_s=_SAVE_S)
            if os.fstat(fd).st_size:
                return path
        finally:
            os.close(fd)
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _devices(self, slots: list[Slot], host: dict[str, Path | None]) -> list[SavedDevice]:
        return [
            SavedDevice.of(slot.remote, slot.type, slot.place, self._machine.irq, host[slot.id])
            for slot in slots
            if slot.remote is not None and slot.place is not None
        ]
