"""fw_cfg: how firmware reads what the machine was told (QEMU's ``docs/specs/fw_cfg``, the memory-mapped device).

A selector chooses an item, reads of the data register walk through it, or a DMA command moves parts of it to RAM.
Selector and DMA address are big-endian, data comes in the order of the item's bytes. Items cannot be written.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping

from protocol.memory import GuestMemory

logger = logging.getLogger(__name__)

DATA, SELECTOR, DMA = 0, 8, 16
SIGNATURE, ID, UUID, RAM_SIZE, NOGRAPHIC, NB_CPUS = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05
KERNEL_SIZE, INITRD_SIZE, KERNEL_DATA, INITRD_DATA, CMDLINE_SIZE, CMDLINE_DATA = 0x08, 0x0B, 0x11, 0x12, 0x14, 0x15
BOOT_MENU, MAX_CPUS, FILE_DIRECTORY, FILE_FIRST = 0x0E, 0x0F, 0x19, 0x20
ID_TRADITIONAL, ID_DMA = 1, 2
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16  # of a DMA command
_DMA_SIGNATURE = int.from_bytes(b"QEMU CFG", "big")
_COMMAND = struct.Struct(">IIQ")  # control, length, address
_CHUNK = 1 << 20


def standard_items(harts: int, ram_size: int) -> dict[int, bytes]:
    """Return what every machine has: no graphics, no boot menu."""
    return {
        UUID: bytes(16),
        RAM_SIZE: struct.pack("<Q", ram_size),
        NOGRAPHIC: struct.pack("<H", 1),
        NB_CPUS: struct.pack("<H", harts),
        BOOT_MENU: struct.pack("<H", 0),
        MAX_CPUS: struct.pack("<H", harts),
    }


def kernel_items(kernel: bytes, initrd: bytes, cmdline: str) -> dict[int, bytes]:
    """Return what firmware in flash boots: the files, each with its size, and a text that ends with a zero."""
    text = cmdline.encode() + b"\0"
    found = {KERNEL_SIZE: struct.pack("<I", len(kernel)), KERNEL_DATA: kernel}
    if initrd:
        found |= {INITRD_SIZE: struct.pack("<I", len(initrd)), INITRD_DATA: initrd}
    return found | {CMDLINE_SIZE: struct.pack("<I", len(text)), CMDLINE_DATA: text}


def _directory(files: Mapping[str, bytes]) -> bytes:
    """Return the file directory: a count, then size, key, padding and name of each, by name."""
    rows = [
        struct.pack(">IHH56s", len(files[name]), FILE_FIRST + index, 0, name.encode())
        for index, name in enumerate(sorted(files))
    ]
    return struct.pack(">I", len(rows)) + b"".join(rows)


class FwCfg:
    """The device over ``items`` by key and ``files`` by name, of at most 55 ASCII characters."""

    SAVED = (
        "_address",
        "_item",
        "_at",
    )

    def __init__(self, memory: GuestMemory, items: Mapping[int, bytes], files: Mapping[str, bytes]) -> None:
        self._memory = memory
        self._items = {
            SIGNATURE: b"QEMU",
            ID: struct.pack("<I", ID_TRADITIONAL | ID_DMA),
            **items,
            FILE_DIRECTORY: _directory(files),
            **{FILE_FIRST + index: files[name] for index, name in enumerate(sorted(files))},
        }
        self.reset()

    def reset(self) -> None:
        """Return to power-on state."""
        self._select(SIGNATURE)
        self._address = 0

    def add(self, items: Mapping[int, bytes]) -> None:
        """Add items by key, or replace them."""
        self._items |= items

    def _select(self, key: int) -> None:
        self._item = self._items.get(key, b"")  # what is not there reads as zeros without end
        self._at = 0

    def _take(self, length: int) -> bytes:
        """Return the next bytes of the item, zeros behind its end."""
        data = self._item[self._at : self._at + length]
        self._at = min(self._at + length, len(self._item))
        return data + bytes(length - len(data))

    def read(self, offset: int, size: int) -> int:
        """Read data in the order of its bytes, or the signature of the DMA interface."""
        if offset < SELECTOR:
            return int.from_bytes(self._take(size), "little") if offset == DATA else 0
        if offset in (DMA, DMA + 4) and size in (4, 8):
            shown = _DMA_SIGNATURE >> 32 if offset == DMA and size == 4 else _DMA_SIGNATURE
            return int.from_bytes((shown & (1 << 8 * size) - 1).to_bytes(size, "big"), "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item, or start a DMA command by writing the low half of its address."""
        number = int.from_bytes(value.to_bytes(size, "little"), "big")
        if offset == SELECTOR and size == 2:
            self._select(number)
        elif offset == DMA and size == 8:
            self._command(number)
        elif offset == DMA and size == 4:
            self._address = number << 32
        elif offset == DMA + 4 and size == 4:
            address, self._address = self._address | number, 0
            self._command(address)

    def _command(self, address: int) -> None:
        """Execute the command at ``address``; its control word becomes 0, or the error bit."""
        raw = self._memory.read(address, _COMMAND.size)
        if raw is None:
            logger.debug("fw_cfg: the DMA command at %#x is not in RAM", address)
            return
        control, length, target = _COMMAND.unpack(raw)
        if control & SELECT:
            self._select(control >> 16)
        done = True
        if control & READ:
            done = self._memory.offset(target, length) is not None
            while done and length:
                part = min(length, _CHUNK)
                done = self._memory.write(target, self._take(part))
                target, length = target + part, length - part
        elif control & WRITE:
            done = False
        elif control & SKIP:
            self._at = min(self._at + length, len(self._item))
        self._memory.write(address, struct.pack(">I", 0 if done else ERROR))
