"""Files such as people boot, made on the spot."""

from __future__ import annotations

import struct

VIRTUAL = 0xFFFF_FFFF_8000_0000


def image(
    *, text_offset: int = 0x20_0000, size: int = 0x3000, length: int = 0x1000, first: bytes = b"\x13\0\0\0"
) -> bytes:
    """Return a Linux boot image: its header, and a byte of its own at the end."""
    header = first.ljust(8, b"\0") + struct.pack("<QQQ", text_offset, size, 0) + struct.pack("<I", 2)
    return (header.ljust(0x30, b"\0") + b"RISCV\0\0\0" + b"RSC\x05" + bytes(4)).ljust(length - 1, b"\xaa") + b"\x77"


def elf(
    *,
    machine: int = 243,
    bits: int = 2,
    entry: int = VIRTUAL + 0x10,
    segments: tuple[tuple[int, int, bytes, int], ...] = ((0x8020_0000, VIRTUAL, b"code" * 16, 0x100),),
    kind: int = 1,
) -> bytes:
    """Return an ELF file of segments (physical, virtual, content, size in memory)."""
    ident = b"\x7fELF" + bytes([bits, 1, 1, 0]) + bytes(8)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    at = 64 + 56 * len(segments)
    rows, contents = b"", b""
    for physical, virtual, content, size in segments:
        rows += struct.pack("<IIQQQQQQ", kind, 5, at + len(contents), virtual, physical, len(content), size, 1)
        contents += content
    return header + rows + contents
