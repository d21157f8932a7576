"""Memory of a device that a BAR is: an object that others have too, mapped here for the harts.

It is the device's to hand over, when it attaches, and stays mapped when its process ends. What is not sealed can be
made shorter by whoever has it; a page that is gone is one of zeros then (``protocol.truncation``).
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import stat
from contextlib import ExitStack

from protocol.errors import ProtocolError
from protocol.memory import can_shrink
from protocol.truncation import Watch, survival

logger = logging.getLogger(__name__)


class DeviceMemory:
    """Mapped memory of ``size`` bytes; ``host`` is where."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        """Map ``fd``, which now belongs to this object.

        Raises:
            ProtocolError: it is no such memory.
        """
        self.fd = fd
        self.size = size
        self.writable = writable
        self._watch: Watch | None = None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size < size:
                raise ProtocolError(f"what it hands over for a BAR is no memory of {size} bytes")
            self.identity = found.st_dev, found.st_ino
            # what only reads is private, since `ctypes` wants it writable; its pages are the object's, as nobody writes
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
            self._map = mmap.mmap(fd, size, access=access)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise ProtocolError(f"memory that it hands over cannot be mapped: {error}") from error
        except ProtocolError:
            os.close(fd)
            raise
        anchor = ctypes.c_char.from_buffer(self._map)
        self.host = ctypes.addressof(anchor)
        del anchor
        self._survival = ExitStack()
        if can_shrink(fd):
            self._survival.enter_context(survival())
            self._watch = Watch(self._map)

    @property
    def torn(self) -> bool:
        """Whether somebody has made it shorter."""
        return self._watch is not None and self._watch.torn

    def read(self, offset: int, size: int) -> int:
        """Return a little-endian number."""
        return int.from_bytes(self._map[offset : offset + size], "little")

    def close(self) -> None:
        """Unmap it; no hart may know it any more."""
        self._map.close()
        if self._watch is not None:
            self._watch.close()
        self._survival.close()
        os.close(self.fd)
