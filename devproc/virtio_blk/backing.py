"""What the block device wants of the host: the seam between virtio and files.

Methods are called from several threads and raise ``OSError``; offsets and lengths are in bytes, within ``sectors``,
and checked already. What ``write`` has taken may be lost in a power failure until ``flush`` has returned, unless it
was told to be ``durable``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Views = Sequence[memoryview]

CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.ENOTTY)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Shorter(OSError):
    """The image ends before its last sector: somebody has cut it off."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the image has become shorter")


class Backing(Protocol):
    """Where a disk's content is."""

    path: Path
    readonly: bool
    mortal: int
    """Identity of content that ends with this process, or 0: what is written stays."""

    @property
    def written(self) -> bool:
        """Whether mortal content differs from what a successor would find."""

    @property
    def sectors(self) -> int:
        """Capacity in sectors."""

    def read_nowait(self, views: Views, offset: int, length: int) -> bool:
        """Read if that needs no waiting; return whether it was done."""

    def read(self, views: Views, offset: int) -> None:
        """Fill ``views``."""

    def write(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write ``views``."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make the range read as zeros; with ``unmap`` its space may go back to the host."""

    def discard(self, offset: int, length: int) -> None:
        """Give the range's space back to the host where it can; what it reads as then is undefined."""

    def flush(self) -> None:
        """Return when everything written is on the medium."""

    def resize(self, size: int) -> None:
        """Make the disk ``size`` bytes long; with 0, look how long it is now.

        Raises:
            ConfigError: it would get shorter, or the host decides its size.
        """

    def close(self) -> None:
        """Give up what is open; harmless when done twice."""
