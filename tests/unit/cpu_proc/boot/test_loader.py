"""Kernels of every form are placed, and whatever is wrong with one is said as a configuration error."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc.boot import loader
from protocol.errors import ConfigError
from protocol.memory import Shared
from tests.unit.cpu_proc.harness import RAM, anonymous

SIZE = 8 << 20


@pytest.fixture
def ram() -> Iterator[Shared]:
    """Return 8 MiB of guest memory."""
    ram = anonymous(SIZE)
    yield ram
    ram.close()


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
    entry: int = 0xFFFF_FFFF_8000_0010,
    segments: tuple[tuple[int, int, bytes, int], ...] = ((0x8020_0000, 0xFFFF_FFFF_8000_0000, b"code" * 16, 0x100),),
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


def test_raw_image(ram: Shared, tmp_path: Path) -> None:
    path = tmp_path / "Image"
    path.write_bytes(image())
    loaded = loader.load_kernel(ram, path)
    assert (loaded.entry, loaded.end) == (0x8020_0000, 0x8020_3000)
    assert bytes(ram.u8[0x20_0000:0x20_1000]) == image()


@pytest.mark.parametrize(("text_offset", "entry"), [(0, 0x8020_0000), (0x40_0000, 0x8040_0000)])
def test_image_says_where_it_goes(ram: Shared, tmp_path: Path, text_offset: int, entry: int) -> None:
    path = tmp_path / "Image"
    path.write_bytes(image(text_offset=text_offset))
    assert loader.load_kernel(ram, path).entry == entry


def test_image_with_an_efi_stub(ram: Shared, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(image(first=b"MZ\x6f\x10"))
    assert loader.load_kernel(ram, path).entry == 0x8020_0000


@pytest.mark.parametrize("content", [image(), elf()], ids=["image", "elf"])
def test_compressed_kernel(ram: Shared, tmp_path: Path, content: bytes) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    expected = loader.load_kernel(ram, plain)
    memory = bytes(ram.u8)
    ram.u8[:] = bytes(SIZE)
    assert loader.load_kernel(ram, packed) == expected
    assert bytes(ram.u8) == memory


def test_elf_goes_to_its_physical_addresses(ram: Shared, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(
        elf(segments=((0x8000_0000, 0xFFFF_0000, b"one", 3), (0x8010_0000, 0xFFFF_FFFF_8000_0000, b"two", 0x2000)))
    )
    ram.u8[0x10_0000:0x10_3000] = b"\xff" * 0x3000
    loaded = loader.load_kernel(ram, path)
    assert (loaded.entry, loaded.end) == (0x8010_0010, 0x8010_2000)
    assert bytes(ram.u8[:3]) == b"one"
    assert bytes(ram.u8[0x10_0000:0x10_2001]) == b"two" + bytes(0x1FFD) + b"\xff"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither"),
        (b"hello", "neither"),
        (bytes(100), "neither"),
        (b"MZ" + bytes(100), "EFI program"),
        (b"\x27\x05\x19\x56" + bytes(100), "uImage"),
        (b"\x1f\x8b", "gzip"),
        (gzip.compress(image())[:-20], "gzip"),
        (gzip.compress(image())[:30], "gzip"),
        (gzip.compress(image())[:-8] + bytes(8), "gzip"),
        (gzip.compress(b"hello"), "neither"),
        (image(text_offset=SIZE), "fit"),
        (image(text_offset=1 << 63), "fit"),
        (image(text_offset=SIZE - 0x800), "fit"),
        (b"\x7fELF", "broken ELF"),
        (elf()[:40], "broken ELF"),
        (elf()[:80], "broken ELF"),
        (elf(machine=62), "EM_X86_64"),
        (elf(machine=0xFEED), "65261"),
        (elf(bits=1), "ELF"),
        (elf(bits=9), "ELF"),
        (elf(segments=()), "without a loadable segment"),
        (elf(kind=4), "without a loadable segment"),
        (elf(segments=((0x1000, 0, b"x", 1),)), "fit"),
        (elf(segments=((RAM + SIZE, 0, b"x", 1),)), "fit"),
        (elf(segments=((RAM, 0, b"x", SIZE + 1),)), "fit"),
        (elf(segments=((RAM, 0, b"x", 1 << 62),)), "fit"),
        (elf(segments=((RAM, 0, b"x", (1 << 64) - 1),)), "fit"),
        (elf(segments=(((1 << 64) - 1, 0, b"x", 1),)), "fit"),
    ],
)
def test_unusable_kernel_is_a_configuration_error(ram: Shared, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        loader.load_kernel(ram, path)
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_missing_files_are_configuration_errors(ram: Shared, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kernel"):
        loader.load_kernel(ram, tmp_path / "none")
    with pytest.raises(ConfigError, match="kernel"):
        loader.load_kernel(ram, tmp_path)
    with pytest.raises(ConfigError, match="initrd"):
        loader.load_initrd(ram, tmp_path / "none", RAM, RAM + SIZE)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.sampled_from([elf(), image(), gzip.compress(image())]),
    some.lists(some.tuples(some.integers(0, 200), some.integers(0, 255)), max_size=6),
    some.integers(0, 300),
)
def test_broken_kernel_is_loaded_or_refused(
    ram: Shared, tmp_path: Path, content: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    broken = bytearray(content)
    for at, value in changes:
        if at < len(broken):
            broken[at] = value
    path = tmp_path / "kernel"
    path.write_bytes(broken[: len(broken) - cut] if cut < 200 else broken)
    try:
        loaded = loader.load_kernel(ram, path)
    except ConfigError:
        return
    assert RAM <= loaded.entry < RAM + SIZE


# the initial RAM disk and the device tree


def test_initrd_lies_as_high_as_it_goes(ram: Shared, tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"disk" * 1000)
    start, end = loader.load_initrd(ram, path, RAM + 0x30_0000, RAM + 0x60_0000)
    assert (start, end) == (RAM + 0x5F_F000, RAM + 0x5F_F000 + 4000)
    assert bytes(ram.u8[start - RAM : end - RAM]) == b"disk" * 1000


def test_initrd_that_meets_the_kernel_does_not_fit(ram: Shared, tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(bytes(0x2001))
    with pytest.raises(ConfigError, match="do not fit") as caught:
        loader.load_initrd(ram, path, RAM + 0x1000, RAM + 0x3000)
    assert caught.value.hint == "raise vm.memory"


@pytest.mark.parametrize(("size", "below"), [(1, 2 << 20), (2 << 20, 2 << 20), ((2 << 20) + 1, 4 << 20)])
def test_tree_lies_at_the_end(ram: Shared, size: int, below: int) -> None:
    at = loader.place_tree(ram, b"\x55" * size)
    assert at == RAM + SIZE - below
    assert bytes(ram.u8[at - RAM : at - RAM + size]) == b"\x55" * size
