"""virtio-blk on a host that has no space as long as a file ``IMAGE.full`` is there."""

from __future__ import annotations

import errno
import os
import sys

from devproc.host import main
from devproc.virtio_blk.__main__ import PROGRAM
from devproc.virtio_blk.backend import Image
from devproc.virtio_blk.backing import Views

_write = Image.write


def _write_if_there_is_space(self: Image, views: Views, offset: int, *, durable: bool = False) -> None:
    if self.path.with_suffix(".full").exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _write(self, views, offset, durable=durable)


if __name__ == "__main__":
    Image.write = _write_if_there_is_space  # type: ignore[method-assign]
    sys.exit(main(PROGRAM))
