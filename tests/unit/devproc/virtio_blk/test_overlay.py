"""An overlay reads as a disk that was written to, whatever the sequence, and leaves the image alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.virtio_blk import overlay as overlay_module
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.overlay import BLOCK, Overlay
from protocol.errors import ConfigError, HostError

SIZE = 3 * BLOCK + 4096
SECTORS = SIZE // 512


def content() -> bytes:
    """Return what the image has: every sector says its number."""
    return b"".join(sector.to_bytes(4, "little") * 128 for sector in range(SECTORS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an image of three blocks and a bit."""
    path = tmp_path / "disk"
    path.write_bytes(content())
    return path


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "zero", "read"]), st.integers(0, SECTORS - 1), st.integers(1, 200)), max_size=12
)


@given(STEPS, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_reads_as_if_the_image_were_written(
    path: Path, steps: list[tuple[str, int, int]], can_punch: bool
) -> None:
    overlay = Overlay(Image(path, readonly=True))
    model = bytearray(content())
    if not can_punch:

        def refuse(*_arguments: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "no holes here")

        overlay_module.fallocate, kept = refuse, overlay_module.fallocate
    try:
        for number, (what, sector, sectors) in enumerate(steps):
            start, end = sector * 512, min(sector + sectors, SECTORS) * 512
            if what == "write":
                data = bytes([number + 1]) * (end - start)
                middle = len(data) // 3
                overlay.write([memoryview(data[:middle]), memoryview(data[middle:])], start)
                model[start:end] = data
            elif what == "zero":
                overlay.write_zeroes(start, end - start)
                model[start:end] = bytes(end - start)
            else:
                found = bytearray(end - start)
                overlay.read([memoryview(found)[:100], memoryview(found)[100:]], start)
                assert found == model[start:end]
        whole = bytearray(SIZE)
        overlay.read([memoryview(whole)], 0)
    finally:
        if not can_punch:
            overlay_module.fallocate = kept
        overlay.close()

    assert whole == model
    assert path.read_bytes() == content()


def test_several_readers_and_one_overlay_share_an_image(path: Path) -> None:
    first, second = Overlay(Image(path, readonly=True)), Overlay(Image(path, readonly=True))
    first.write([memoryview(b"a" * 512)], 0)
    found = bytearray(512)
    second.read([memoryview(found)], 0)

    assert found == content()[:512]
    assert (first.written, second.written, first.mortal == second.mortal) == (True, False, False)
    first.close()
    second.close()
    second.close()


def test_discard_of_whole_blocks_and_growth(path: Path) -> None:
    overlay = Overlay(Image(path, readonly=True))
    overlay.discard(512, 2 * BLOCK)
    overlay.resize(SIZE + BLOCK)
    overlay.write([memoryview(b"z" * 512)], SIZE + BLOCK - 512)
    overlay.flush()
    whole = bytearray(SIZE + BLOCK)
    overlay.read([memoryview(whole)], 0)

    assert whole[:BLOCK] == content()[:BLOCK]
    assert not any(whole[BLOCK : 2 * BLOCK])
    assert whole[2 * BLOCK : SIZE] == content()[2 * BLOCK :]
    assert whole[SIZE:] == bytes(BLOCK - 512) + b"z" * 512
    assert overlay.sectors == (SIZE + BLOCK) // 512
    assert not overlay.read_nowait([memoryview(bytearray(512))], SIZE, 512)
    with pytest.raises(ConfigError):
        overlay.resize(512)
    overlay.close()


def test_the_temporary_file_has_no_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    overlay = Overlay(Image(path, readonly=True))
    overlay.write([memoryview(b"a" * 512)], 0)

    assert os.listdir(folder) == []
    overlay.close()
    monkeypatch.setenv("TMPDIR", str(folder / "missing"))
    image = Image(path, readonly=True)
    with pytest.raises(HostError, match="no temporary file"):
        Overlay(image)
    image.close()
