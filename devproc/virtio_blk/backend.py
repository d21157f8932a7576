"""Raw disk images: the host side of the block device, which knows nothing of virtio.

``Image`` is a file or block device with its lock; ``Pool`` runs its system calls on a few threads, straight to and
from views of guest memory. The device loop submits jobs and collects results; it never waits for the disk. Reads
that the page cache can serve at once (``RWF_NOWAIT``) need no thread: they are answered without waiting, or not at
all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from protocol.errors import ConfigError, HostError

SECTOR = 512

Views = Sequence[memoryview]

_LOCK_PATIENCE_S = 0.5  # a killed predecessor may be a moment from being gone
_DISCARD_FLAGS, _ZERO_FLAGS = 0x03, 0x11  # fallocate(2): PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE


class Image:
    """An open raw image; methods may be called from several threads and raise ``OSError``."""

    def __init__(self, path: Path, *, readonly: bool = False, direct: bool = False) -> None:
        """Open and lock the image.

        Raises:
            HostError: it is missing, not permitted, locked by another process, or on a read-only file system.
            ConfigError: it is no file or block device, or its size is not a multiple of a sector.
        """
        self.path = path
        self.readonly = readonly
        self.direct = direct
        self.fd = _open(path, readonly=readonly, direct=direct)
        try:
            mode = os.fstat(self.fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise ConfigError(f"image {path} is neither a file nor a block device")
            _lock(self.fd, path, shared=readonly)
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
            if self.size % SECTOR and not readonly:
                raise ConfigError(
                    f"image {path} has {self.size} bytes, not a multiple of {SECTOR}",
                    hint=f"truncate --size=%{SECTOR} {path}; or attach it read-only, which pads with zeros",
                )
        except BaseException:
            os.close(self.fd)
            raise
        self._nowait = not direct

    @property
    def sectors(self) -> int:
        """Capacity in sectors; the last one of a read-only image may be padded with zeros."""
        return -(-self.size // SECTOR)

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
                    raise OSError(errno.EIO, "the image has become shorter")
                for view in views:
                    view[:] = bytes(len(view))
                return None
            left -= done
            offset += done
            if left:
                views = _after(views, done)
        return None

    def _bounce(self, call: Callable[[int, Views, int], int], views: Views, offset: int) -> None:
        """Do a direct transfer through an aligned buffer: the guest's buffers need not suit the host's disk."""
        length = sum(len(view) for view in views)
        with mmap.mmap(-1, length) as buffer, memoryview(buffer) as aligned:
            start = 0
            for view in views:
                aligned[start : start + len(view)] = view
                start += len(view)
            if call(self.fd, [aligned], offset) != length:
                raise OSError(errno.EIO, "short direct transfer")
            start = 0
            for view in views:
                if not view.readonly:
                    view[:] = aligned[start : start + len(view)]
                start += len(view)

    def flush(self) -> None:
        """Return when everything written is on the medium."""
        os.fdatasync(self.fd)

    def discard(self, offset: int, length: int) -> None:
        """Give the range's space back to the host where it can; what it reads as then is undefined."""
        try:
            _fallocate(self.fd, _DISCARD_FLAGS, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                raise

    def write_zeroes(self, offset: int, length: int, *, durable: bool = False) -> None:
        """Make the range read as zeros."""
        try:
            _fallocate(self.fd, _ZERO_FLAGS, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                raise
            zeros = memoryview(bytes(min(length, 1 << 20)))
            for start in range(0, length, len(zeros)):
                self.write([zeros[: min(len(zeros), length - start)]], offset + start)
        if durable:
            self.flush()

    def close(self) -> None:
        """Close the image, which unlocks it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open(path: Path, *, readonly: bool, direct: bool) -> int:
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        hints = {
            errno.ENOENT: f"truncate --size=1G {path} makes an empty one",
            errno.EACCES: "attach it read-only, or change its permissions",
            errno.EROFS: "attach it read-only",
            errno.EINVAL: "its file system has no direct I/O" if direct else None,
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


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes  # 1.5 MB, for guests that discard

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Job:
    """One transfer: what to do with the image, and what to tell afterwards."""

    __slots__ = ("error", "token", "work")

    def __init__(self, work: Callable[[Image], None], token: object) -> None:
        self.work: Callable[[Image], None] | None = work
        self.token = token
        self.error: OSError | None = None

    def run(self, image: Image) -> None:
        """Do it, once; what the host refuses is kept for the one who asked."""
        work, self.work = self.work, None  # it holds views of guest memory, which must be gone before a detach
        try:
            if work is not None:
                work(image)
        except OSError as error:
            self.error = error.with_traceback(None)


class Pool:
    """A few threads that run jobs on an image. ``event`` becomes readable when results are waiting."""

    def __init__(self, image: Image, threads: int) -> None:
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = 0
        self._image = image
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: deque[Job] = deque()
        self._signalled = False
        self._threads = [threading.Thread(target=self._work, name=f"io{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Hand a job to the threads."""
        self.busy += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._image)
            self._done.append(job)
            if not self._signalled:  # appended before tested; `finished` clears before it empties
                self._signalled = True
                os.eventfd_write(self.event, 1)

    def finished(self) -> list[Job]:
        """Return the jobs done since the last call."""
        try:
            os.eventfd_read(self.event)
        except BlockingIOError:
            pass
        self._signalled = False
        jobs = []
        while self._done:
            jobs.append(self._done.popleft())
        self.busy -= len(jobs)
        return jobs

    def close(self) -> None:
        """Finish what was submitted and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        if self.event >= 0:
            os.close(self.event)
            self.event = -1
