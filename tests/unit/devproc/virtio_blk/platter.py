"""A disk that knows what a power failure would leave, and that can fail and lie."""

from __future__ import annotations

import threading
from pathlib import Path

from devproc.virtio_blk.backing import Views
from devproc.virtio_blk.spec import SECTOR


class Platter:
    """A ``Backing`` in memory. ``stable`` is on the medium, ``content`` what reads find."""

    readonly = False
    mortal = 0
    written = False

    def __init__(self, sectors: int = 128) -> None:
        self.path = Path("platter")
        self.content = bytearray(sectors * SECTOR)
        self.stable = bytes(self.content)
        self.events: list[str] = []
        self.errors: dict[str, int] = {}
        """Event → errno; a flush that failed forgets what it should have written, as Linux does."""
        self.gate = threading.Event()
        """Flushes wait for it."""
        self.gate.set()

    @property
    def sectors(self) -> int:
        """Capacity."""
        return len(self.content) // SECTOR

    def _event(self, name: str) -> None:
        self.events.append(name)
        number = self.errors.get(name)
        if number:
            raise OSError(number, f"{name} failed")

    def read_nowait(self, views: Views, offset: int, length: int) -> bool:
        """Never."""
        return False

    def read(self, views: Views, offset: int) -> None:
        """Read."""
        self._event("read")
        for view in views:
            view[:] = self.content[offset : offset + len(view)]
            offset += len(view)

    def write(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write, through to the medium if asked."""
        self._event("write durably" if durable else "write")
        start = offset
        for view in views:
            self.content[offset : offset + len(view)] = view
            offset += len(view)
        if durable:
            self.stable = self.stable[:start] + bytes(self.content[start:offset]) + self.stable[offset:]

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Write zeros."""
        self._event("unmap" if unmap else "zero")
        self.content[offset : offset + length] = bytes(length)

    def discard(self, offset: int, length: int) -> None:
        """Forget."""
        self._event(f"discard {offset // SECTOR} {length // SECTOR}")

    def flush(self) -> None:
        """Bring everything to the medium, unless it fails."""
        self.gate.wait(10)
        self._event("flush")
        self.stable = bytes(self.content)

    def resize(self, size: int) -> None:
        """Grow."""
        self.content.extend(bytes(size - len(self.content)))

    def close(self) -> None:
        """Nothing to close."""
