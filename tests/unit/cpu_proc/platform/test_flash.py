"""CFI flash: what a driver of the Intel command set finds, and what reaches the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cpu_proc.platform import flash
from cpu_proc.platform.flash import BANK, SECTOR, Flash, FlashFile
from protocol.errors import ConfigError, HostError

READY = flash.READY | flash.READY << 16
AT = 3 * SECTOR + 0x100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a bank's file of zeros."""
    path = tmp_path / "flash0"
    with path.open("wb") as file:
        file.truncate(BANK)
    return path


@pytest.fixture
def bank(path: Path) -> Iterator[Flash]:
    """Return a bank over the file."""
    bank = Flash(FlashFile(path, "flash0"))
    yield bank
    bank.close()


def command(bank: Flash, *cycles: int, at: int = AT) -> None:
    """Write each byte to both chips."""
    for cycle in cycles:
        bank.write(at, 4, cycle | cycle << 16)


def status(bank: Flash) -> int:
    """Return the status of one chip, both agreeing, and clear it."""
    command(bank, flash.READ_STATUS)
    found = bank.read(AT, 4)
    assert found & 0xFFFF == found >> 16
    command(bank, flash.CLEAR_STATUS)
    return found & 0xFFFF


def test_query_describes_the_bank(bank: Flash) -> None:
    command(bank, flash.CFI_QUERY, at=0x55 * 4)
    words = [bank.read(4 * i, 4) for i in range(0x40)]
    assert all(word & 0xFFFF == word >> 16 for word in words)
    table = bytes(word & 0xFF for word in words)
    assert table[0x10:0x15] == b"QRY\x01\x00"
    chip, buffer = 1 << table[0x27], 1 << int.from_bytes(table[0x2A:0x2C], "little")
    blocks = int.from_bytes(table[0x2D:0x2F], "little") + 1
    assert 2 * chip == BANK
    assert 2 * buffer == flash.BUFFER
    assert blocks * int.from_bytes(table[0x2F:0x31], "little") * 256 == chip
    extended = int.from_bytes(table[0x15:0x17], "little")
    assert table[extended : extended + 3] == b"PRI"
    assert bank.read(4 * 0x80, 4) == 0
    command(bank, flash.READ_ARRAY)
    assert bank.read(0x40, 4) == 0


def test_identity_and_locks(bank: Flash) -> None:
    command(bank, flash.LOCKING, flash.LOCK)
    command(bank, flash.READ_IDENTITY)
    assert bank.read(0, 4) == 0x0089_0089
    assert bank.read(4, 2) == 0x18
    assert bank.read(8, 4) == 0
    assert bank.read(3 * SECTOR + 8, 4) == 0x0001_0001
    command(bank, flash.PROGRAM)
    bank.write(AT, 4, 0x1234)
    assert status(bank) == flash.READY | flash.PROGRAM_ERROR | flash.LOCKED
    command(bank, flash.ERASE, flash.CONFIRM)
    assert status(bank) == flash.READY | flash.ERASE_ERROR | flash.LOCKED
    command(bank, flash.LOCKING, flash.CONFIRM)
    command(bank, flash.PROGRAM)
    bank.write(AT, 4, 0x1234)
    assert status(bank) == flash.READY
    assert bank.read(AT, 4) == 0x1234


@pytest.mark.parametrize("size", [1, 2, 4])
def test_program_and_erase_reach_the_file(bank: Flash, path: Path, size: int) -> None:
    for program in (flash.PROGRAM, flash.PROGRAM_OLD):
        command(bank, program)
        bank.write(AT, size, 0x8765_4321 & (1 << 8 * size) - 1)
        assert bank.read(AT, 4) == READY  # reads answer with the status from the command on
        assert status(bank) == flash.READY
    expected = (0x8765_4321).to_bytes(4, "little")[:size]
    assert path.read_bytes()[AT - 1 : AT + size + 1] == b"\0" + expected + b"\0"
    command(bank, flash.ERASE, flash.CONFIRM)
    assert status(bank) == flash.READY
    assert path.read_bytes()[3 * SECTOR - 1 : 4 * SECTOR + 1] == b"\0" + b"\xff" * SECTOR + b"\0"
    assert bank.read(AT, 8) == (1 << 64) - 1


