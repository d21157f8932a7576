"""What a hart executes first: the ROM at 0x1000 that starts firmware, word for word that of QEMU's ``virt``.

It loads a0 with the hart's number, a1 with the device tree, a2 with OpenSBI's ``fw_dynamic_info``, and jumps.
"""

from __future__ import annotations

import mmap
import struct

from cpu_proc.memory_map import MROM

_CODE = (
    0x0000_0297,  # auipc t0, 0
    0x0282_8613,  # addi  a2, t0, 40
    0xF140_2573,  # csrr  a0, mhartid
    0x0202_B583,  # ld    a1, 32(t0)
    0x0182_B283,  # ld    t0, 24(t0)
    0x0002_8067,  # jr    t0
)
INFO = 40  # offset of fw_dynamic_info
_MAGIC, _VERSION = 0x4942_534F, 2
_NEXT_MODE_S = 1


def content(start: int, tree: int, next_stage: int) -> bytes:
    """Return the ROM: firmware at ``start``, device tree, and what firmware is to start in S mode, or 0."""
    info = (_MAGIC, _VERSION, next_stage, _NEXT_MODE_S, 0, 0)  # no options, any hart may boot
    return struct.pack("<6I8Q", *_CODE, start, tree, *info)


class Rom:
    """Memory that only reads, zeros behind its content; ``image`` stays where it is."""

    def __init__(self, data: bytes = b"") -> None:
        self.image = mmap.mmap(-1, MROM.size)
        self.data = data

    @property
    def data(self) -> bytes:
        """What was put into it."""
        return self._data

    @data.setter
    def data(self, data: bytes) -> None:
        self._data = data
        self.image[:] = data.ljust(MROM.size, b"\0")

    def read(self, offset: int, size: int) -> int:
        """Read the content."""
        return int.from_bytes(self.image[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes are dropped."""
