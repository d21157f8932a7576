"""Many peers at one server: ``python -m tests.unit.devproc.ivshmem.crowd --peers 256 --vectors 64``.

The peers are sockets of one process that reads what it is told, counts it, and keeps no descriptor.
"""

from __future__ import annotations

import argparse
import select
import sys
import tempfile
import time
from pathlib import Path

from protocol.errors import PeerGone
from tests.unit.devproc.ivshmem.rig import Process, Raw


class Crowd:
    """Peers that have joined one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[int, int] = {}
        self.refused = 0
        self.leaves = 0
        self._peers: dict[int, Raw] = {}
        self._poll = select.poll()

    def join(self) -> None:
        """Have one more join, and read what has come meanwhile."""
        peer = Raw(self.path)
        self._peers[peer.socket.fileno()] = peer
        self.told[peer.socket.fileno()] = 0
        self._poll.register(peer.socket, select.POLLIN)
        self.read(0)

    def read(self, wait_s: float) -> bool:
        """Read what there is; return whether there was something."""
        ready = self._poll.poll(wait_s * 1000)
        for fd, _ in ready:
            try:
                while (message := self._peers[fd].receiver.receive()) is not None:
                    self.told[fd] += message.fd is not None
                    self.leaves += message.fd is None and self.told[fd] > 1
                    self.refused += message.value == -3
                    message.drop()
            except PeerGone:
                self.leave(fd)
        return bool(ready)

    def leave(self, fd: int) -> None:
        """Have one leave."""
        self._poll.unregister(fd)
        self._peers.pop(fd).close()
        del self.told[fd]

    def close(self) -> None:
        """Have all leave."""
        for fd in list(self._peers):
            self.leave(fd)


def main(argv: list[str]) -> int:
    """Measure how long it takes until everybody knows everybody."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.devproc.ivshmem.crowd")
    parser.add_argument("--peers", type=int, default=256)
    parser.add_argument("--vectors", type=int, default=64)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        server = Process(Path(folder), "--vectors", str(options.vectors))
        crowd = Crowd(server.path)
        started = time.monotonic()
        for _ in range(options.peers):
            crowd.join()
        while crowd.read(2):
            pass
        took = time.monotonic() - started - 2
        whole = 1 + options.vectors * len(crowd.told)
        complete = sum(told == whole for told in crowd.told.values())
        fds = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        print(f"{complete} of {options.peers} peers know all others, {crowd.refused} refused, {took:.1f} s,")
        print(f"{sum(crowd.told.values())} descriptors told, {fds} at the server")
        crowd.close()
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
