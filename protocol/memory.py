"""Shared memory: named objects in ``/dev/shm`` (else ``BUSVM_SHM``), mapped once, read and written through typed views.

``cpu_proc`` creates every object (DESIGN §6) and hands out descriptors; everybody else maps a descriptor. Aligned
loads and stores of 1, 2, 4 and 8 bytes go through one ``memoryview`` per width, so that each is a single access of
the host and cannot tear; ``struct.pack_into`` gives no such promise.

``multiprocessing.shared_memory`` is not used: its resource tracker unlinks guest RAM when any attached process
exits.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from protocol.errors import HostError

SHM = Path(os.environ.get("BUSVM_SHM", "/dev/shm"))  # elsewhere where containers share a volume
_fence = threading.Lock()


def full_fence() -> None:
    """Order every earlier store of this thread before every later load (taking a lock is a full barrier).

    Needed wherever one side publishes and then looks at what the other side published: virtio 1.2 §2.7.10
    (EVENT_IDX), and clearing ``look`` before scanning the interrupt page.
    """
    with _fence:
        pass


def shm_name(vm: str, what: str) -> str:
    """Return the name under ``/dev/shm`` of one object of one VM; two users may each have a VM of that name."""
    return f"busvm-{os.getuid()}.{vm}.{what}"


def sealed(name: str, size: int) -> int:
    """Return the descriptor of new, zeroed memory that nobody who has it can make shorter or longer.

    Raises:
        OSError: the host has no room.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def can_shrink(fd: int) -> bool:
    """Return whether somebody who has this memory can make it shorter: it is not sealed against that."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        return True  # of a file system without seals


class Words:
    """Mapped memory as one typed view per width: ``u8``, ``u16``, ``u32``, ``u64``.

    Offsets are bytes from its start; ``load`` and ``store`` need natural alignment. The views stay exported until
    ``close``, which releases them in order (an ``mmap`` with an exported view cannot be closed).
    """

    def __init__(self, view: memoryview) -> None:
        """View ``view``, which now belongs to this object."""
        self.size = size = len(view)
        self.u8 = view
        self.u16 = view[: size & ~1].cast("H")
        self.u32 = view[: size & ~3].cast("I")
        self.u64 = view[: size & ~7].cast("Q")

    def release(self) -> None:
        """Release the views."""
        for view in (self.u64, self.u32, self.u16, self.u8):
            view.release()

    def load(self, offset: int, width: int) -> int:
        """Return the ``width``-byte little-endian word at ``offset`` (naturally aligned)."""
        if width == 4:
            return self.u32[offset >> 2]
        if width == 8:
            return self.u64[offset >> 3]
        if width == 2:
            return self.u16[offset >> 1]
        return self.u8[offset]

    def store(self, offset: int, width: int, value: int) -> None:
        """Store ``value``, cut to ``width`` bytes, at ``offset`` (naturally aligned)."""
        if width == 4:
            self.u32[offset >> 2] = value & 0xFFFF_FFFF
        elif width == 8:
            self.u64[offset >> 3] = value & 0xFFFF_FFFF_FFFF_FFFF
        elif width == 2:
            self.u16[offset >> 1] = value & 0xFFFF
        else:
            self.u8[offset] = value & 0xFF

    def bytes(self, offset: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes at ``offset``."""
        return bytes(self.u8[offset : offset + length])

    def close(self) -> None:
        """Give the memory back; harmless when done twice. What owns a mapping extends it."""
        self.release()


