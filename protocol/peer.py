"""Who is at the other end of a UNIX socket, as the kernel knows it from the moment of ``connect`` (SO_PEERCRED)."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

_CREDENTIALS = struct.Struct("3i")  # struct ucred; who is of another user namespace has the overflow uid there


class Credentials(NamedTuple):
    """Process, user and group; process 0 is one that this host does not show here."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Return who has connected."""
    return Credentials(*_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def is_admitted(sock: socket.socket) -> bool:
    """Tell whether it is this user, or root, whom nothing keeps out; and whoever comes by a network, which says no."""
    return sock.family != socket.AF_UNIX or credentials(sock).uid in (os.getuid(), 0)
