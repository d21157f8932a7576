"""The committed ``guest.elf`` is what its sources say, small, and loadable where a kernel is."""

import hashlib
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import guest

LOAD_ADDRESS = 0x8020_0000
SIZE_LIMIT = 64 * 1024
MEMORY_LIMIT = 1024 * 1024
PREFIX = "riscv64-linux-gnu-"
FOLDER = guest.elf_path().parent


def read_record(path: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


def sources_digest() -> str:
    """The digest the Makefile records: Makefile, linker script, then every source in byte order."""
    sources = sorted((FOLDER / "src").iterdir(), key=lambda p: p.name)
    digest = hashlib.sha256()
    for path in [FOLDER / "Makefile", FOLDER / "guest.ld", *sources]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def symbols(image: bytes) -> set[str]:
    table = ELFFile(BytesIO(image)).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    return {s.name for s in table.iter_symbols() if s["st_info"]["bind"] == "STB_GLOBAL"}


@pytest.fixture(scope="module")
def image() -> bytes:
    return guest.elf_path().read_bytes()


def test_elf_path_names_the_shipped_file() -> None:
    assert guest.elf_path().name == "guest.elf"
    assert guest.elf_path().is_file()


def test_image_fits_the_size_bound(image: bytes) -> None:
    assert len(image) <= SIZE_LIMIT


def test_image_is_a_riscv64_executable_entered_at_the_kernel_address(image: bytes) -> None:
    elf = ELFFile(BytesIO(image))
    assert (elf.elfclass, elf.little_endian, elf["e_machine"], elf["e_type"]) == (64, True, "EM_RISCV", "ET_EXEC")
    assert elf["e_entry"] == LOAD_ADDRESS


def test_segments_lie_behind_the_entry_and_none_is_writable_and_executable(image: bytes) -> None:
    segments = [s.header for s in ELFFile(BytesIO(image)).iter_segments("PT_LOAD")]
    assert segments[0]["p_paddr"] == LOAD_ADDRESS  # QEMU enters at the lowest address, whatever e_entry says
    end = LOAD_ADDRESS
    for header in segments:
        assert header["p_paddr"] == header["p_vaddr"] >= end
        assert header["p_flags"] & 3 != 3
        end = header["p_paddr"] + header["p_memsz"]
    assert end <= LOAD_ADDRESS + MEMORY_LIMIT


def test_image_names_no_folder_of_the_machine_that_built_it(image: bytes) -> None:
    assert str(FOLDER).encode() not in image
    assert re.search(rb"/(home|root|work|tmp|usr)/", image) is None


def test_image_was_built_from_these_sources(image: bytes) -> None:
    record = read_record(FOLDER / "guest.elf.txt")
    assert record["elf-sha256"] == hashlib.sha256(image).hexdigest()
    assert record["sources-sha256"] == sources_digest(), "sources changed: run make in guest/ and commit guest.elf"


def test_rebuild_gives_the_same_program(image: bytes, tmp_path: Path) -> None:
    """Same compiler: the same bytes. Another one: the same symbols within the size bound. None: the record stands."""
    record = read_record(FOLDER / "guest.elf.txt")
    if shutil.which(f"{PREFIX}gcc") is None or shutil.which("make") is None:
        assert record["sources-sha256"] == sources_digest()  # all that can be said without a cross compiler
        return
    rebuilt = tmp_path / "guest.elf"
    subprocess.run(
        ["make", "-s", "-C", str(FOLDER), f"OUT={tmp_path}", f"ELF={rebuilt}"],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    built = read_record(Path(f"{rebuilt}.txt"))
    if all(built[tool] == record[tool] for tool in ("compiler", "linker")):
        assert rebuilt.read_bytes() == image
    else:
        assert symbols(rebuilt.read_bytes()) == symbols(image)
        assert rebuilt.stat().st_size <= SIZE_LIMIT


def test_readme_describes_every_command() -> None:
    text = (FOLDER / "README.md").read_text()
    letters = set(re.findall(r"case '(\w)':", (FOLDER / "src" / "commands.c").read_text()))
    assert len(letters) == 12
    for letter in letters:
        assert re.search(rf"^\| `{letter}[ `]", text, re.MULTILINE), letter
