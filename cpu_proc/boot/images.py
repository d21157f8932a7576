"""What is in a file that goes into guest memory: a Linux boot image, ELF, either in gzip, or plain bytes.

Whatever is wrong with a file is one ``ConfigError``; nothing here touches guest memory.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cpu_proc.memory_map import DRAM_BASE
from protocol.errors import ConfigError

ALIGN = 2 << 20  # of kernels, whose pages are that large
KERNEL_AT = DRAM_BASE + ALIGN
_IMAGE_MAGIC = b"RSC\x05"
_EM_RISCV = 243
_LONGEST_FILE = 4 << 30
_KERNEL_HINT = "use arch/riscv/boot/Image, Image.gz, or a distribution's vmlinuz"
# what is certainly no RISC-V code, by its first bytes
_OTHERS = {
    b"MZ": "an EFI program without a RISC-V Linux header",
    b"\x27\x05\x19\x56": "a uImage",
    b"\xd0\x0d\xfe\xed": "a device tree or FIT image",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"#!": "a script",
}


@dataclass(frozen=True)
class Segment:
    """Bytes at their address, followed by zeros up to ``size``."""

    start: int
    data: bytes
    size: int


@dataclass(frozen=True)
class Image:
    """A file's content and where its execution begins."""

    segments: tuple[Segment, ...]
    entry: int

    @property
    def start(self) -> int:
        """The lowest address."""
        return min(segment.start for segment in self.segments)

    @property
    def end(self) -> int:
        """The first address behind it."""
        return max(segment.start + segment.size for segment in self.segments)


def read(path: Path, what: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from error
    return data


def raw(data: bytes, at: int) -> Image:
    """Return plain bytes at an address, where they also begin."""
    return Image((Segment(at, data, len(data)),), at)


def is_elf(data: bytes) -> bool:
    """Tell whether it claims to be ELF."""
    return data[:4] == b"\x7fELF"


def elf(data: bytes, what: str) -> Image:
    """Return an ELF file at its physical addresses.

    Raises:
        ConfigError: it is broken, or for another processor.
    """
    try:
        file = ELFFile(io.BytesIO(data))
        machine, bits, little = file.header["e_machine"], file.elfclass, file.little_endian
        entry = file.header["e_entry"]
        rows = [
            (s["p_paddr"], s["p_vaddr"], s["p_filesz"], s["p_memsz"], s.data())
            for s in file.iter_segments()
            if s["p_type"] == "PT_LOAD"
        ]
    except (ELFError, KeyError, ValueError, OSError, OverflowError, struct.error) as error:
        raise ConfigError(f"{what}: broken ELF file: {error}") from error
    if machine not in ("EM_RISCV", _EM_RISCV) or bits != 64 or not little:
        raise ConfigError(f"{what} is not for RISC-V: ELF for {machine}, {bits} bit", hint="riscv64 is needed")
    start = None
    for physical, virtual, in_file, size, content in rows:
        if len(content) < in_file or size < in_file:
            raise ConfigError(f"{what}: broken ELF file: a segment has {len(content)} of {in_file} bytes")
        if virtual <= entry < virtual + size:
            start = physical + entry - virtual
    if not any(size for *_, size, _content in rows):
        raise ConfigError(f"{what}: ELF file without a loadable segment")
    if start is None:
        raise ConfigError(f"{what}: ELF file whose entry {entry:#x} is in none of its segments")
    return Image(tuple(Segment(row[0], row[4], row[3]) for row in rows if row[3]), start)


def unpacked(data: bytes, what: str) -> bytes:
    """Return what is in a gzip file, or the data itself if it is none.

    Raises:
        ConfigError: the gzip file is broken.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{what}: broken gzip file: {error}") from error


def kernel(path: Path, firmware_end: int = 0) -> Image:
    """Return a kernel: 2 MiB into RAM, or where its header says; behind firmware if there is some.

    What firmware starts may also be plain code, such as U-Boot's.

    Raises:
        ConfigError: it cannot be read, or is no RISC-V kernel.
    """
    what = f"kernel {path}"
    data = unpacked(read(path, "kernel"), what)
    if is_elf(data):
        return elf(data, what)
    behind = (firmware_end + ALIGN - 1) & -ALIGN
    if data[0x38:0x3C] == _IMAGE_MAGIC:
        text_offset, image_size = struct.unpack_from("<QQ", data, 8)
        at = behind or DRAM_BASE + (text_offset or ALIGN)
        return Image((Segment(at, data, max(image_size, len(data))),), at)
    fault = _no_code(data)
    if fault or not firmware_end:
        raise ConfigError(
            f"{path} is no RISC-V kernel: {fault or 'neither a RISC-V Linux image nor ELF'}", hint=_KERNEL_HINT
        )
    return raw(data, behind)


def firmware(path: Path) -> Image:
    """Return firmware: ELF at its own addresses, plain code at the start of RAM.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    what = f"firmware {path}"
    data = read(path, "firmware")
    if is_elf(data):
        return elf(data, what)
    fault = "a Linux image" if data[0x38:0x3C] == _IMAGE_MAGIC else _no_code(data)
    if fault:
        raise ConfigError(
            f"{path} is no RISC-V firmware: {fault}",
            hint="use OpenSBI's fw_dynamic or fw_jump, or U-Boot's u-boot.bin",
        )
    return raw(data, DRAM_BASE)


def _no_code(data: bytes) -> str | None:
    """Say why these bytes cannot be code; what is left may still be none."""
    for magic, kind in _OTHERS.items():
        if data.startswith(magic):
            return kind
    if len(data) < 4:
        return f"it has {len(data)} bytes"
    first = int.from_bytes(data[:4], "little")
    if first & 0xFFFF in (0, 0xFFFF):  # the two words that no instruction may begin with (unprivileged §1.5)
        return f"it begins with {first & 0xFFFF:#06x}, which is no instruction"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:256]):
        return "a text"
    return None
