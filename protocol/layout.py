"""What lies where in shared memory: device pages, the interrupt page, the clock page.

Each layout is a class whose fields carry width, writer and meaning; offsets follow from the order. One process
writes a field, whoever maps the object may read it. A layout's version changes whenever an offset or a meaning does;
a process that meets another version refuses (``VersionMismatch``).
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import ClassVar

from protocol.errors import VersionMismatch
from protocol.memory import Shared


class Field:
    """One naturally aligned little-endian integer of 1, 2, 4 or 8 bytes in a layout.

    ``writer`` is ``"cpu"`` or ``"device"``: the one process that may store it.
    """

    def __init__(self, offset: int, width: int, writer: str, doc: str) -> None:
        self.offset = offset
        self.width = width
        self.writer = writer
        self.doc = doc
        self.name = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, page: Layout | None, _owner: type | None = None) -> int:
        if page is None:
            return self  # type: ignore[return-value]  # the class attribute is the declaration itself
        return page.shared.load(self.offset, self.width)

    def __set__(self, page: Layout, value: int) -> None:
        page.shared.store(self.offset, self.width, value)


class Layout:
    """A shared object with a magic number and a version in its first 16 bytes."""

    MAGIC: ClassVar[int]
    VERSION: ClassVar[int]

    magic = Field(0x00, 8, "cpu", "says which layout this is")
    version = Field(0x08, 4, "cpu", "version of the layout")

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def format(self) -> None:
        """Mark a fresh, zeroed object as this layout."""
        self.version = self.VERSION
        self.magic = self.MAGIC

    def check(self) -> None:
        """Refuse an object of another layout or version.

        Raises:
            VersionMismatch: it is not one this build knows.
        """
        if self.magic != self.MAGIC:
            raise VersionMismatch(f"{type(self).__name__}: magic {self.magic:#x} is not {self.MAGIC:#x}")
        if self.version != self.VERSION:
            raise VersionMismatch(
                f"{type(self).__name__}: version {self.version}, this build speaks {self.VERSION}",
                hint="all processes of a VM must come from the same busvm version",
            )

    @classmethod
    def fields(cls) -> list[Field]:
        """Return the declared fields by offset."""
        found = [v for k in reversed(cls.__mro__) for v in vars(k).values() if isinstance(v, Field)]
        return sorted(found, key=lambda field: field.offset)


class ReadKind(IntEnum):
    """How ``cpu_proc`` serves a load from a byte of a BAR or of config space (low nibble of its kind byte)."""

    MESSAGE = 0  # reading has a side effect: ask the device
    PAGE = 1  # reading has none: served from the image
    ZERO = 2  # nothing there: reads as zero, counted


class WriteKind(IntEnum):
    """What ``cpu_proc`` does with a store to a byte (high nibble of its kind byte)."""

    POST = 0  # send it to the device
    STORE = 1  # plain storage: put it into the image under the write mask, if there is one
    DOORBELL = 2  # no value matters beyond which doorbell: wake the device
    DROP = 3  # read-only or nothing there
    SYNC = 4  # send it to the device, and wait until the device has done it
    RING = 5  # plain storage, and a doorbell: put it into the image, then wake the device
    MATCH = 6  # the value decides: write the eventfd that was connected to it (Function1.Connect), if one was


def kind(read: ReadKind, write: WriteKind) -> int:
    """Return the kind byte."""
    return read | write << 4


BARS = 6
CONFIG_SIZE = 0x1000  # PCI Express configuration space of one function
CONFIG_BAR = 7  # the "BAR" number that stands for configuration space in link messages

_BAR_TABLE = 0x80
_BAR_STRIDE = 0x20
_CALL_TABLE = 0x200
CALLS_MAX = 1024
NO_CALL_VECTOR = 0xFFFF


class DevicePage(Layout):
    """All guest-visible state of one device: a PCI function, or a device of virtio-mmio, whose registers are BAR 0.

    ``0x0000`` header · ``0x1000`` config space image · ``0x2000`` its write mask · ``0x3000`` its kind bytes ·
    ``0x4000`` the device's own state (transport, queues, in-flight tables), then per BAR an image and kind bytes.
    The device fills everything but the fields written by ``cpu`` before it answers its first ``Attach``.

    An answer to a ``Read`` or ``Barrier`` is here before its message arrives: a hart that waits looks at ``reply_seq``
    for a moment, which saves the wake-ups of half a ZeroMQ round trip.

    A *call* is an eventfd that the device hands to a back-end of its own (vhost-user). ``cpu_proc`` counts what is
    written there in a source word of the call, and takes the count for messages of the vector that the device has
    stored for the call, at ``0x200`` of the header, two bytes each.
    """

    MAGIC = int.from_bytes(b"BUSVMDEV", "little")
    VERSION = 1
    CONFIG = 0x1000
    CONFIG_MASK = 0x2000
    CONFIG_KINDS = 0x3000
    STATE = 0x4000

    initialised = Field(0x0C, 4, "device", "1 once the device has filled the page; it survives the process")
    epoch = Field(0x10, 8, "cpu", "incarnation of the device process, from 1")
    posted = Field(0x18, 8, "cpu", "posted writes sent to this device so far")
    processed = Field(0x20, 8, "device", "posted writes whose effect is in this page")
    irq_base = Field(0x28, 4, "cpu", "source word of the wire; the MSI-X vectors follow it")
    irq_count = Field(0x2C, 4, "cpu", "source words of this device")
    msix_vectors = Field(0x30, 4, "device", "MSI-X vectors, 0 without the capability")
    msix_bar = Field(0x34, 4, "device", "BAR with table and PBA")
    msix_table = Field(0x38, 4, "device", "offset of the table in that BAR")
    msix_pba = Field(0x3C, 4, "device", "offset of the pending bits in that BAR")
    msix_cap = Field(0x40, 4, "device", "offset of the MSI-X capability in config space")
    doorbells = Field(0x44, 4, "device", "number of doorbells")
    doorbell_bar = Field(0x48, 4, "device", "BAR of the doorbell range")
    doorbell_offset = Field(0x4C, 4, "device", "offset of doorbell 0 in that BAR")
    doorbell_stride = Field(
        0x50, 4, "device", "bytes from one doorbell to the next; 0: one place, the value says which"
    )
    functions = Field(0x54, 4, "cpu", "1: the function is 0 of its PCI slot, and the slot has others")
    reply_seq = Field(0x60, 8, "device", "the request whose answer is in reply_value; stored after it")
    reply_value = Field(0x68, 8, "device", "that answer; the same goes out as a Value or Done")
    schema = Field(0x70, 8, "device", "digest of the device's declaration, which a successor must share")
    bad_accesses = Field(0x58, 8, "device", "guest accesses the device had to ignore")
    calls = Field(0x78, 4, "cpu", "calls of this device, whose source words follow those of the vectors")
    express = Field(0x7C, 4, "cpu", "1 behind a PCIe port: the function has the capabilities of an endpoint there")

    turns = Field(0x140, 8, "device", "turns of the device loop: odd while it is at work, even while it waits")
    hands_on = Field(0x148, 4, "device", "1 if another process waits for the doorbells")

    def adopt(self, saved: bytes) -> None:
        """Take over the page of another machine's device, which was quiesced, but for what ``cpu`` writes.

        Raises:
            VersionMismatch: it has another size.
        """
        if len(saved) != self.shared.size:
            raise VersionMismatch(f"the saved page has {len(saved)} bytes, this one {self.shared.size}")
        kept = {field: field.__get__(self) for field in self.fields() if field.writer == "cpu"}
        self.shared.u8[:] = saved
        for field, value in kept.items():
            field.__set__(self, value)
        self.processed = self.posted
        self.reply_seq = 0  # requests are counted from the beginning

    def bar(self, index: int) -> BarEntry:
        """Return the table entry of BAR ``index``."""
        return BarEntry(self.shared, _BAR_TABLE + index * _BAR_STRIDE)

    def call_vector(self, index: int) -> int:
        """Return the MSI-X vector of which call ``index`` is a message; ``NO_CALL_VECTOR``: of none, it is dropped."""
        return self.shared.load(self.call_vector_at(index), 2)

    def set_call_vector(self, index: int, vector: int) -> None:
        """Have call ``index`` be a message of ``vector`` from now on; the device's to say."""
        self.shared.store(self.call_vector_at(index), 2, vector)

    @staticmethod
    def call_vector_at(index: int) -> int:
        """Return the offset in the page of what ``call_vector`` returns."""
        return _CALL_TABLE + 2 * index


