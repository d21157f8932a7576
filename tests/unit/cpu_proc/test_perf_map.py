"""The map that perf reads: which blocks there are, and that the file is ours whatever was there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import perf_map
from cpu_proc.hart import INTERPRETER, TRANSLATOR
from protocol.errors import HostError
from tests.unit.cpu_proc.harness import RAM, Bench, addi, csrrs, jal


@pytest.fixture
def fast() -> Iterator[Bench]:
    """Return a hart that has translated two blocks, on two pages, and met an instruction that it does not translate."""
    bench = Bench(engine_name=TRANSLATOR)
    bench.words(RAM + 0x234, addi(5, 5, 1), addi(6, 6, 1), jal(0, 0x2000))
    bench.words(RAM + 0x100, csrrs(8, "mhartid"), jal(0, 0x130))
    bench.words(RAM + 0x223C, addi(7, 7, 1), jal(0, -0x2000 - 12))
    bench["PC"] = RAM + 0x100
    bench.step(5000)
    yield bench
    bench.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the map elsewhere."""
    monkeypatch.setattr(perf_map, "FOLDER", tmp_path)
    return tmp_path


def test_blocks_have_their_guest_address_and_do_not_overlap(fast: Bench) -> None:
    found = perf_map.blocks(fast.hart)
    assert {RAM + 0x234, RAM + 0x223C} <= {address for _, _, address in found}
    assert RAM + 0x100 not in {address for _, _, address in found}
    start, end = (fast.hart[slot] + fast.hart["CODE_SHIFT"] for slot in ("CODE_START", "EMIT"))
    assert start <= found[0][0]
    for (entry, size, _), (following, _, _) in itertools.pairwise(found):
        assert entry + size == following
    assert found[-1][0] + found[-1][1] == end
    assert all(size > 0 for _, size, _ in found)


def test_the_file_has_a_line_per_block(fast: Bench, folder: Path) -> None:
    path, count = perf_map.write([fast.hart])
    assert path == folder / f"perf-{os.getpid()}.map"
    lines = path.read_text().splitlines()
    assert len(lines) == count > 1
    entry, size, name = next(line for line in lines if "223c" in line).split()
    assert (int(entry, 16), int(size, 16), name) in [
        (entry, size, f"guest:{address:#x}") for entry, size, address in perf_map.blocks(fast.hart)
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in folder.iterdir()] == [path.name]


def test_a_link_in_its_place_is_replaced_and_not_followed(fast: Bench, folder: Path) -> None:
    (folder / "precious").write_text("precious")
    (folder / f"perf-{os.getpid()}.map").symlink_to(folder / "precious")
    path, _ = perf_map.write([fast.hart])
    assert (folder / "precious").read_text() == "precious"
    assert not path.is_symlink()
    perf_map.write([fast.hart])  # again, over our own


def test_what_cannot_be_replaced_is_named(fast: Bench, folder: Path) -> None:
    (folder / f"perf-{os.getpid()}.map").mkdir()
    with pytest.raises(HostError, match=r"cannot write .*\.map: "):
        perf_map.write([fast.hart])
    assert len(list(folder.iterdir())) == 1


def test_the_interpreter_has_nothing_to_name(folder: Path) -> None:
    bench = Bench(engine_name=INTERPRETER)
    assert perf_map.blocks(bench.hart) == []
    with pytest.raises(HostError, match="the interpreter executes"):
        perf_map.write([bench.hart])
    bench.close()
