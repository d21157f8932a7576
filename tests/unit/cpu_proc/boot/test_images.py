"""Kernels and firmware of every form are read, and whatever is wrong with one is said as a configuration error."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc.boot import images
from protocol.errors import ConfigError
from tests.unit.cpu_proc.boot.files import VIRTUAL, elf, image
from tests.unit.cpu_proc.harness import RAM

CODE = b"\x13\x05\x10\x00" * 64  # li a0, 1


def kernel(folder: Path, content: bytes, firmware_end: int = 0) -> images.Image:
    """Read ``content`` as a kernel."""
    path = folder / "kernel"
    path.write_bytes(content)
    return images.kernel(path, firmware_end)


def firmware(folder: Path, content: bytes) -> images.Image:
    """Read ``content`` as firmware."""
    path = folder / "firmware"
    path.write_bytes(content)
    return images.firmware(path)


def test_raw_image(tmp_path: Path) -> None:
    found = kernel(tmp_path, image())
    assert (found.entry, found.start, found.end) == (0x8020_0000, 0x8020_0000, 0x8020_3000)
    assert found.segments[0].data == image()


@pytest.mark.parametrize(("text_offset", "entry"), [(0, 0x8020_0000), (0x40_0000, 0x8040_0000)])
def test_image_says_where_it_goes(tmp_path: Path, text_offset: int, entry: int) -> None:
    assert kernel(tmp_path, image(text_offset=text_offset)).entry == entry


def test_image_with_an_efi_stub(tmp_path: Path) -> None:
    assert kernel(tmp_path, image(first=b"MZ\x6f\x10")).entry == 0x8020_0000


@pytest.mark.parametrize("content", [image(), elf()], ids=["image", "elf"])
def test_compressed_kernel(tmp_path: Path, content: bytes) -> None:
    assert kernel(tmp_path, gzip.compress(content)) == kernel(tmp_path, content)


def test_elf_goes_to_its_physical_addresses(tmp_path: Path) -> None:
    found = kernel(tmp_path, elf(segments=((RAM, 0xFFFF_0000, b"one", 3), (0x8010_0000, VIRTUAL, b"two", 0x2000))))
    assert (found.entry, found.start, found.end) == (0x8010_0010, RAM, 0x8010_2000)
    assert [(s.start, s.data, s.size) for s in found.segments] == [(RAM, b"one", 3), (0x8010_0000, b"two", 0x2000)]


@pytest.mark.parametrize("content", [image(text_offset=0x40_0000), CODE], ids=["image", "code"])
def test_behind_firmware_a_kernel_is_on_the_next_boundary(tmp_path: Path, content: bytes) -> None:
    assert kernel(tmp_path, content, RAM + 1).entry == 0x8020_0000
    assert kernel(tmp_path, content, RAM + 0x20_0001).entry == 0x8040_0000


def test_firmware_is_elf_or_code_at_the_start_of_memory(tmp_path: Path) -> None:
    assert firmware(tmp_path, CODE).entry == RAM
    assert firmware(tmp_path, elf(entry=RAM + 4, segments=((RAM, RAM, CODE, 0x1000),))).entry == RAM + 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"hello", "text"),
        (bytes(100), "0x0000"),
        (b"\xff" * 100, "0xffff"),
        (CODE, "neither"),
        (b"MZ" + bytes(100), "EFI program"),
        (b"\x27\x05\x19\x56" + bytes(100), "uImage"),
        (b"\xd0\x0d\xfe\xed" + bytes(100), "device tree"),
        (b"\x1f\x8b", "gzip"),
        (gzip.compress(image(), mtime=0)[:-20], "gzip"),
        (gzip.compress(image(), mtime=0)[:30], "gzip"),
        (gzip.compress(image(), mtime=0)[:-8] + bytes(8), "gzip"),
        (gzip.compress(b"hello", mtime=0), "text"),
        (b"\x7fELF", "broken ELF"),
        (elf()[:40], "broken ELF"),
        (elf()[:80], "broken ELF"),
        (elf()[:140], "broken ELF"),
        (elf(segments=((RAM, VIRTUAL, b"xy", 1),)), "broken ELF"),
        (elf(machine=62), "EM_X86_64"),
        (elf(machine=0xFEED), "65261"),
        (elf(bits=1), "ELF"),
        (elf(bits=9), "ELF"),
        (elf(segments=()), "without a loadable segment"),
        (elf(kind=4), "without a loadable segment"),
        (elf(segments=((RAM, VIRTUAL, b"", 0),)), "without a loadable segment"),
        (elf(entry=VIRTUAL - 1), "entry"),
        (elf(entry=VIRTUAL + 0x100), "entry"),
    ],
)
def test_unusable_kernel_is_a_configuration_error(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kernel(tmp_path, content)
    assert str(tmp_path / "kernel") in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"text\n" * 9, "text"),
        (image(), "Linux"),
        (elf(machine=62), "EM_X86_64"),
        (elf()[:99], "ELF"),
    ],
)
def test_unusable_firmware_is_a_configuration_error(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        firmware(tmp_path, content)
    assert str(tmp_path / "firmware") in caught.value.message
    assert said in caught.value.message


def test_missing_files_are_configuration_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="kernel"):
            images.kernel(path)
        with pytest.raises(ConfigError, match="firmware"):
            images.firmware(path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.sampled_from([elf(), image(), gzip.compress(image())]),
    some.lists(some.tuples(some.integers(0, 200), some.integers(0, 255)), max_size=6),
    some.integers(0, 300),
)
def test_broken_kernel_is_read_or_refused(
    tmp_path: Path, content: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    broken = bytearray(content)
    for at, value in changes:
        if at < len(broken):
            broken[at] = value
    try:
        found = kernel(tmp_path, bytes(broken[: len(broken) - cut] if cut < 200 else broken))
    except ConfigError:
        return
    assert any(s.start <= found.entry < s.start + s.size for s in found.segments)
