"""Raw images: sizes, locks, short transfers, the pool."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from devproc.virtio_blk import backend
from devproc.virtio_blk.backend import PUNCH_HOLE, ZERO_RANGE, Image, fallocate
from devproc.virtio_blk.pool import Job, Pool
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


def test_write_and_zeroes_and_discard(path: Path) -> None:
    image = Image(path)
    image.write([memoryview(b"a" * 512)], 0, durable=True)
    image.write_zeroes(512, 512)
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


def test_direct_transfer_at_any_place_and_of_any_length(path: Path) -> None:
    content = bytearray(bytes(range(256)) * 8192)  # 2 MiB: more than one piece
    path.write_bytes(content)
    try:
        image = Image(path, direct=True)
    except HostError:
        pytest.skip("no direct I/O here")
    data = memoryview(bytearray(3 * 512 + 1))[1:]
    image.read([data], 512)
    assert data == content[512 : 4 * 512]
    image.write([memoryview(b"z" * 1024)], 512 * 3)
    large = memoryview(bytearray((1 << 20) + 4096 + 8))[8:]
    large[:] = bytes([7]) * len(large)
    image.write([large[:1000], large[1000:]], 8192)
    content[512 * 3 : 512 * 5] = b"z" * 1024
    content[8192 : 8192 + len(large)] = large
    found = memoryview(bytearray(len(content) + 8))[8:]
    image.read([found], 0)

    assert found == content
    assert path.read_bytes() == content
    image.close()


def test_a_file_system_without_direct_io_is_an_error_with_a_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(name: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostError) as refused:
        Image(path, direct=True)
    assert refused.value.hint == 'its file system has no direct I/O; cache = "writeback" needs none'


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("missing", [(), (PUNCH_HOLE,), (ZERO_RANGE,), (PUNCH_HOLE, ZERO_RANGE)])
def test_zeroes_by_what_the_file_system_can(
    path: Path, monkeypatch: pytest.MonkeyPatch, unmap: bool, missing: tuple[int, ...]
) -> None:
    path.write_bytes(b"x" * (3 << 20))
    image = Image(path)
    tried: list[int] = []

    def allocate(fd: int, mode: int, offset: int, length: int) -> None:
        tried.append(mode)
        if mode in missing:
            raise OSError(errno.EOPNOTSUPP, "not here")
        fallocate(fd, mode, offset, length)

    monkeypatch.setattr(backend, "fallocate", allocate)
    image.write_zeroes(512, (2 << 20) + 512, unmap=unmap)
    image.discard(0, 4096)

    assert path.read_bytes()[4096:] == bytes((2 << 20) + 1024 - 4096) + b"x" * ((1 << 20) - 1024)
    assert len(path.read_bytes()) == 3 << 20
    assert tried[0] == (PUNCH_HOLE if unmap else ZERO_RANGE)
    image.close()


def test_discard_and_unmap_give_space_back_and_zeros_keep_it(path: Path) -> None:
    path.write_bytes(b"x" * (1 << 20))
    image = Image(path)
    before = path.stat().st_blocks
    image.write_zeroes(0, 256 << 10)
    kept = path.stat().st_blocks
    image.write_zeroes(0, 256 << 10, unmap=True)
    unmapped = path.stat().st_blocks
    image.discard(256 << 10, 256 << 10)

    assert kept >= before > unmapped > path.stat().st_blocks
    image.close()


def test_resize(path: Path) -> None:
    image = Image(path, block=1024)
    image.resize(8192)
    assert (image.sectors, path.stat().st_size) == (16, 8192)
    for size, message in ((4096, "cut it off"), (8704, "multiple of 1024")):
        with pytest.raises(ConfigError, match=message):
            image.resize(size)
    os.truncate(path, 4096)
    image.resize(0)
    assert image.sectors == 8
    image.close()
    reader = Image(path, readonly=True)
    with pytest.raises(ConfigError, match="read-only"):
        reader.resize(8192)
    os.truncate(path, 6144)
    reader.resize(0)
    assert reader.sectors == 12
    reader.close()


def test_a_block_is_padded_for_reading(path: Path) -> None:
    path.write_bytes(b"x" * 4608)
    image = Image(path, readonly=True, block=4096)
    data = bytearray(8192)
    image.read([memoryview(data)], 0)
    assert image.sectors == 16
    assert data == b"x" * 4608 + bytes(8192 - 4608)
    image.close()
