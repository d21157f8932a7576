"""Contents of memory in a file: what is not zero comes back, and what is damaged is said."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import chunks
from protocol.errors import Malformed

SIZE = 5 << 20


def packed(parts: dict[int, bytes], size: int = SIZE) -> tuple[bytes, int]:
    """Return the file of memory with these parts, and how much was kept."""
    memory = bytearray(size)
    for at, data in parts.items():
        memory[at : at + len(data)] = data
    file = io.BytesIO()
    kept = chunks.write(file, size, iter([(0, size)]), lambda at, length: memoryview(memory)[at : at + length])
    return file.getvalue(), kept


def unpacked(data: bytes, size: int = SIZE) -> bytes:
    """Return the memory."""
    memory = bytearray(size)

    def put(at: int, piece: bytes) -> None:
        memory[at : at + len(piece)] = piece

    chunks.read(io.BytesIO(data), size, put)
    return bytes(memory)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, SIZE - 70_000), st.binary(min_size=1, max_size=70_000), max_size=6))
def test_what_was_written_comes_back(parts: dict[int, bytes]) -> None:
    memory = bytearray(SIZE)
    for at, data in parts.items():
        memory[at : at + len(data)] = data
    assert unpacked(packed(parts)[0]) == bytes(memory)


def test_zeros_cost_nothing_and_long_runs_are_cut() -> None:
    data, kept = packed({})
    assert (len(data), kept) == (24 + 16, 0)
    noise = os.urandom(3 << 20)
    data, kept = packed({1 << 20: noise})
    assert kept == len(noise)
    assert unpacked(data)[1 << 20 : 4 << 20] == noise


def test_holes_of_a_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"x", 40 << 20)
    with path.open("rb") as file:
        parts = list(chunks.data_in(file.fileno(), 64 << 20))
    assert sum(end - start for start, end in parts) <= 1 << 20
    assert any(start <= 40 << 20 < end for start, end in parts)
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert list(chunks.data_in(file.fileno(), 0)) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"", "cut off"),
        (lambda data: data[:30], "cut off"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: b"X" + data[1:], "no contents of memory"),
        (lambda data: data[:8] + b"\2" + data[9:], "no contents of memory"),
        (lambda data: data[:16] + b"\1" + data[17:], "holds"),
        (lambda data: data[:28] + b"\xff" + data[29:], "outside"),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "damaged"),
        (lambda data: data[:32] + (77).to_bytes(4, "little") + data[36:], "damaged|cut off"),
    ],
)
def test_what_is_damaged_is_said(spoil: object, says: str) -> None:
    data, _ = packed({100: os.urandom(1000)})
    with pytest.raises(Malformed, match=says):
        unpacked(spoil(data))  # type: ignore[operator]


def test_a_full_disk_is_the_callers() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        chunks.write(Full(), SIZE, iter([(0, SIZE)]), lambda _at, length: b"\1" * length)
