"""``relay.py HOST PORT``: standard input, which is a socket, against a TCP connection; a program for libslirp.

libslirp leads a connection of the guest to a command, but to no TCP address of its own. The command is this file, run
without the package and without ``site``, 10 ms per connection. It ends with either side; keep-alive probes tell it of
one that has gone without a word.
"""

import socket
import sys
import threading

_CHUNK = 1 << 16
_PROBE_S = 10


def watched(sock: socket.socket) -> socket.socket:
    """Have the kernel find out whether the other end is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setblocking(True)
    return sock


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes to the end, then tell the other side that there are no more."""
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main() -> int:
    """Connect, and carry both ways."""
    guest = watched(socket.socket(fileno=sys.stdin.fileno()))
    try:
        host = watched(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30))
    except OSError:
        return 1
    back = threading.Thread(target=pump, args=(host, guest), daemon=True)
    back.start()
    pump(guest, host)
    back.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
