"""org.qemu.VMState1: a QEMU that migrates takes a device's state along, and another one brings it to its successor.

The state is the page and what the device has beside it, compressed: QEMU takes no more than 1 MiB of each process.
It is loaded before the device attaches, to whoever attaches it.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import msgpack

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
    import zstandard  # seldom needed

    beside = io.BytesIO()
    page = loop.take_state(beside)
    plain = {"version": _VERSION, "type": kind, "page": page, "host": beside.getvalue()}
    packed: bytes = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(msgpack.packb(plain))
    return packed


def unpack(data: bytes, kind: str) -> dict[str, Any]:
    """Return what ``pack`` packed.

    Raises:
        Malformed: it is none, or of another type of device.
    """
    import zstandard

    try:
        plain = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data, max_output_size=_EXPANDED_MAX))
        state = {"page": bytes(plain["page"]), "host": bytes(plain["host"])}
        if plain["version"] != _VERSION or plain["type"] != kind:
            raise Malformed(f"that is the state of a {plain['type']}, version {plain['version']}, not of this {kind}")
        return state
    except (zstandard.ZstdError, msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
        raise Malformed("that is no state of a device") from error
