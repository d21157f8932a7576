"""Raw disk images: a file or block device with its lock, as the ``Backing`` of a block device.

Transfers go straight from and to views of guest memory. Reads that the page cache can serve at once
(``RWF_NOWAIT``) are answered without waiting, or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from devproc.virtio_blk.backing import CANNOT, Shorter, Views
from devproc.virtio_blk.spec import SECTOR
from protocol.errors import ConfigError, HostError

_LOCK_PATIENCE_S = 0.5  # a killed predecessor may be a moment from being gone
PUNCH_HOLE, ZERO_RANGE = 0x03, 0x11  # fallocate(2): each with KEEP_SIZE
_PIECE = 1 << 20  # what is written from memory of our own goes in pieces of this size


class Image:
    """An open raw image; methods may be called from several threads and raise ``OSError``."""

    mortal = 0
    written = False

    def __init__(
        self, path: Path, *, readonly: bool = False, direct: bool = False, block: int = SECTOR, lock: bool = True
    ) -> None:
        """Open the image, and lock it unless ``lock`` leaves that for later.

        Raises:
            HostError: it is missing, not permitted, locked by another process, on a read-only file system, or on one
                without direct I/O.
            ConfigError: it is no file or block device, or its size is not a multiple of a block.
        """
        self.path = path
        self.readonly = readonly
        self.direct = direct
        self.block = block
        self._plain = -1
        self.fd = _open(path, readonly=readonly, direct=direct)
        try:
            mode = os.fstat(self.fd).st_mode
            self._is_file = stat.S_ISREG(mode)
            if not self._is_file and not stat.S_ISBLK(mode):
                raise ConfigError(f"image {path} is neither a file nor a block device")
            if lock:
                self.lock()
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
            self._check_size(self.size)
            if direct:
                self._plain = _open(path, readonly=readonly, direct=False)
        except BaseException:
            os.close(self.fd)
            raise
        self._nowait = not direct

    def _check_size(self, size: int) -> None:
        if size % self.block and not self.readonly:
            raise ConfigError(
                f"image {self.path} has {size} bytes, not a multiple of {self.block}",
                hint=f"truncate --size=%{self.block} {self.path}; or attach it read-only, which pads with zeros",
            )

    def lock(self) -> None:
        """Take the lock, if it is not ours already.

        Raises:
            HostError: another process has it.
        """
        _lock(self.fd, self.path, shared=self.readonly)

    def unlock(self, *, durable: bool = True) -> None:
        """Let another process have the image, ``durable`` with everything that was written on the medium."""
        if durable and not self.readonly:
            self.flush()
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    @property
    def sectors(self) -> int:
        """Capacity in sectors; the last block of a read-only image may be padded with zeros."""
        return -(-self.size // self.block) * (self.block // SECTOR)

    def read_nowait(self, views: Views, offset: int, length: int) -> bool:
        """Read if that needs no waiting; return whether it was done."""
        if not self._nowait:
            return False
        try:
            return os.preadv(self.fd, views, offset, os.RWF_NOWAIT) == length
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._nowait = False  # tmpfs and some others cannot tell
            return False

    def read(self, views: Views, offset: int) -> None:
        """Fill ``views`` from ``offset``; past the end of a padded image come zeros."""
        self._transfer(os.preadv, views, offset)

    def write(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write ``views`` at ``offset``; with ``durable`` it is on the medium when this returns."""
        flags = os.RWF_DSYNC if durable else 0
        self._transfer(lambda fd, parts, at: os.pwritev(fd, parts, at, flags), views, offset)

    def _transfer(self, call: Callable[[int, Views, int], int], views: Views, offset: int) -> None:
        left = sum(len(view) for view in views)
        while left:
            try:
                done = call(self.fd, views, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct:
                    raise
                return self._bounce(call, views, offset)
            if not done:
                if not self.readonly or offset + left > self.sectors * SECTOR:
                    raise Shorter
                for view in views:
                    view[:] = bytes(len(view))
                return None
            left -= done
            offset += done
            if left:
                views = _after(views, done)
        return None

    def _bounce(self, call: Callable[[int, Views, int], int], views: Views, offset: int) -> None:
        """Do a direct transfer through an aligned buffer: the guest's buffers need not suit the host's disk.

        Where place or length suit it neither, the page cache does the rest; the kernel keeps both in step.
        """
        left = sum(len(view) for view in views)
        with mmap.mmap(-1, min(left, _PIECE)) as buffer, memoryview(buffer) as aligned:
            while left:
                with aligned[: min(left, _PIECE)] as piece:
                    part = _head(views, len(piece))
                    start = 0
                    for view in part:
                        piece[start : start + len(view)] = view
                        start += len(view)
                    self._piece(call, piece, offset)
                    start = 0
                    for view in part:
                        if not view.readonly:
                            view[:] = piece[start : start + len(view)]
                        start += len(view)
                    left -= len(piece)
                    offset += len(piece)
                    views = _after(views, len(piece))

    def _piece(self, call: Callable[[int, Views, int], int], piece: memoryview, offset: int) -> None:
        try:
            done = call(self.fd, [piece], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done = call(self._plain, [piece], offset)
        if done < len(piece):
            if not self.readonly or offset + len(piece) > self.sectors * SECTOR:
                raise Shorter
            piece[done:] = bytes(len(piece) - done)

    def flush(self) -> None:
        """Return when everything written is on the medium."""
        os.fdatasync(self.fd)

    def discard(self, offset: int, length: int) -> None:
        """Give the range's space back to the host where it can; what it reads as then is undefined."""
        try:
            fallocate(self.fd, PUNCH_HOLE, offset, length)
        except OSError as error:
            if error.errno not in CANNOT:
                raise

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make the range read as zeros, by what the file system can do, at last by writing them."""
        for mode in (PUNCH_HOLE, ZERO_RANGE) if unmap else (ZERO_RANGE,):
            try:
                fallocate(self.fd, mode, offset, length)
                break
            except OSError as error:
                if error.errno not in CANNOT:
                    raise
        else:
            with mmap.mmap(-1, min(length, _PIECE)) as buffer, memoryview(buffer) as zeros:
                for start in range(0, length, _PIECE):
                    with zeros[: min(_PIECE, length - start)] as piece:
                        self.write([piece], offset + start)

    def resize(self, size: int) -> None:
        """Make the image longer; with 0, look how long it is now.

        Raises:
            ConfigError: it would get shorter, is read-only, or is no file.
            HostError: the host refuses.
        """
        now = os.lseek(self.fd, 0, os.SEEK_END)
        wanted = size or now
        self._check_size(wanted)
        if wanted != now:
            if self.readonly or not self._is_file:
                what = "is read-only" if self.readonly else "is a block device"
                raise ConfigError(f"image {self.path} {what}", hint="change it where it is, then Resize(0)")
            if wanted < now:
                raise ConfigError(
                    f"image {self.path} has {now} bytes, {wanted} would cut it off",
                    hint="truncate it yourself, then Resize(0)",
                )
            try:
                os.ftruncate(self.fd, wanted)
            except OSError as error:
                raise HostError(f"image {self.path}: {error.strerror}") from error
        self.size = wanted

    def close(self) -> None:
        """Close the image, which unlocks it."""
        for fd in (self.fd, self._plain):
            if fd >= 0:
                os.close(fd)
        self.fd = self._plain = -1


def _open(path: Path, *, readonly: bool, direct: bool) -> int:
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        hints = {
            errno.ENOENT: f"truncate --size=1G {path} makes an empty one",
            errno.EACCES: "attach it read-only, or change its permissions",
            errno.EROFS: "attach it read-only",
            errno.EINVAL: 'its file system has no direct I/O; cache = "writeback" needs none' if direct else None,
        }
        raise HostError(f"image {path}: {error.strerror}", hint=hints.get(error.errno or 0)) from error


def _lock(fd: int, path: Path, *, shared: bool) -> None:
    """Take the image's lock: one writer, or any number of readers (flock, so that it ends with the process)."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                holder = _holder(fd)
                who = f"process {holder}" if holder else "another process"
                raise HostError(
                    f"image {path} is locked by {who}", hint="a disk has one writer, or readers only (--readonly)"
                ) from error
            time.sleep(0.02)


def _holder(fd: int) -> int | None:
    """Return the process that holds a lock on the file, from /proc/locks."""
    inode = os.fstat(fd).st_ino
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def _after(views: Views, done: int) -> Views:
    """Return what is left of ``views`` after ``done`` bytes."""
    rest = []
    for view in views:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest


def _head(views: Views, length: int) -> Views:
    """Return the first ``length`` bytes of ``views``."""
    found = []
    for view in views:
        if length > 0:
            found.append(view[:length])
        length -= len(view)
    return found


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2), which Python has without its modes."""
    import ctypes  # 1.5 MB, for guests that discard

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
