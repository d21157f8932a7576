"""The console on the bus: org.busvm.Console1, beside what every device has."""

from __future__ import annotations

import asyncio

from devproc.loop import DeviceLoop
from devproc.virtio_console.device import ConsoleDevice

CONSOLE1 = "org.busvm.Console1"


class Console1:
    """org.busvm.Console1."""

    def __init__(self, loop: DeviceLoop, device: ConsoleDevice) -> None:
        self._loop = loop
        self._device = device

    async def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size."""
        await asyncio.wrap_future(self._loop.call(lambda: self._device.resize(columns, rows)))

    @property
    def columns(self) -> int:
        """Columns of the terminal."""
        return self._device.size[0]

    @property
    def rows(self) -> int:
        """Rows of the terminal."""
        return self._device.size[1]

    @property
    def ports(self) -> list[tuple[int, str, str, bool, bool, int]]:
        """Return one row per port."""
        device = self._device
        rows = []
        for port in device.ports:
            number = port.config.number
            open_ = bool(device.states[number].guest_open) if device.states else False
            path = str(port.config.path or "")
            rows.append((number, port.config.name, path, port.client is not None, open_, port.waiting))
        return rows
