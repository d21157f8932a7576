"""The control queue: what the driver asks of the card (virtio 1.2 §5.1.6.5). Whatever it may say wrong is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from devproc.network.features import GUEST, NetFeature
from devproc.network.frame import MAC_BYTES
from devproc.tracing import leading
from devproc.virtio_net.spec import (
    ANNOUNCE_ACK,
    COAL_RX_SET,
    COAL_TX_SET,
    COMMAND_MAX,
    ERR,
    GUEST_OFFLOADS_SET,
    MAC_ADDR_SET,
    MAC_TABLE_SET,
    OK,
    VLAN_ADD,
    VLAN_DEL,
    VQ_PAIRS_SET,
    Class,
    Rx,
)
from devproc.virtqueue import Chain

if TYPE_CHECKING:
    from devproc.virtio_net.device import NetworkCard

_CLASSES = frozenset(Class)
_NEEDS = {
    Class.RX: NetFeature.CTRL_RX,
    Class.MAC: NetFeature.CTRL_RX | NetFeature.CTRL_MAC_ADDR,
    Class.VLAN: NetFeature.CTRL_VLAN,
    Class.ANNOUNCE: NetFeature.GUEST_ANNOUNCE,
    Class.MQ: NetFeature.MQ,
    Class.GUEST_OFFLOADS: NetFeature.CTRL_GUEST_OFFLOADS,
    Class.NOTF_COAL: NetFeature.NOTF_COAL,
}


class Control:
    """Serves the commands of one card."""

    def __init__(self, card: NetworkCard) -> None:
        self._card = card
        self._commands: dict[Class, Callable[[int, bytes], bool]] = {
            Class.RX: self._rx,
            Class.MAC: self._mac,
            Class.VLAN: self._vlan,
            Class.ANNOUNCE: self._announce,
            Class.MQ: self._pairs,
            Class.GUEST_OFFLOADS: self._offloads,
            Class.NOTF_COAL: self._coalesce,
        }

    def serve(self, chain: Chain) -> int:
        """Do one command and answer it; return the bytes written."""
        card = self._card
        said = leading(card.machine.memory, chain.readable, min(chain.readable_size, COMMAND_MAX + 1))
        done = len(said) <= COMMAND_MAX and self._do(said)
        card.counters["commands"] += 1
        if not done:
            card.guest_error("bad_commands", f"command {said[:2].hex(' ')}, {len(said)} bytes")
        if not chain.writable_size:
            card.guest_error("bad_commands", "a command without room for its answer")
            return 0
        offset = next(offset for offset, length in chain.writable if length)
        card.machine.memory.ram.u8[offset] = OK if done else ERR
        return 1

    def _do(self, said: bytes) -> bool:
        if len(said) < 2 or said[0] not in _CLASSES:
            return False
        which = Class(said[0])
        if not self._card.negotiated & _NEEDS[which]:
            return False
        return self._commands[which](said[1], said[2:])

    def _rx(self, command: int, data: bytes) -> bool:
        extra = command >= Rx.ALLUNI and not self._card.negotiated & NetFeature.CTRL_RX_EXTRA
        done = len(data) == 1 and not extra and self._card.filter.set_mode(command, data[0])
        self._card.refresh_filter()
        return done

    def _mac(self, command: int, data: bytes) -> bool:
        card = self._card
        if command == MAC_TABLE_SET and card.negotiated & NetFeature.CTRL_RX:
            done = card.filter.set_tables(data)
        elif command == MAC_ADDR_SET and card.negotiated & NetFeature.CTRL_MAC_ADDR:
            done = len(data) == MAC_BYTES and not data[0] & 1
            if done:
                card.mac = data
        else:
            return False
        card.refresh_filter()
        return done

    def _vlan(self, command: int, data: bytes) -> bool:
        if command not in (VLAN_ADD, VLAN_DEL) or len(data) != 2:
            return False
        return self._card.filter.set_vlan(int.from_bytes(data, "little"), wanted=command == VLAN_ADD)

    def _announce(self, command: int, data: bytes) -> bool:
        if command != ANNOUNCE_ACK or data:
            return False
        self._card.announced()
        return True

    def _pairs(self, command: int, data: bytes) -> bool:
        pairs = int.from_bytes(data, "little")
        if command != VQ_PAIRS_SET or len(data) != 2 or not 1 <= pairs <= self._card.config.queues:
            return False
        self._card.use(pairs)
        return True

    def _offloads(self, command: int, data: bytes) -> bool:
        wanted = int.from_bytes(data, "little")
        if command != GUEST_OFFLOADS_SET or len(data) != 8 or wanted & ~(self._card.negotiated & GUEST):
            return False
        self._card.take_offloads(wanted)
        return True

    def _coalesce(self, command: int, data: bytes) -> bool:
        if command not in (COAL_TX_SET, COAL_RX_SET) or len(data) != 8:
            return False
        packets, usecs = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")
        self._card.coalesce(sending=command == COAL_TX_SET, packets=packets, usecs=usecs)
        return True
