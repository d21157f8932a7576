"""The block device served to front-ends in the same process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from devproc.listening import Socket
from devproc.vhost_server import Server
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice, open_device
from protocol.vhost_user.front_end import FrontEnd

SECTORS = 2048


class Rig:
    """A server in a thread, and connections to it."""

    def __init__(self, folder: Path, **config: object) -> None:
        image = folder / "disk"
        image.write_bytes(b"".join(n.to_bytes(4, "little") * 128 for n in range(SECTORS)))
        self.image = image
        self.path = folder / "socket"
        options: dict[str, object] = {"queues": 2, "queue_size": 128} | config
        self.device: BlockDevice = open_device(
            Config(image=image, serial="V1", **options),  # type: ignore[arg-type]
            "vhost-user",
        )
        self.server = Server(self.device, Socket.at(self.path))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def connect(self) -> FrontEnd:
        """Return a connection to it."""
        return FrontEnd.connect(self.path)

    def close(self) -> None:
        """End the server, which must end in order."""
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.server.close()
        self.device.close()
        assert not self.path.exists()


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
