"""Which pair of queues a received frame belongs to (virtio 1.2 §5.1.6.5.5): that on which its flow was sent last.

For networks that do not tell themselves. A flow is known by a number that is the same in both directions: addresses
and ports, exclusive-ored. Flows that were never sent are spread.
"""

from __future__ import annotations

from devproc.network.backend import Buffer

_FLOWS = 1024
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_WITH_PORTS = (6, 17)  # TCP, UDP
START = 54 + 4  # bytes of a frame that are looked at


def flow(start: Buffer) -> int:
    """Return the number of a frame's flow; ``start`` is its first ``START`` bytes, or all."""
    kind = bytes(start[12:14])
    if kind == _IPV4 and len(start) >= 34:
        number = int.from_bytes(start[26:30], "big") ^ int.from_bytes(start[30:34], "big")
        ports, protocol = 14 + 4 * (start[14] & 15), start[23]
    elif kind == _IPV6 and len(start) >= 54:
        number = int.from_bytes(start[22:38], "big") ^ int.from_bytes(start[38:54], "big")
        ports, protocol = 54, start[20]
    else:
        return 0
    if protocol in _WITH_PORTS:
        both = int.from_bytes(start[ports : ports + 2], "big") ^ int.from_bytes(start[ports + 2 : ports + 4], "big")
        number = number << 16 ^ both
    return number % 0xFFFB  # mixes the high bits in


class Steering:
    """Remembers flows; ``pairs`` says how many pairs are in use."""

    def __init__(self) -> None:
        self.pairs = 1
        self._known: list[int | None] = [None] * _FLOWS

    def sent(self, pair: int, start: Buffer) -> None:
        """Remember where a flow is sent."""
        self._known[flow(start) % _FLOWS] = pair

    def pair(self, start: Buffer) -> int:
        """Return the pair for a received frame."""
        number = flow(start)
        known = self._known[number % _FLOWS]
        return number % self.pairs if known is None or known >= self.pairs else known

    def forget(self) -> None:
        """Know nothing, with one pair."""
        self.pairs = 1
        self._known = [None] * _FLOWS
