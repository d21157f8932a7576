"""Constants and structures of virtio-console, by the names of virtio 1.2 §5.3."""

from __future__ import annotations

import struct
from enum import IntEnum

from devproc.state import Record, Word

RECEIVEQ, TRANSMITQ = 0, 1  # of port 0; those of port n > 0 are queues 2n + 2 and 2n + 3
CONTROL_RECEIVEQ, CONTROL_TRANSMITQ = 2, 3
CONTROL = struct.Struct("<IHH")


def receiveq(port: int) -> int:
    """Return the queue in which the guest offers room for a port's input."""
    return 2 * port + 2 if port else RECEIVEQ


class ConsoleFeature(IntEnum):
    """Feature bits (§5.3.3). EMERG_WRITE is for a guest that has no queues yet."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class Control(IntEnum):
    """Events of the control queues (§5.3.6.2)."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class PortState(Record):
    """What of a port has to outlive the process."""

    guest_open = Word(1, "the guest has it open")
    ready = Word(1, "the guest's driver has it")
