"""Standing by: a process with everything loaded that waits until the device it could be has died."""

from __future__ import annotations

import os
from contextlib import suppress

import zmq

from devproc.bus_thread import Ahead
from protocol import interfaces

_SHOWN = ("Device1", "Registers1", "Trace1", "Queues1")


def stand_by(fd: int, address: str) -> Ahead | None:
    """Wait for a byte, and return a connection to the bus, without a name.

    Returns ``None`` when the socket was closed instead: nobody needs this process any more.
    """
    ahead = Ahead(address)
    ahead.connect()
    for name in _SHOWN:  # what is made at the first use, and would be made while a guest waits
        interfaces.load(f"org.busvm.{name}")
    for name in ("Properties", "Introspectable", "ObjectManager"):
        interfaces.load(f"org.freedesktop.DBus.{name}")
    zmq.Context.instance()
    try:
        with suppress(OSError):
            os.write(fd, b"\n")  # for whoever wants to know
        if os.read(fd, 1):
            return ahead
        ahead.close()
        return None
    finally:
        os.close(fd)