class Shared(Words):
    """A mapped shared object of ``size`` bytes."""

    def __init__(self, fd: int, size: int, *, name: str | None = None) -> None:
        """Map ``size`` bytes of ``fd``, which now belongs to this object.

        Raises:
            HostError: the object is smaller than ``size``, or cannot be mapped.
        """
        self.fd = fd
        self.name = name
        actual = os.fstat(fd).st_size
        if actual < size:
            raise HostError(f"shared object has {actual} bytes, {size} expected")
        try:
            self.map = mmap.mmap(fd, size)
        except (OSError, ValueError) as error:
            raise HostError(f"cannot map {size} bytes of shared memory: {error}") from error
        super().__init__(memoryview(self.map))

    @classmethod
    def create(cls, name: str, size: int, *, reserve: bool = True) -> Self:
        """Create ``/dev/shm/<name>`` and map it.

        Without ``reserve`` the host finds its pages as they are first touched: when there are none more then, whoever
        touches one is ended by SIGBUS.

        Raises:
            HostError: the name exists (a VM of that name runs, or died), or the host has no room.
        """
        path = SHM / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise HostError(
                f"shared memory {name} exists already", hint="another VM of this name runs; see `orchestrator ps`"
            ) from error
        except OSError as error:
            raise HostError(f"cannot create shared memory {name}: {error.strerror}") from error
        try:
            room = os.statvfs(SHM)
            if room.f_bavail * room.f_frsize < size:
                raise HostError(
                    f"no space in {SHM} for {name}: {size >> 20} MiB needed, "
                    f"{(room.f_bavail * room.f_frsize) >> 20} MiB free",
                    hint=f"lower vm.memory, or enlarge {SHM}",
                )
            os.ftruncate(fd, size)
            if reserve:
                os.posix_fallocate(fd, 0, size)
            return cls(fd, size, name=name)
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            word = "no space" if error.errno == errno.ENOSPC else str(error.strerror)
            raise HostError(f"cannot size shared memory {name}: {word}") from error
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Release the views, the mapping and the descriptor; harmless when done twice."""
        if self.fd < 0:
            return
        self.release()
        self.map.close()
        os.close(self.fd)
        self.fd = -1

    def rename(self, name: str) -> None:
        """Take another name, from whoever has it."""
        if self.name is not None:
            (SHM / self.name).rename(SHM / name)
            self.name = name

    def unlink(self) -> None:
        """Remove the name; whoever has it mapped keeps it."""
        if self.name is not None:
            (SHM / self.name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GuestMemory:
    """Guest RAM as a device sees it: every address and length is checked before use.

    The guest chooses both, so an access outside RAM is a value (``None``), never an exception.
    """

    def __init__(self, ram: Words, base: int, holes: Sequence[tuple[int, int]] = ()) -> None:
        self.ram = ram
        self.base = base
        self.size = ram.size
        self.holes = tuple(holes)
        """Offsets (from, to) where there is no RAM: another owner's memory may be in several pieces."""

    def offset(self, gpa: int, length: int) -> int | None:
        """Return the byte offset in RAM of ``[gpa, gpa+length)``, or ``None`` when it is not all RAM."""
        offset = gpa - self.base
        if offset < 0 or length < 0 or offset + length > self.size:
            return None
        if self.holes and not self.backed(offset, length):
            return None
        return offset

    def backed(self, offset: int, length: int) -> bool:
        """Return whether there is RAM at each of ``length`` bytes from ``offset``, which are within its bounds."""
        return all(offset + length <= start or end <= offset for start, end in self.holes)

    def view(self, gpa: int, length: int) -> memoryview | None:
        """Return a writable view of guest RAM, or ``None``; the caller drops it before the VM detaches."""
        offset = self.offset(gpa, length)
        return None if offset is None else self.ram.u8[offset : offset + length]

    def read(self, gpa: int, length: int) -> bytes | None:
        """Return a copy, so that what is checked next cannot change under the check."""
        offset = self.offset(gpa, length)
        return None if offset is None else bytes(self.ram.u8[offset : offset + length])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> bool:
        """Store ``data``; return whether it lies in RAM."""
        offset = self.offset(gpa, len(data))
        if offset is None:
            return False
        self.ram.u8[offset : offset + len(data)] = data
        return True

    def load(self, gpa: int, width: int) -> int | None:
        """Return one naturally aligned little-endian word, or ``None``."""
        offset = self.offset(gpa, width)
        if offset is None or offset & (width - 1):
            return None
        return self.ram.load(offset, width)

    def store(self, gpa: int, width: int, value: int) -> bool:
        """Store one naturally aligned word as a single host store; return whether it was possible."""
        offset = self.offset(gpa, width)
        if offset is None or offset & (width - 1):
            return False
        self.ram.store(offset, width, value)
        return True


@contextmanager
def created(vm: str, sizes: dict[str, int], lazily: Container[str] = ()) -> Iterator[dict[str, Shared]]:
    """Create several objects of one VM; unlink and close all of them at the end, whatever happens.

    Of those that are made ``lazily`` no page is reserved.
    """
    made: dict[str, Shared] = {}
    try:
        for what, size in sizes.items():
            made[what] = Shared.create(shm_name(vm, what), size, reserve=what not in lazily)
        yield made
    finally:
        for shared in made.values():
            shared.unlink()
            shared.close()
