"""A server on the host that guests transfer from and to; ``python -m tests.guest.server`` in a namespace of its own."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

SIZE = 16 << 20


def content(size: int = SIZE) -> bytes:
    """Return what it sends."""
    return hashlib.shake_128(b"down").digest(size)


@contextmanager
def serving(data: bytes, address: str = "127.0.0.1") -> Iterator[tuple[int, Queue[bytes]]]:
    """Run a server that sends ``data`` to who says "give", and hears what others say until they hang up."""
    heard: Queue[bytes] = Queue()
    with socket.create_server((address, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    parts = [peer.recv(5)]
                    if parts == [b"give\n"]:
                        peer.sendall(data)
                        continue
                    while part := peer.recv(1 << 20):
                        parts.append(part)
                    heard.put(b"".join(parts))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def main() -> None:
    """Serve at an address: print the port, then the digest of what each client says."""
    with serving(content(), sys.argv[1]) as (port, heard):
        print(port, flush=True)
        while True:
            print(hashlib.sha256(heard.get()).hexdigest(), flush=True)


if __name__ == "__main__":
    main()