def test_buffered_program(bank: Flash, path: Path) -> None:
    command(bank, flash.BUFFERED)
    assert bank.read(AT, 4) == READY
    command(bank, 2)
    bank.write(AT, 8, 0x0807_0605_0403_0201)
    bank.write(AT + 8, 4, 0x0C0B_0A09)
    assert path.read_bytes()[AT : AT + 12] == bytes(12)  # nothing before it is confirmed
    command(bank, flash.CONFIRM)
    assert status(bank) == flash.READY
    assert path.read_bytes()[AT : AT + 13] == bytes(range(1, 13)) + b"\0"


@pytest.mark.parametrize("wrong", ["length", "reach", "confirmation"])
def test_a_wrong_buffered_program_is_a_sequence_error(bank: Flash, wrong: str) -> None:
    command(bank, flash.BUFFERED, flash.BUFFER // 4 if wrong == "length" else 1)
    if wrong != "length":
        bank.write(AT, 4, 1)
        bank.write(AT + (flash.BUFFER if wrong == "reach" else 4), 4, 2)
    if wrong == "confirmation":
        command(bank, flash.READ_ARRAY)
    assert status(bank) == flash.READY | flash.PROGRAM_ERROR | flash.ERASE_ERROR
    assert bank.read(AT, 8) == 0


def test_unfinished_commands_are_left(bank: Flash) -> None:
    command(bank, flash.ERASE, flash.READ_ARRAY)
    assert bank.read(AT, 4) == 0
    command(bank, flash.ERASE, 0x77)
    assert status(bank) == flash.READY | flash.PROGRAM_ERROR | flash.ERASE_ERROR
    command(bank, flash.CFI_QUERY, 0x77)
    assert bank.read(0x40, 4) == 0
    command(bank, flash.ERASE)
    bank.reset()
    assert bank.read(AT, 4) == 0


def test_a_read_only_file_is_never_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write whatever the mode says
    bank = Flash(FlashFile(path, "flash0"))
    command(bank, flash.PROGRAM, 1)
    assert status(bank) == flash.READY | flash.PROGRAM_ERROR
    command(bank, flash.ERASE, flash.CONFIRM)
    assert status(bank) == flash.READY | flash.ERASE_ERROR
    assert bank.read(AT, 4) == 0
    bank.close()


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_is_an_error_to_the_guest(
    bank: Flash, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, short: bool
) -> None:
    def refuse(*_: object) -> int:
        if short:
            return 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    command(bank, flash.ERASE, flash.CONFIRM)
    assert status(bank) == flash.READY | flash.ERASE_ERROR
    assert bank.read(AT, 4) == 0
    assert "flash0" in caplog.text


def test_files_that_cannot_be_a_bank(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read flash1"):
        FlashFile(tmp_path / "none", "flash1")
    with FlashFileOpen(path), pytest.raises(HostError, match="in use"):
        FlashFile(path, "flash1")
    os.truncate(path, BANK - 1)
    with pytest.raises(ConfigError, match="33554431 bytes") as caught:
        FlashFile(path, "flash1")
    assert "truncate" in str(caught.value.hint)


class FlashFileOpen:
    """Holds a flash file open for a while."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = FlashFile(self._path, "flash0")

    def __exit__(self, *_: object) -> None:
        self._file.close()


_BLANK = Flash()


@settings(deadline=None)
@given(
    some.lists(
        some.tuples(
            some.integers(0, BANK // 8 - 1),
            some.sampled_from([1, 2, 4, 8]),
            some.one_of(
                some.sampled_from([0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF, 0x01]),
                some.integers(0, (1 << 64) - 1),
            ),
        )
    )
)
def test_nothing_a_guest_does_raises(accesses: list[tuple[int, int, int]]) -> None:
    _BLANK.reset()
    for place, size, value in accesses:
        _BLANK.write(place * 8, size, value & (1 << 8 * size) - 1)
        assert 0 <= _BLANK.read(place * 8, size) < 1 << 8 * size
    assert len(_BLANK.content) == BANK
