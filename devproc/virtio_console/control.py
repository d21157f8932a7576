"""The control queues: what device and driver tell each other about ports (virtio 1.2 §5.3.6.2)."""

from __future__ import annotations

from collections import deque

from devproc.virtio_console.port import Port
from devproc.virtio_console.spec import CONTROL, Control


class Conversation:
    """Messages for the driver in their order, until it has offered room for them."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()

    def say(self, port: int, event: Control, value: int = 0, more: bytes = b"") -> None:
        """Tell the driver something."""
        self.waiting.append(CONTROL.pack(port, event, value) + more)

    def introduce(self, port: Port, size: tuple[int, int] | None) -> None:
        """Tell a driver that has this port what it is."""
        number = port.config.number
        if port.config.is_console:
            self.say(number, Control.CONSOLE_PORT, 1)
            if size is not None:
                self.resize(number, size)
        else:
            self.say(number, Control.PORT_NAME, 1, port.config.name.encode())
        if port.config.is_console or port.client is not None:
            self.say(number, Control.PORT_OPEN, 1)

    def resize(self, number: int, size: tuple[int, int]) -> None:
        """Tell columns and rows of a terminal (older Linux takes one for the other)."""
        columns, rows = size
        self.say(number, Control.RESIZE, 0, columns.to_bytes(2, "little") + rows.to_bytes(2, "little"))

    def clear(self) -> None:
        """Forget everything."""
        self.waiting.clear()
