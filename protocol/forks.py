"""What is said to a fork server (``devproc.fork_server``), over a UNIX socket of packets that only its starter has.

``Start`` comes with descriptors: a *line*, the output, and those of ``fds``. On its line the new process says its pid
and waits: a byte lets it begin, the end of the line ends it, and nobody else knows of it until then. A server that has
loaded what has changed since says ``OUTDATED`` in place of that, and ends when the last whom it has started is reaped;
the line just ends if there can be no such process. ``Reap`` is answered on the server's own socket. The server ends
with that socket; who it has started goes on.
"""

from __future__ import annotations

import socket

import msgspec

READY = b"ready"
"""The server's first packet: all is loaded."""
GO = b"\n"
OUTDATED = b"outdated"
_FDS_MAX, _PACKET_MAX = 16, 1 << 20


class Start(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Start ``python [-P] -m MODULE …``, with these descriptors at these numbers."""

    argv: list[bytes]
    cwd: bytes
    """"" for the server's."""
    env: dict[bytes, bytes]
    fds: list[int]


class Reap(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Take the status of a process that has ended; answered by ``Ended``."""

    pid: int


class Ended(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Its status as ``subprocess`` has it: negative for a signal; ``None`` if it is none of the server's."""

    status: int | None


Order = Start | Reap | Ended
_DECODER: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def send(line: socket.socket, order: Order, fds: tuple[int, ...] = ()) -> None:
    """Send one packet.

    Raises:
        OSError: nobody is there, or it is too long.
    """
    socket.send_fds(line, [msgspec.msgpack.encode(order)], list(fds))


def receive(line: socket.socket) -> tuple[Order | None, list[int]]:
    """Wait for one packet, and return it with its descriptors, which are the caller's; ``None`` at the end.

    Raises:
        OSError: the socket is broken, or its time is over.
    """
    data, fds, _flags, _address = socket.recv_fds(line, _PACKET_MAX, _FDS_MAX)
    return (_DECODER.decode(data) if data else None), fds
