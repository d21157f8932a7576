"""The cpio writer, read back by a reader of the newc format and by the host's cpio."""

import gzip
import io
import shutil
import stat
import subprocess

import pytest

from orchestrator.image import cpio


def members() -> list[cpio.Member]:
    return [
        cpio.directory("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", b"#!/bin/sh\n", 0o755),
        cpio.symlink("sh", "init"),
        cpio.file("empty", b""),
    ]


def read(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    found = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + fields[11]
        name = data[at + 110 : name_end - 1].decode()
        start = (name_end + 3) & ~3
        content = data[start : start + fields[6]]
        at = (start + fields[6] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (fields, content)


def test_archive_read_back_has_types_owners_and_contents() -> None:
    stream = io.BytesIO()
    cpio.write(stream, members(), mtime=77)
    found = read(stream.getvalue())

    assert list(found) == ["dev", "dev/console", "init", "sh", "empty"]
    assert stat.S_ISDIR(found["dev"][0][1])
    assert found["dev/console"][0][1] == stat.S_IFCHR | 0o600
    assert found["dev/console"][0][9:11] == [5, 1]
    assert found["init"][0][1] == stat.S_IFREG | 0o755
    assert found["init"][1] == b"#!/bin/sh\n"
    assert found["sh"][1] == b"init"
    assert all(fields[2:4] == [0, 0] and fields[5] == 77 for fields, _ in found.values())


def test_inode_numbers_differ() -> None:
    stream = io.BytesIO()
    cpio.write(stream, members())

    numbers = [fields[0] for fields, _ in read(stream.getvalue()).values()]
    assert len(set(numbers)) == len(numbers)


def test_same_members_give_same_bytes() -> None:
    assert cpio.compressed(members(), mtime=5) == cpio.compressed(members(), mtime=5)


def test_compressed_has_no_time_in_its_header() -> None:
    data = cpio.compressed(members(), mtime=5)
    assert data[4:8] == bytes(4)
    assert gzip.decompress(data).startswith(b"070701")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this host")
def test_host_cpio_lists_the_archive() -> None:
    stream = io.BytesIO()
    cpio.write(stream, members())

    listed = subprocess.run(["cpio", "-t"], input=stream.getvalue(), capture_output=True, check=True).stdout
    assert listed.decode().split() == ["dev", "dev/console", "init", "sh", "empty"]
