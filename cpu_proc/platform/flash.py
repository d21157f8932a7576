"""CFI flash with the Intel command set: one 32 MiB bank of two 16-bit chips side by side, as on QEMU's ``virt``.

Common Flash Memory Interface (JESD68.01) and Intel basic/extended command set (0001). A bank reads as memory until a
command makes it answer with status, identity or the CFI table. Programs and erases take no time; they reach the file
first and the array only then, so that a host that refuses the write leaves both as they were and the guest reads an
error from the status register. As on QEMU, programming stores the value: it does not only clear bits.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from protocol.errors import ConfigError, HostError

logger = logging.getLogger(__name__)

BANK = 32 << 20
SECTOR = 256 << 10
_PART = 1 << 20
BUFFER = 4096  # bytes of a buffered program, over both chips
_CHIPS, _CHIP_BYTES = 2, 2
_BUS = _CHIPS * _CHIP_BYTES

READ_ARRAY, READ_STATUS, CLEAR_STATUS, READ_IDENTITY, CFI_QUERY = 0xFF, 0x70, 0x50, 0x90, 0x98
PROGRAM, PROGRAM_OLD, ERASE, BUFFERED, LOCKING, CONFIRM, LOCK = 0x40, 0x10, 0x20, 0xE8, 0x60, 0xD0, 0x01
READY, ERASE_ERROR, PROGRAM_ERROR, LOCKED = 0x80, 0x20, 0x10, 0x02
_SEQUENCE_ERROR = ERASE_ERROR | PROGRAM_ERROR
MANUFACTURER, DEVICE = 0x89, 0x18


def _cfi_table() -> bytes:
    """Return the query answer of one chip."""
    chip, sector = BANK // _CHIPS, SECTOR // _CHIPS
    blocks = chip // sector - 1
    return b"".join(
        [
            bytes(0x10),
            b"QRY\x01\x00\x31\x00" + bytes(4),  # Intel command set, extended table at 0x31, no alternative
            b"\x45\x55\x00\x00",  # supply voltages
            b"\x07\x07\x0a\x00\x04\x04\x04\x00",  # typical and longest times, as powers of two
            bytes([chip.bit_length() - 1, 2, 0, (BUFFER // _CHIPS).bit_length() - 1, 0]),
            bytes([1]) + blocks.to_bytes(2, "little") + (sector >> 8).to_bytes(2, "little"),
            b"PRI10" + bytes(9) + b"\x01",
        ]
    )


_TABLE = _cfi_table()


class FlashFile:
    """The file behind a bank: locked against a second writer, read whole, written back where it changes."""

    def __init__(self, path: Path, what: str) -> None:
        """Open the file at ``path``, read-only where it cannot be written; ``what`` names it in messages.

        Raises:
            ConfigError: it cannot be read, or is no bank's size.
            HostError: another process has it.
        """
        self.what = f"{what} {path}"
        self.writable = os.access(path, os.W_OK)
        try:
            self._fd = os.open(path, (os.O_RDWR if self.writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"cannot read {self.what}: {error.strerror}") from error
        try:
            size = os.fstat(self._fd).st_size
            if size != BANK:
                raise ConfigError(
                    f"{self.what} has {size} bytes, a flash bank has {BANK}", hint=f"truncate -s 32M {path}"
                )
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_EX if self.writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except OSError as error:
                raise HostError(f"{self.what} is in use by another process", hint="a flash file has one VM") from error
        except BaseException:
            os.close(self._fd)
            raise

    def read(self, content: mmap.mmap) -> None:
        """Fill ``content``; what a file that was cut meanwhile lacks is erased."""
        at = 0
        while at < BANK and (part := os.pread(self._fd, _PART, at)):
            if any(part):  # a fresh mapping has zeros, which cost no memory
                content[at : at + len(part)] = part
            at += len(part)
        content[at:] = b"\xff" * (BANK - at)

    def write(self, offset: int, data: bytes) -> bool:
        """Store ``data``; return whether the host took all of it."""
        try:
            stored = os.pwrite(self._fd, data, offset)
        except OSError as error:
            logger.error("%s: cannot write %d bytes at %#x: %s", self.what, len(data), offset, error.strerror)
            return False
        if stored != len(data):
            logger.error("%s: only %d of %d bytes at %#x were written", self.what, stored, len(data), offset)
        return stored == len(data)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Flash:
    """One bank over ``file``; without a file it is empty and forgets.

    While it reads as memory, harts may load and fetch from ``content`` by themselves: ``readable`` says so, and
    ``on_readable`` is called when that changes.
    """

    SAVED = ("_mode", "_command", "_errors", "_locked", "_left", "_buffer")

    def __init__(self, file: FlashFile | None = None, on_readable: Callable[[], None] = lambda: None) -> None:
        self.file = file
        self.content = mmap.mmap(-1, BANK)
        if file:
            file.read(self.content)
        else:
            self.content[:] = b"\xff" * BANK
        self._on_readable = on_readable
        self.reset()

    @property
    def readable(self) -> bool:
        """Whether a load finds the array."""
        return self._mode == READ_ARRAY

    def reset(self) -> None:
        """Return to power-on state: reads the array, nothing locked."""
        self._mode = READ_ARRAY  # what reads answer with
        self._command = 0  # whose further cycles are awaited
        self._errors = 0
        self._locked: set[int] = set()
        self._left = 0  # words of a buffered program that are still to come; -1: its length is
        self._buffer: dict[int, int] = {}

    # reading

    def read(self, offset: int, size: int) -> int:
        """Read the array, or what the last command asked for."""
        if self._mode == READ_ARRAY:
            return int.from_bytes(self.content[offset : offset + size], "little")
        return sum(self._answer(offset + i) << 8 * i for i in range(size))

    def _answer(self, offset: int) -> int:
        """Return one byte of an answer: each chip puts its own on its half of the bus."""
        if offset & _CHIP_BYTES - 1:
            return 0  # no answer needs the upper byte of a chip
        if self._mode == READ_STATUS:
            return READY | self._errors
        word = offset // _BUS
        if self._mode == CFI_QUERY:
            return _TABLE[word] if word < len(_TABLE) else 0
        register = word & 0xFF
        return (MANUFACTURER, DEVICE, int(offset // SECTOR in self._locked))[register] if register < 3 else 0

    # writing

    def write(self, offset: int, size: int, value: int) -> None:
        """Take one cycle of a command; a store of eight bytes is two cycles."""
        before = self.readable
        self._cycle(offset, size, value)
        if self.readable != before:
            self._on_readable()

    def _cycle(self, offset: int, size: int, value: int) -> None:
        if size > _BUS:
            self._cycle(offset, _BUS, value & 0xFFFF_FFFF)
            self._cycle(offset + _BUS, size - _BUS, value >> 8 * _BUS)
        elif self._command:
            self._continue(offset, size, value)
        else:
            self._begin(value & 0xFF)

    def _begin(self, command: int) -> None:
        if command in (READ_STATUS, READ_IDENTITY, CFI_QUERY):
            self._mode = command
        elif command in (PROGRAM, PROGRAM_OLD, ERASE, BUFFERED, LOCKING):
            self._command, self._mode, self._left = command, READ_STATUS, -1
        else:
            if command == CLEAR_STATUS:
                self._errors = 0
            self._mode = READ_ARRAY

    def _continue(self, offset: int, size: int, value: int) -> None:
        command = self._command
        if command == BUFFERED:
            self._buffered(offset, size, value)
            return
        self._command = 0
        if command in (PROGRAM, PROGRAM_OLD):
            self._store(offset, value.to_bytes(size, "little"), PROGRAM_ERROR)
        elif value & 0xFF == READ_ARRAY:
            self._mode = READ_ARRAY
        elif command == ERASE and value & 0xFF == CONFIRM:
            self._store(offset & -SECTOR, b"\xff" * SECTOR, ERASE_ERROR)
        elif command == LOCKING and value & 0xFF == LOCK:
            self._locked.add(offset // SECTOR)
        elif command == LOCKING and value & 0xFF == CONFIRM:
            self._locked.discard(offset // SECTOR)
        else:
            self._errors |= _SEQUENCE_ERROR

    def _buffered(self, offset: int, size: int, value: int) -> None:
        """Take the length, less one; then so many bus words within one buffer's reach; then the confirmation."""
        if self._left < 0:
            words = (value & 0xFFFF) + 1
            self._left, self._buffer = words, {}
            if words > BUFFER // _BUS:
                self._give_up()
        elif self._left:
            if any(offset // BUFFER != at // BUFFER for at in self._buffer):
                self._give_up()
                return
            self._buffer.update(enumerate(value.to_bytes(size, "little"), offset))
            self._left -= 1
        elif value & 0xFF != CONFIRM:
            self._give_up()
        else:
            self._command = 0
            first, end = min(self._buffer), max(self._buffer) + 1
            data = bytes(self._buffer.get(at, self.content[at]) for at in range(first, end))
            self._store(first, data, PROGRAM_ERROR)

    def _give_up(self) -> None:
        self._command = 0
        self._errors |= _SEQUENCE_ERROR

    def _store(self, offset: int, data: bytes, error: int) -> None:
        if offset // SECTOR in self._locked:
            self._errors |= error | LOCKED
        elif self.file and not (self.file.writable and self.file.write(offset, data)):
            self._errors |= error
        else:
            self.content[offset : offset + len(data)] = data

    def close(self) -> None:
        """Let go of the file."""
        if self.file:
            self.file.close()