class BarFlags(IntEnum):
    """Bits of ``BarEntry.flags``, as in the low bits of a PCI memory BAR (PCI 3.0 §6.2.5.1)."""

    BITS64 = 0x4
    PREFETCHABLE = 0x8
    MEMORY = 0x10  # no registers: memory that the device hands over when it attaches; it has no image in the page


class BarEntry:
    """One BAR in the header of a device page: 32 bytes, written by the device."""

    def __init__(self, shared: Shared, offset: int) -> None:
        self._shared = shared
        self._offset = offset

    @property
    def size(self) -> int:
        """Bytes decoded, a power of two; 0 when the BAR is not implemented."""
        return self._shared.load(self._offset, 8)

    @property
    def image(self) -> int:
        """Offset in the page of the BAR's bytes."""
        return self._shared.load(self._offset + 8, 4)

    @property
    def kinds(self) -> int:
        """Offset in the page of the BAR's kind bytes."""
        return self._shared.load(self._offset + 12, 4)

    @property
    def flags(self) -> int:
        """``BarFlags``."""
        return self._shared.load(self._offset + 16, 4)

    def set(self, size: int, image: int, kinds: int, flags: int) -> None:
        """Declare the BAR."""
        self._shared.store(self._offset, 8, size)
        self._shared.store(self._offset + 8, 4, image)
        self._shared.store(self._offset + 12, 4, kinds)
        self._shared.store(self._offset + 16, 4, flags)


