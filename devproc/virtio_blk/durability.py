"""What has been promised about the medium, and a broken promise that stays known.

Linux reports a write that failed behind the page cache to one ``fsync`` and then forgets it: the next one succeeds
although the data is lost. So the first flush that fails makes all later ones fail, until the guest resets the device
and no longer counts on what it wrote. Flushes take turns, so that none succeeds beside one that fails.
"""

from __future__ import annotations

import errno
import threading

from devproc.virtio_blk.backing import Backing


class Durability:
    """The flushes of one disk; ``flush`` is called from the pool's threads, the rest between them."""

    def __init__(self) -> None:
        self.failure = 0
        """The errno of the first flush that failed, or 0."""
        self._turn = threading.Lock()

    def flush(self, image: Backing) -> None:
        """Return when everything written is on the medium.

        Raises:
            OSError: it is not, or a flush before this one failed.
        """
        with self._turn:
            if self.failure:
                raise OSError(self.failure, "a flush has failed before, what was written is lost")
            try:
                image.flush()
            except OSError as error:
                self.failure = error.errno or errno.EIO
                raise
