"""Configuration space of a function that lives in this process: bytes, and what a guest may do to each bit."""

from __future__ import annotations

CONFIG_BYTES = 0x100
"""What lies above reads as zero: an extended capability list without an entry (PCIe 5.0 §7.9.1)."""


class ConfigSpace:
    """256 bytes; a bit is read-only unless it is declared to be written, or cleared by writing a one (RW1C)."""

    def __init__(self) -> None:
        self._data = bytearray(CONFIG_BYTES)
        self._writable = bytearray(CONFIG_BYTES)
        self._clearable = bytearray(CONFIG_BYTES)
        self._reset = bytes(CONFIG_BYTES)

    def declare(self, offset: int, width: int, value: int = 0, *, writable: int = 0, clearable: int = 0) -> None:
        """Declare a register: its value after a reset, and which bits a guest writes or clears."""
        place = slice(offset, offset + width)
        self._data[place] = value.to_bytes(width, "little")
        self._writable[place] = writable.to_bytes(width, "little")
        self._clearable[place] = clearable.to_bytes(width, "little")
        self._reset = bytes(self._data)

    def capabilities(self, pointer: int, offsets: list[int]) -> None:
        """Chain the capabilities at ``offsets``, from ``pointer`` on (PCI 3.0 §6.7)."""
        for offset in offsets:
            self._data[pointer] = offset
            pointer = offset + 1
        self._reset = bytes(self._data)

    def reset(self) -> None:
        """Return every register to its value after a reset."""
        self._data[:] = self._reset

    def get(self, offset: int, width: int) -> int:
        """Return a register."""
        return int.from_bytes(self._data[offset : offset + width], "little")

    def put(self, offset: int, width: int, value: int) -> None:
        """Set a register from inside."""
        self._data[offset : offset + width] = value.to_bytes(width, "little")

    def change(self, offset: int, *, set_bits: int = 0, clear_bits: int = 0) -> None:
        """Set and clear bits of a 16-bit register from inside."""
        self.put(offset, 2, self.get(offset, 2) & ~clear_bits | set_bits)

    def write(self, offset: int, size: int, value: int) -> None:
        """Do what a guest's store does."""
        for index, at in enumerate(range(offset, min(offset + size, CONFIG_BYTES))):
            byte = value >> 8 * index & 0xFF
            kept = self._data[at] & ~self._writable[at] & ~(byte & self._clearable[at])
            self._data[at] = kept | byte & self._writable[at]

    @property
    def content(self) -> bytes:
        """All of it, to be saved."""
        return bytes(self._data)

    @content.setter
    def content(self, content: bytes) -> None:
        self._data[:] = content
