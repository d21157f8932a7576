"""Rights on files, as Landlock has them (landlock(7)); a module of its own, for every device names some."""

from __future__ import annotations

from enum import IntFlag


class File(IntFlag):
    """Rights on files."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2: links and renames into another folder; before, they are always refused
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5


READ = File.READ_FILE | File.READ_DIR
WRITE = File.WRITE_FILE | File.READ_FILE | File.TRUNCATE
