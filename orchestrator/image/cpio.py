"""Writes cpio archives in the ``newc`` format, which the kernel unpacks as its initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Owner is root, inode numbers count
up and every time is the one given, so the same members give the same bytes. Device nodes are plain records here: that
is why an unprivileged user can write a ``/dev/console`` into an initramfs.
"""

from __future__ import annotations

import gzip
import io
import stat
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Member:
    """One file of an archive: ``mode`` has the type bits, ``data`` is a file's content or a link's target."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, permissions: int = 0o755) -> Member:
    """Return a directory member."""
    return Member(name, stat.S_IFDIR | permissions)


def file(name: str, data: bytes, permissions: int = 0o644) -> Member:
    """Return a regular file member."""
    return Member(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Member:
    """Return a symbolic link member."""
    return Member(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Member:
    """Return a device node member."""
    return Member(name, stat.S_IFCHR | permissions, device=(major, minor))


def write(stream: BinaryIO, members: list[Member], mtime: int = 0) -> None:
    """Write an archive of ``members``, in that order, a directory before what is in it."""
    for inode, member in enumerate(members, start=1):
        _write_member(stream, inode, member, mtime)
    _write_member(stream, 0, Member(TRAILER, 0), 0)


def compressed(members: list[Member], mtime: int = 0, level: int = 6) -> bytes:
    """Return the gzipped archive; its header has neither time nor name."""
    plain = io.BytesIO()
    write(plain, members, mtime)
    return gzip.compress(plain.getvalue(), level, mtime=0)


def _write_member(stream: BinaryIO, inode: int, member: Member, mtime: int) -> None:
    name = member.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    fields = (
        inode, member.mode, 0, 0, links, mtime, len(member.data),
        0, 0, *member.device, len(name), 0,
    )  # fmt: skip
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    stream.write(_padded(header + name))
    stream.write(_padded(member.data))


def _padded(data: bytes) -> bytes:
    """Return ``data`` with zeros up to a multiple of four."""
    return data + bytes(-len(data) % 4)
