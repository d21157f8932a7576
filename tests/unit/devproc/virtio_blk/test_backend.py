"""Raw images: sizes, locks, short transfers, the pool."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from devproc.virtio_blk.backend import Image, Job, Pool
from protocol.errors import ConfigError, HostError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an image of four sectors."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(range(256)) * 8)
    return image


def test_read_and_write_several_views(path: Path) -> None:
    image = Image(path)
    first, second = bytearray(100), bytearray(412)

    image.write([memoryview(b"a" * 512), memoryview(b"b" * 512)], 512)
    image.read([memoryview(first), memoryview(second)], 1024)
    image.flush()

    assert bytes(first + second) == b"b" * 512
    assert image.sectors == 4
    image.close()
    image.close()


def test_durable_write_and_zeroes_and_discard(path: Path) -> None:
    image = Image(path)
    image.write([memoryview(b"a" * 512)], 0, durable=True)
    image.write_zeroes(512, 512, durable=True)
    image.discard(1024, 512)
    assert path.read_bytes()[:1024] == b"a" * 512 + bytes(512)
    assert len(path.read_bytes()) == 2048
    image.close()


def test_writer_excludes_readers_and_readers_share(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devproc.virtio_blk.backend._LOCK_PATIENCE_S", 0.05)
    first, second = Image(path, readonly=True), Image(path, readonly=True)
    with pytest.raises(HostError, match=f"locked by process {os.getpid()}"):
        Image(path)
    first.close()
    second.close()
    writer = Image(path)
    with pytest.raises(HostError, match="locked"):
        Image(path, readonly=True)
    writer.close()


def test_odd_size_is_refused_for_writing_and_padded_for_reading(path: Path) -> None:
    path.write_bytes(b"x" * 700)
    with pytest.raises(ConfigError, match="multiple of 512"):
        Image(path)
    image = Image(path, readonly=True)
    data = bytearray(1024)
    image.read([memoryview(data)], 0)
    assert image.sectors == 2
    assert bytes(data) == b"x" * 700 + bytes(324)
    image.close()


def test_image_that_shrank_is_an_error_of_the_host(path: Path) -> None:
    image = Image(path)
    os.truncate(path, 512)
    with pytest.raises(OSError) as error:
        image.read([memoryview(bytearray(1024))], 0)
    assert error.value.errno == errno.EIO
    image.close()


@pytest.mark.parametrize(("name", "error"), [("missing", HostError), ("", ConfigError)])
def test_no_image(tmp_path: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Image(tmp_path / name, readonly=True)


def test_direct_transfer_from_any_address(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)
    try:
        image = Image(path, direct=True)
    except HostError:
        pytest.skip("no direct I/O here")
    data = memoryview(bytearray(4097))[1:]
    image.read([data], 4096)
    assert bytes(data) == bytes(range(256)) * 16
    image.write([memoryview(b"z" * 512), memoryview(b"y" * 3584)], 0)
    assert path.read_bytes()[:4096] == b"z" * 512 + b"y" * 3584
    image.close()


def test_read_at_once_or_not_at_all(path: Path) -> None:
    image = Image(path)
    data = bytearray(512)
    if image.read_nowait([memoryview(data)], 0, 512):
        assert bytes(data) == bytes(range(256)) * 2
    assert not image.read_nowait([memoryview(data)], 1 << 20, 512)
    image.close()


def test_pool_does_jobs_and_reports_errors(path: Path) -> None:
    image = Image(path)
    pool = Pool(image, 2)

    def fail(_image: Image) -> None:
        raise OSError(errno.ENOSPC, "full")

    for token in range(20):
        pool.submit(Job(fail if token == 7 else Image.flush, token))
    done: list[Job] = []
    while pool.busy:
        select.select([pool.event], [], [], 5)
        done += pool.finished()

    assert sorted(str(job.token) for job in done) == sorted(str(token) for token in range(20))
    assert [job.error.errno for job in done if job.error] == [errno.ENOSPC]
    assert pool.finished() == []
    pool.close()
    image.close()
