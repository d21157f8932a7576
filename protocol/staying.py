"""Staying on a bus whose daemon dies: it is started again at its address, and everybody comes back by the same names.

A daemon that was killed leaves its socket, one that was ended takes it along: whoever waits for the first has patience
as long as the VM's folder is there, and for the second only as long as a restart takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from protocol.bus import Bus
from protocol.errors import BusvmError

logger = logging.getLogger(__name__)

WAIT_VARIABLE = "BUSVM_BUS_WAIT"
"""Seconds to wait for a bus that is not there yet: what is said to processes that start in any order."""

ENDED_S = 5.0  # without a socket, or at an address that is none of a file system, a bus has ended for good
_FIRST_S, _LONGEST_S = 0.01, 0.5  # between two attempts
_LOOK_S, _REMIND_S = 0.05, 10.0


def socket_of(address: str) -> Path | None:
    """Return the socket of a bus address, if it says one in the file system."""
    kind, _, rest = address.partition(":")
    if kind != "unix":
        return None
    options = dict(part.partition("=")[::2] for part in rest.split(";")[0].split(","))
    return Path(options["path"]) if options.get("path") else None


def await_bus(address: str) -> None:
    """Return when somebody listens at ``address``, or nobody has for as long as ``BUSVM_BUS_WAIT`` says; 0 unless set.

    Called before a process opens anything: who starts the bus first takes away what an earlier machine has left.
    Whether the bus is there says ``Bus.connect``, with what is to be done about it.
    """
    path = socket_of(address)
    patience = time.monotonic() + float(os.environ.get(WAIT_VARIABLE) or 0)
    told = 0.0
    while path is not None and time.monotonic() < patience and not _listens(path):
        if time.monotonic() >= told:
            logger.info("waiting for the bus at %s", path)
            told = time.monotonic() + _REMIND_S
        time.sleep(_LOOK_S)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def _nothing() -> None:
    """Do nothing."""


async def stay(
    bus: Bus, *, left: Callable[[], None] = lambda: None, back: Callable[[], Awaitable[None]] = _nothing
) -> None:
    """Call ``left`` whenever the bus goes away, and ``back`` when it is there again; return when it does not come."""
    while True:
        await bus.wait_closed()
        logger.warning("the bus is gone; waiting for it")
        left()
        if not await _again(bus):
            return
        logger.info("on the bus again")
        try:
            await back()
        except (BusvmError, TimeoutError) as error:  # gone once more, and waited for once more
            logger.warning("back on the bus: %s", error)


async def _again(bus: Bus) -> bool:
    """Connect again; return False when there is nothing left to wait for."""
    path = socket_of(bus.address)
    pause, absent_since = _FIRST_S, time.monotonic()
    while True:
        try:
            await bus.reconnect()
        except (BusvmError, TimeoutError) as error:
            logger.debug("%s", error)
        else:
            return True
        now = time.monotonic()
        if path is not None and path.exists():
            absent_since = now
        if now - absent_since > ENDED_S or (path is not None and not path.parent.exists()):
            return False
        await asyncio.sleep(pause)
        pause = min(_LONGEST_S, pause * 1.5)
