"""The disk on the bus: org.busvm.Block1, beside what every device has."""

from __future__ import annotations

import asyncio

from devproc.loop import DeviceLoop
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.spec import SECTOR

BLOCK1 = "org.busvm.Block1"


class Block1:
    """org.busvm.Block1."""

    def __init__(self, loop: DeviceLoop, device: BlockDevice) -> None:
        self._loop = loop
        self._device = device

    async def resize(self, size: int) -> None:
        """Make the disk longer, or look how long its image is."""
        await asyncio.wrap_future(self._loop.call(lambda: self._device.resize(size)))

    @property
    def size(self) -> int:
        """Bytes."""
        return self._device.image.sectors * SECTOR

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self._device.config.block_size

    @property
    def image(self) -> str:
        """Path of the image."""
        return str(self._device.image.path)

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._device.config.readonly

    @property
    def cache_mode(self) -> str:
        """writeback | writethrough."""
        return self._device.cache_mode

    @property
    def last_error(self) -> str:
        """What the host refused last."""
        return self._device.last_error

    @property
    def lost(self) -> bool:
        """Whether a flush has failed."""
        return bool(self._device.durability.failure)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._device.waiting
