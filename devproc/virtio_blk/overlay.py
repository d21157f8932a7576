"""Changes that end with the process: ``snapshot = true``.

The image is open read-only. What the guest writes goes into an unlinked temporary file at the same places, block by
block; one byte per block says where its content is. A block that is written in part is copied first. Writers take
turns; a reader sees a block where it was or where it is, both of which hold what was written before.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from devproc.virtio_blk.backend import PUNCH_HOLE, Image, fallocate
from devproc.virtio_blk.backing import CANNOT, Views
from devproc.virtio_blk.spec import SECTOR
from protocol.errors import ConfigError, HostError, Malformed

BLOCK = 64 << 10
_OLD, _NEW = b"\0", b"\1"


class Overlay:
    """A read-only image under a temporary file; ``OSError`` of the latter is as good as the image's own."""

    readonly = False

    def __init__(self, base: Image) -> None:
        """Make the temporary file, in ``$TMPDIR``.

        Raises:
            HostError: there is no place for one.
        """
        self.base = base
        self.path: Path = base.path
        self.mortal = secrets.randbits(63) | 1
        self._size = base.sectors * SECTOR
        self.map = bytearray(-(-self._size // BLOCK))
        self._turn = threading.Lock()
        try:
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the disk
        except OSError as error:
            raise HostError(f"no temporary file: {error}", hint="TMPDIR names a folder with space") from error
        self._fd = self._file.fileno()
        os.ftruncate(self._fd, self._size)

    @property
    def written(self) -> bool:
        """Whether anything was changed."""
        return _NEW in self.map

    @property
    def sectors(self) -> int:
        """Capacity in sectors."""
        return self._size // SECTOR

    def read_nowait(self, views: Views, offset: int, length: int) -> bool:
        """Read if that needs no waiting, which the image alone can tell."""
        inside = offset + length <= self.base.sectors * SECTOR
        changed = self.map.find(_NEW, offset // BLOCK, -(-(offset + length) // BLOCK)) >= 0
        return inside and not changed and self.base.read_nowait(views, offset, length)

    def read(self, views: Views, offset: int) -> None:
        """Fill ``views``, run by run from one file or the other."""
        for view in views:
            at = 0
            while at < len(view):
                length = self._run(offset, len(view) - at)
                with view[at : at + length] as part:
                    if self.map[offset // BLOCK]:
                        _read(self._fd, part, offset)
                    else:
                        self._read_base(part, offset)
                at += length
                offset += length

    def _run(self, offset: int, most: int) -> int:
        """Return how many bytes from ``offset`` on have their content in the same file."""
        first = offset // BLOCK
        other = _OLD if self.map[first] else _NEW
        end = self.map.find(other, first)
        return min(most, end * BLOCK - offset) if end >= 0 else most

    def _read_base(self, view: memoryview, offset: int) -> None:
        """Read from the image; behind its end, where the disk was made longer, are zeros."""
        inside = min(len(view), max(0, self.base.sectors * SECTOR - offset))
        if inside:
            self.base.read([view[:inside]], offset)
        view[inside:] = bytes(len(view) - inside)

    def write(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write ``views``; nothing here is durable, and nobody needs it to be."""
        end = offset + sum(len(view) for view in views)
        with self._turn:
            self._cover(offset, end)
            at = offset
            for view in views:
                _write(self._fd, view, at)
                at += len(view)
            self._mark(offset, end)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make the range read as zeros."""
        end = offset + length
        with self._turn:
            self._cover(offset, end)
            try:
                fallocate(self._fd, PUNCH_HOLE, offset, length)
            except OSError as error:
                if error.errno not in CANNOT:
                    raise
                zeros = memoryview(bytes(min(length, BLOCK)))
                for at in range(offset, end, BLOCK):
                    _write(self._fd, zeros[: end - at], at)
            self._mark(offset, end)

    def discard(self, offset: int, length: int) -> None:
        """Give the space of whole blocks back; they read as zeros from then on."""
        first, end = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        if first < end:
            self.write_zeroes(first, end - first)

    def _cover(self, start: int, end: int) -> None:
        """Copy the blocks of which only a part is about to be written."""
        for block in {start // BLOCK, (end - 1) // BLOCK} if end > start else ():
            low, high = block * BLOCK, min((block + 1) * BLOCK, self._size)
            if not self.map[block] and (start > low or end < high):
                with memoryview(bytearray(high - low)) as copy:
                    self._read_base(copy, low)
                    _write(self._fd, copy, low)
                self.map[block] = 1

    def _mark(self, start: int, end: int) -> None:
        first, last = start // BLOCK, -(-end // BLOCK)
        self.map[first:last] = _NEW * (last - first)

    def flush(self) -> None:
        """Do nothing: what ends with the process need not survive the host."""

    def resize(self, size: int) -> None:
        """Make the disk longer; the image stays as it is.

        Raises:
            ConfigError: it would get shorter, or have no whole number of blocks.
        """
        size = size or self._size
        if size < self._size or size % self.base.block:
            raise ConfigError(f"{size} bytes are less than now, or no multiple of {self.base.block}")
        with self._turn:
            os.ftruncate(self._fd, size)
            self.map.extend(bytes(-(-size // BLOCK) - len(self.map)))
            self._size = size

    def save(self, file: BinaryIO) -> None:
        """Write the changed blocks; nobody writes the disk meanwhile."""
        from protocol import chunks  # and with it zstandard, which a disk seldom needs

        def read(at: int, length: int) -> bytes:
            return os.pread(self._fd, length, at).ljust(length, b"\0")

        chunks.write(file, self._size, chunks.data_in(self._fd, self._size), read)

    def load(self, file: BinaryIO, changed: bytes, mortal: int) -> None:
        """Take the changes of another process over, which the guest believes to be there.

        Raises:
            Malformed: the file is broken, or of another disk.
        """
        from protocol import chunks

        if len(changed) != len(self.map) or set(changed) - {0, 1}:
            raise Malformed("what was saved of the disk is of another one")
        chunks.read(file, self._size, lambda at, data: _write(self._fd, memoryview(data), at))
        self.map[:] = changed
        self.mortal = mortal

    def close(self) -> None:
        """Forget the changes and close the image."""
        self._file.close()
        self.base.close()


def _read(fd: int, view: memoryview, offset: int) -> None:
    at = 0
    while at < len(view):
        with view[at:] as rest:
            done = os.preadv(fd, [rest], offset + at)
        if not done:
            view[at:] = bytes(len(view) - at)
            return
        at += done


def _write(fd: int, view: memoryview, offset: int) -> None:
    at = 0
    while at < len(view):
        with view[at:] as rest:
            at += os.pwrite(fd, rest, offset + at)
