"""Payloads of vhost-user messages: one class per layout, in native byte order."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from typing import ClassVar, Self

from protocol.errors import Malformed

CONFIG_MAX = 256
REGIONS_MAX = 8
SHMEM_REGIONS = 256


class Payload:
    """Base of all payloads: the fields of a subclass, in order, are those of ``FORMAT``."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("")

    def pack(self) -> bytes:
        """Return the bytes.

        Raises:
            Malformed: a field has a value that its layout cannot hold.
        """
        try:
            return self.FORMAT.pack(*self.fields())
        except struct.error as error:
            raise Malformed(f"{self}: {error}") from error

    def fields(self) -> tuple[object, ...]:
        """Return the values of the fields."""
        return ()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return what ``data`` says.

        Raises:
            Malformed: it has another length.
        """
        return cls(*cls.parts(data))

    @classmethod
    def parts(cls, data: bytes) -> tuple[int, ...]:
        """Return the integers of ``FORMAT`` in ``data``, which must have its size."""
        if len(data) != cls.FORMAT.size:
            raise Malformed(f"{cls.__name__} has {cls.FORMAT.size} bytes, not {len(data)}")
        return cls.FORMAT.unpack(data)


@dataclass(frozen=True)
class Plain(Payload):
    """A payload of integers alone."""

    def fields(self) -> tuple[object, ...]:
        """Return the values of the fields."""
        return astuple(self)


@dataclass(frozen=True)
class Nothing(Plain):
    """No payload."""


@dataclass(frozen=True)
class U64(Plain):
    """One word; in messages with an event descriptor, ``index`` and ``no_fd``."""

    FORMAT = struct.Struct("=Q")
    value: int

    @property
    def index(self) -> int:
        """Number of the ring."""
        return self.value & 0xFF

    @property
    def no_fd(self) -> bool:
        """Whether no descriptor travels: the peer polls, or wants no notifications."""
        return bool(self.value & 0x100)


@dataclass(frozen=True)
class VringState(Plain):
    """A ring and a number: its size, a position in it, 0 or 1."""

    FORMAT = struct.Struct("=II")
    index: int
    num: int


@dataclass(frozen=True)
class VringAddr(Plain):
    """Where a ring lies, in addresses of the front-end's process."""

    FORMAT = struct.Struct("=IIQQQQ")
    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


@dataclass(frozen=True)
class Region(Plain):
    """A part of guest memory: guest address, size, address in the front-end's process, offset in the descriptor."""

    FORMAT = struct.Struct("=QQQQ")
    gpa: int
    size: int
    uaddr: int
    mmap_offset: int


@dataclass(frozen=True)
class SingleRegion(Payload):
    """One region."""

    FORMAT = struct.Struct("=8x" + Region.FORMAT.format[1:])
    region: Region

    def fields(self) -> tuple[object, ...]:
        """Return the fields of the region."""
        return self.region.fields()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the region in ``data``."""
        return cls(Region(*cls.parts(data)))


@dataclass(frozen=True)
class MemTable(Payload):
    """All regions, each with a descriptor."""

    HEAD: ClassVar[struct.Struct] = struct.Struct("=I4x")
    regions: tuple[Region, ...]

    def pack(self) -> bytes:
        """Return count and regions."""
        if len(self.regions) > REGIONS_MAX:
            raise Malformed(f"{len(self.regions)} regions in a table, at most {REGIONS_MAX}")
        return self.HEAD.pack(len(self.regions)) + b"".join(region.pack() for region in self.regions)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the table; a sender may leave room for more regions than it counts."""
        head, size = cls.HEAD.size, Region.FORMAT.size
        count = cls.HEAD.unpack_from(data)[0] if len(data) >= head else REGIONS_MAX + 1
        if count > REGIONS_MAX or len(data) < head + count * size:
            raise Malformed(f"memory table of {len(data)} bytes")
        return cls(tuple(Region.unpack(data[at : at + size]) for at in range(head, head + count * size, size)))


