"""Makes an ext4 image of a `Tree`, with root as the owner, by a user who is not root.

``mke2fs -d`` copies the staged content; owners and modes are then set in the finished image with ``debugfs``, inode
by inode. The other ways were left because they are not everywhere: fakeroot is one more package, an unprivileged user
namespace is forbidden on many hosts (containers, Ubuntu since 23.10), and a tar archive needs e2fsprogs 1.47.1 while
Debian 12 has 1.47.0. Both programs used here are of the package e2fsprogs, and root and user get the same image.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from orchestrator.image import programs
from orchestrator.image.tree import Tree
from protocol.errors import ConfigError, HostError
from protocol.sizes import parse_size

BLOCK = 4096
INODE = 256
SPARE_INODES = 8192  # for what the guest will write
JOURNAL = 16 << 20  # at least; mke2fs makes it larger on large images
MIN_SIZE = 16 << 20


def image_size(text: str) -> int:
    """Return the bytes that ``--size`` says, in whole blocks.

    Raises ConfigError.
    """
    try:
        size = parse_size(text)
    except ConfigError as error:
        raise ConfigError(f"--size {error.message}", hint=error.hint) from None
    if size < MIN_SIZE:
        raise ConfigError(f"--size {text!r} is too small for a file system", hint="the default is 1G")
    return size // BLOCK * BLOCK


def needed_size(tree: Tree) -> int:
    """Return the bytes an image of ``tree`` takes, with a little room to boot, rounded up to 16 MiB."""
    content = 0
    seen: set[int] = set()
    for entry in tree.entries.values():
        if id(entry) in seen:  # a hard link
            continue
        seen.add(id(entry))
        content += BLOCK if entry.is_directory else -(-entry.size // BLOCK) * BLOCK
    inodes = (len(seen) + SPARE_INODES) * INODE
    total = int((content + inodes + JOURNAL) * 1.06) + (8 << 20)
    step = 16 << 20
    return -(-total // step) * step


def make(tree: Tree, image: Path, size: int, label: str) -> None:
    """Write ``tree`` to the file ``image``, of ``size`` bytes, sparse.

    Raises ConfigError if it does not fit, HostError if the host's disk is full or a program fails.
    """
    needed = needed_size(tree)
    if size < needed:
        raise ConfigError(
            f"--size is too small: the packages need at least {needed >> 20}M", hint=f"--size {needed >> 20}M or more"
        )
    tree.finish()
    inodes = max(len(tree.entries) + SPARE_INODES, size // (16 << 10))
    result = programs.run([
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", str(INODE), "-N", str(inodes), "-m", "1",
        "-L", label, "-d", tree.staging, image, str(size // BLOCK),
    ])  # fmt: skip
    if result.returncode != 0:
        raise _failure("mke2fs", result.stderr)
    _set_owners(tree, image)


def _set_owners(tree: Tree, image: Path) -> None:
    """Give every inode the owner and mode it has in ``tree``, where the staged file's differ."""
    commands = []
    for place, entry in tree.entries.items():
        staged = os.lstat(tree.staging / place)
        name = _quoted("/" + place)
        if entry.mode != staged.st_mode and not stat.S_ISLNK(entry.mode):
            commands.append(f"sif {name} mode 0{entry.mode:o}")
        commands.extend(
            f"sif {name} {field} {value}"
            for field, value, present in (("uid", entry.uid, staged.st_uid), ("gid", entry.gid, staged.st_gid))
            if value != present
        )
    if not commands:
        return
    result = programs.run(["debugfs", "-w", "-f", "-", image], stdin="\n".join(commands) + "\n")
    complaints = [line for line in result.stderr.splitlines() if line and not line.startswith("debugfs ")]
    if result.returncode != 0 or complaints:
        raise _failure("debugfs", "\n".join(complaints))


def _quoted(path: str) -> str:
    if '"' in path or "\n" in path:
        raise HostError(f"debugfs cannot take the file name {path!r}")
    return f'"{path}"' if " " in path else path


def _failure(program: str, messages: str) -> HostError:
    text = messages.strip().splitlines()
    last = text[-1] if text else "no message"
    if os.strerror(errno.ENOSPC) in messages:
        return HostError("no space left on the disk of the output folder", hint="free some, or use another folder")
    return HostError(f"{program}: {last}", hint="this is a fault of the build, please report it with this line")
