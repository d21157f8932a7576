"""Put a kernel, an initial RAM disk and the device tree into guest RAM.

Kernels: the Linux boot image (raw, or with the PE header of its EFI stub, which leaves the image header in place), ELF,
and either of them compressed with gzip. Placement follows QEMU's ``virt``: kernel 2 MiB into RAM, device tree at the
end of RAM, initial RAM disk below it.
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
from protocol.memory import Shared

_KERNEL_AT = DRAM_BASE + (2 << 20)
_IMAGE_MAGIC = b"RSC\x05"
_ALIGN = 2 << 20
_EM_RISCV = 243


@dataclass(frozen=True)
class Loaded:
    """Where the kernel starts, and the end of what it occupies."""

    entry: int
    end: int


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from error


def _place(ram: Shared, gpa: int, data: bytes, what: str, size: int = 0) -> None:
    """Store ``data``, and zeros after it up to ``size`` bytes."""
    offset, size = gpa - DRAM_BASE, max(size, len(data))
    if offset < 0 or offset + size > ram.size:
        raise ConfigError(
            f"{what} does not fit into guest memory: {size} bytes at {gpa:#x}, memory ends at "
            f"{DRAM_BASE + ram.size:#x}",
            hint="raise vm.memory",
        )
    ram.u8[offset : offset + size] = data + bytes(size - len(data))


def load_kernel(ram: Shared, path: Path) -> Loaded:
    """Load the kernel at ``path``.

    Raises:
        ConfigError: it cannot be read, is no RISC-V kernel, or does not fit.
    """
    data = _read(path, "kernel")
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"kernel {path}: broken gzip file: {error}") from error
    if data[:4] == b"\x7fELF":
        return _load_elf(ram, path, data)
    if data[0x38:0x3C] == _IMAGE_MAGIC:
        text_offset, image_size = struct.unpack_from("<QQ", data, 8)
        at = DRAM_BASE + (text_offset or 2 << 20)
        _place(ram, at, data, f"kernel {path}")
        return Loaded(at, at + max(image_size, len(data)))
    if data[:2] == b"MZ":
        kind = "an EFI program without a RISC-V Linux header"
    elif data[:4] == b"\x27\x05\x19\x56":
        kind = "a uImage"
    else:
        kind = "neither a RISC-V Linux image nor ELF"
    raise ConfigError(
        f"{path} is no RISC-V kernel: {kind}", hint="use arch/riscv/boot/Image, Image.gz, or a distribution's vmlinuz"
    )


def _load_elf(ram: Shared, path: Path, data: bytes) -> Loaded:
    try:
        elf = ELFFile(io.BytesIO(data))
        machine, bits = elf.header["e_machine"], elf.elfclass
        segments = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        entry = elf.header["e_entry"]
        parts = [(s["p_paddr"], s["p_vaddr"], s.data(), s["p_memsz"]) for s in segments]
    except (ELFError, KeyError, ValueError, OSError, OverflowError, struct.error) as error:
        raise ConfigError(f"kernel {path}: broken ELF file: {error}") from error
    if machine not in ("EM_RISCV", _EM_RISCV) or bits != 64:
        raise ConfigError(f"{path} is no RISC-V kernel: ELF for {machine}, {bits} bit", hint="riscv64 is needed")
    if not parts:
        raise ConfigError(f"kernel {path}: ELF file without a loadable segment")
    end = start = 0
    for physical, virtual, content, size in parts:
        _place(ram, physical, content, f"kernel {path}", size)
        if virtual <= entry < virtual + size:
            start = physical + entry - virtual
        end = max(end, physical + size)
    return Loaded(start or parts[0][0], end)


def load_initrd(ram: Shared, path: Path, kernel_end: int, below: int) -> tuple[int, int]:
    """Load the initial RAM disk as high as it goes under ``below``; return (start, end).

    Raises:
        ConfigError: it cannot be read, or kernel and disk do not fit together.
    """
    data = _read(path, "initrd")
    start = (below - len(data)) & -4096
    if start < kernel_end:
        raise ConfigError(
            f"initrd {path} ({len(data) >> 20} MiB) and the kernel do not fit into guest memory",
            hint="raise vm.memory",
        )
    _place(ram, start, data, f"initrd {path}")
    return start, start + len(data)


def tree_address(ram: Shared, size: int) -> int:
    """Return where a device tree of ``size`` bytes goes: at the end of RAM, aligned to 2 MiB."""
    return DRAM_BASE + ram.size - ((size + _ALIGN - 1) & -_ALIGN)


def place_tree(ram: Shared, blob: bytes) -> int:
    """Load the device tree and return its address."""
    at = tree_address(ram, len(blob))
    _place(ram, at, blob, "device tree")
    return at