@dataclass(frozen=True)
class Log(Plain):
    """The log of written pages."""

    FORMAT = struct.Struct("=QQ")
    size: int
    offset: int


@dataclass(frozen=True)
class Iotlb(Plain):
    """A translation; ``permission`` 1 read, 2 write; ``kind`` 1 miss, 2 update, 3 invalidate, 4 access failed."""

    FORMAT = struct.Struct("=QQQBB6x")
    iova: int
    size: int
    uaddr: int
    permission: int
    kind: int


@dataclass(frozen=True)
class ConfigSpace(Payload):
    """A part of the device's config space; ``flags`` 1 for a write by live migration."""

    HEAD: ClassVar[struct.Struct] = struct.Struct("=III")
    offset: int
    flags: int
    data: bytes

    def pack(self) -> bytes:
        """Return head and bytes."""
        try:
            return self.HEAD.pack(self.offset, len(self.data), self.flags) + self.data
        except struct.error as error:
            raise Malformed(f"{self}: {error}") from error

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the part in ``data``; with size 0 it is an answer that says no."""
        if len(data) < cls.HEAD.size:
            raise Malformed(f"config message of {len(data)} bytes")
        offset, size, flags = cls.HEAD.unpack_from(data)
        body = data[cls.HEAD.size :]
        if size != len(body) or offset + size > CONFIG_MAX:
            raise Malformed(f"config message about {size} bytes at {offset}, with {len(body)}")
        return cls(offset, flags, body)


@dataclass(frozen=True)
class VringArea(Plain):
    """Where the front-end may map a doorbell of the device."""

    FORMAT = struct.Struct("=QQQ")
    value: int
    size: int
    offset: int

    @property
    def no_fd(self) -> bool:
        """Whether no descriptor travels."""
        return bool(self.value & 0x100)


@dataclass(frozen=True)
class Inflight(Plain):
    """The in-flight tables of ``num_queues`` rings of up to ``queue_size`` descriptors."""

    FORMAT = struct.Struct("=QQHH4x")
    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return what ``data`` says; the specification has 20 bytes, the C structure of QEMU 24."""
        return super().unpack(data.ljust(cls.FORMAT.size, b"\0") if len(data) == 20 else data)


@dataclass(frozen=True)
class Uuid(Payload):
    """Name of a shared object."""

    FORMAT = struct.Struct("=16s")
    uuid: bytes

    def fields(self) -> tuple[object, ...]:
        """Return the bytes."""
        return (self.uuid,)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the name in ``data``."""
        if len(data) != cls.FORMAT.size:
            raise Malformed(f"shared object of {len(data)} bytes")
        return cls(data)


@dataclass(frozen=True)
class Transfer(Plain):
    """Transfer of the device's state: ``direction`` 0 save, 1 load; ``phase`` 0."""

    FORMAT = struct.Struct("=II")
    direction: int
    phase: int


@dataclass(frozen=True)
class ShmemConfig(Payload):
    """Sizes of the device's shared memory regions."""

    FORMAT = struct.Struct(f"=I4x{SHMEM_REGIONS}Q")
    count: int
    sizes: tuple[int, ...]

    def fields(self) -> tuple[object, ...]:
        """Return count and sizes, filled up."""
        return (self.count, *self.sizes, *[0] * (SHMEM_REGIONS - len(self.sizes)))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the sizes in ``data``."""
        count, *sizes = cls.parts(data)
        return cls(count, tuple(sizes))


@dataclass(frozen=True)
class ShmemMap(Plain):
    """A piece of a descriptor in a shared memory region; ``flags`` 1 for writable."""

    FORMAT = struct.Struct("=B7xQQQQ")
    shmid: int
    fd_offset: int
    shm_offset: int
    length: int
    flags: int


@dataclass(frozen=True)
class Opaque(Payload):
    """Bytes that only the device type understands: crypto sessions."""

    data: bytes

    def pack(self) -> bytes:
        """Return them."""
        return self.data

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return them."""
        return cls(data)


NOTHING = Nothing()