class IrqPage(Layout):
    """Interrupt sources: one word each that only its device writes, and the byte that makes a hart look.

    A line's word is its level; a vector's word counts messages. A device stores its word, then ``look`` = 1, then
    writes the interrupt eventfd; for calls (``DevicePage``) a thread of ``cpu_proc`` does. ``cpu_proc`` clears
    ``look``, fences, and scans.
    """

    MAGIC = int.from_bytes(b"BUSVMIRQ", "little")
    VERSION = 1
    SOURCES = 4096
    LOOK = 0x40  # byte; set to 1 by devices, cleared by cpu_proc
    WORDS = 0x1000
    SIZE = 0x1000 + SOURCES * 8

    def word(self, source: int) -> int:
        """Return the word of ``source``."""
        return self.shared.u64[(self.WORDS >> 3) + source]

    def raise_(self, source: int, word: int) -> None:
        """Publish ``word`` for ``source`` and ask the harts to look; the caller then writes the eventfd."""
        self.shared.u64[(self.WORDS >> 3) + source] = word & 0xFFFF_FFFF_FFFF_FFFF
        self.shared.u8[self.LOOK] = 1


class ClockPage(Layout):
    """Guest time: ``mtime`` ticks of 100 ns are ``(CLOCK_MONOTONIC - offset_ns) / 100`` while running."""

    MAGIC = int.from_bytes(b"BUSVMCLK", "little")
    VERSION = 1
    SIZE = 0x1000

    running = Field(0x0C, 4, "cpu", "1 while guest time advances")
    offset_ns = Field(0x10, 8, "cpu", "host monotonic nanoseconds at guest time 0")
    stopped_at_ns = Field(0x18, 8, "cpu", "guest time in ns when it was stopped")

    def guest_ns(self) -> int:
        """Return guest time in nanoseconds; the offset counts modulo 2**64 (``cpu_proc.clock``)."""
        if self.running:
            return (time.monotonic_ns() - self.offset_ns) % (1 << 64)
        return self.stopped_at_ns
