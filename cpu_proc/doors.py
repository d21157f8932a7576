"""The sockets at which people reach the machine, the console and gdb's: who may come in.

Not other users, and not the VM's own devices: what a guest can do to a device is not to become what a debugger can do.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import cast

from protocol.access import Parts
from protocol.peer import credentials, is_admitted

logger = logging.getLogger(__name__)


class Door:
    """Admits clients of one socket, ``name``."""

    def __init__(self, name: str, parts: Parts) -> None:
        self._name = name
        self._parts = parts

    def __call__(self, writer: asyncio.StreamWriter) -> bool:
        """Tell whether a client may come in; who may not is turned away."""
        sock = cast(socket.socket, writer.get_extra_info("socket"))
        who = "another user" if not is_admitted(sock) else self._parts.of_process(credentials(sock).pid)
        if who:
            logger.warning("%s was turned away at the %s", who, self._name)
            writer.close()
        return not who
