"""org.qemu.VMState1: a QEMU that migrates takes a device's state along, and another one brings it to its successor.

The state is the page and what the device has beside it, compressed: QEMU takes no more than 1 MiB of each process.
It is loaded before the device attaches, to whoever attaches it.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from protocol import packed
from protocol.bus import BusError
from protocol.errors import Malformed

if TYPE_CHECKING:
    from devproc.loop import DeviceLoop

NAME = INTERFACE = "org.qemu.VMState1"
PATH = "/org/qemu/VMState1"
SIZE_MAX = 1 << 20
_EXPANDED_MAX = 128 << 20
_VERSION = 1


class VMState1:
    """org.qemu.VMState1 of one device."""

    def __init__(self, loop: DeviceLoop, device_id: str, kind: str) -> None:
        self.id = device_id
        self._kind = kind
        self._loop = loop

    async def save(self) -> bytes:
        """Return the state; the device has finished its requests when it is taken, and goes on."""
        data = await asyncio.wrap_future(self._loop.call(lambda: pack(self._loop, self._kind)))
        if len(data) > SIZE_MAX:
            raise BusError(f"{INTERFACE}.Error", f"{self.id}: its state has {len(data)} bytes, QEMU takes {SIZE_MAX}")
        return data

    async def load(self, data: bytes) -> None:
        """Keep the state for the next attachment."""
        state = unpack(data, self._kind)
        await asyncio.wrap_future(self._loop.call(lambda: self._loop.load(state["page"], state["host"])))


def pack(loop: DeviceLoop, kind: str) -> bytes:
    """Return the state of an attached device (called on its loop).

    Raises:
        BusvmError: it is not attached, or cannot be saved.
    """
    beside = io.BytesIO()
    page = loop.take_state(beside)
    plain = {"version": _VERSION, "type": kind, "page": page, "host": beside.getvalue()}
    return packed.pack(plain, level=3)


def unpack(data: bytes, kind: str) -> dict[str, bytes]:
    """Return what ``pack`` packed.

    Raises:
        Malformed: it is none, or of another type of device.
    """
    plain = packed.unpack(data, expanded_max=_EXPANDED_MAX)
    match plain:
        case {"version": version, "type": of, "page": bytes() as page, "host": bytes() as host}:
            if (version, of) != (_VERSION, kind):
                raise Malformed(f"that is the state of a {of}, version {version}, not of this {kind}")
            return {"page": page, "host": host}
    raise Malformed("that is no state of a device")
