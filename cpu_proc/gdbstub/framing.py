"""Packets on the wire: ``$payload#checksum``, acknowledgements and the interrupt byte (gdb manual, E.1 and E.9)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

PACKET_MAX = 0x4000
"""Bytes between ``$`` and ``#``, either way; told to gdb as ``PacketSize``."""

_ESCAPE = 0x7D
_ESCAPED = frozenset(b"#$}*")
_HEX = frozenset(string.hexdigits.encode())


class Sign(Enum):
    """What is not a packet."""

    ACK = "ack"
    NAK = "nak"
    INTERRUPT = "interrupt"
    BAD_CHECKSUM = "bad_checksum"
    OVERSIZED = "oversized"
    STRAY = "stray"
    """Bytes between packets that mean nothing."""


@dataclass(frozen=True)
class Packet:
    """A payload whose checksum was right."""

    payload: bytes


Event = Packet | Sign
_SIGNS = {0x2B: Sign.ACK, 0x2D: Sign.NAK, 0x03: Sign.INTERRUPT}


class Framer:
    """Cuts a stream into events, whatever it holds, and never keeps more than one packet."""

    def __init__(self) -> None:
        self._payload: bytearray | None = None
        self._sum: bytes | None = None
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take what arrived; yield what is complete."""
        at = 0
        while at < len(data):
            if self._payload is None:
                byte, at = data[at], at + 1
                if byte == 0x24:
                    self._payload, self._sum, self._too_long = bytearray(), None, False
                else:
                    yield _SIGNS.get(byte, Sign.STRAY)
            elif self._sum is None:
                end = data.find(b"#", at)
                part = data[at : end if end >= 0 else len(data)]
                if len(self._payload) + len(part) > PACKET_MAX:
                    self._too_long = True
                else:
                    self._payload += part
                at += len(part)
                if end >= 0:
                    at, self._sum = at + 1, b""
            else:
                self._sum, at = self._sum + data[at : at + 1], at + 1
                if len(self._sum) == 2:
                    yield self._finish(self._payload, self._sum)
                    self._payload = None

    def _finish(self, payload: bytearray, checksum: bytes) -> Event:
        if self._too_long:
            return Sign.OVERSIZED
        if not _HEX.issuperset(checksum) or int(checksum, 16) != sum(payload) & 0xFF:
            return Sign.BAD_CHECKSUM
        return Packet(bytes(payload))


def frame(payload: bytes) -> bytes:
    """Return the packet for ``payload``, with what must not stand in one escaped."""
    if not _ESCAPED.isdisjoint(payload):
        payload = escaped(payload)
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


def escaped(data: bytes) -> bytes:
    """Return binary data as it stands in a packet."""
    out = bytearray()
    for byte in data:
        out += bytes((_ESCAPE, byte ^ 0x20)) if byte in _ESCAPED else bytes((byte,))
    return bytes(out)


def unescaped(data: bytes) -> bytes:
    """Return the binary data that stands in a packet; an escape with nothing after it is dropped."""
    out = bytearray()
    at = 0
    while (found := data.find(_ESCAPE, at)) >= 0:
        out += data[at:found]
        if found + 1 < len(data):
            out.append(data[found + 1] ^ 0x20)
        at = found + 2
    return bytes(out + data[at:])
