"""Which frames the driver wants (virtio 1.2 §5.1.6.5.1 to 3), kept in the device page.

What decides is looked up for each frame, so it is also kept here in the form that is quickest to look at, made anew
after each command.
"""

from __future__ import annotations

from devproc.network.backend import Buffer
from devproc.network.frame import BROADCAST, MAC_BYTES
from devproc.virtio_net.spec import MAC_TABLE_MAX, TABLES_SIZE, VLANS, CardState, Rx
from protocol.memory import Shared

_VLAN_TAG = b"\x81\x00"
_UNI, _MULTI = 0, 1
_MODES = frozenset(Rx)


class Filter:
    """The filter of a card."""

    def __init__(self, shared: Shared, state: CardState) -> None:
        self._shared = shared
        self._state = state
        self._tables = state.offset + CardState.SIZE
        self._vlans = self._tables + 2 * MAC_TABLE_MAX * 8
        self._by_vlan = False
        self._all = True
        self._accepted: frozenset[bytes] = frozenset()

    def clear(self) -> None:
        """Receive everything, as a driver expects that cannot say what it wants (and as QEMU does)."""
        self._shared.u8[self._tables : self._tables + TABLES_SIZE] = bytes(TABLES_SIZE)
        self._state.modes = 1 << Rx.PROMISC

    def refresh(self, mac: bytes, *, by_vlan: bool) -> None:
        """Make up the quick form: the card's address and, if the driver has agreed to that, filtering by VLAN."""
        self._by_vlan = by_vlan
        modes, overflow = self._state.modes, self._state.overflow
        self._all = bool(modes & 1 << Rx.PROMISC)
        accepted = set()
        if not modes & 1 << Rx.NOBCAST:
            accepted.add(BROADCAST)
        if not modes & 1 << Rx.NOUNI:
            accepted |= {mac, *self._listed(_UNI, self._state.uni)}
        if not modes & 1 << Rx.NOMULTI:
            accepted.update(self._listed(_MULTI, self._state.multi))
        self._accepted = frozenset(accepted)
        self._all_uni = not modes & 1 << Rx.NOUNI and bool(modes & 1 << Rx.ALLUNI or overflow & 1 << _UNI)
        self._all_multi = not modes & 1 << Rx.NOMULTI and bool(modes & 1 << Rx.ALLMULTI or overflow & 1 << _MULTI)

    def wants(self, start: Buffer) -> bool:
        """Return whether the driver gets the frame that starts like this, with 16 bytes or all there are."""
        if self._all:
            return True
        if self._by_vlan and start[12:14] == _VLAN_TAG:
            vlan = int.from_bytes(start[14:16], "big") & VLANS - 1
            if not self._shared.u8[self._vlans + vlan // 8] & 1 << vlan % 8:
                return False
        address = bytes(start[:MAC_BYTES])
        if address in self._accepted:
            return True
        if address[0] & 1:
            return self._all_multi and address != BROADCAST
        return self._all_uni

    # what the driver says

    def set_mode(self, mode: int, value: int) -> bool:
        """Switch a mode on or off."""
        if mode not in _MODES or value > 1:
            return False
        self._state.modes = self._state.modes & ~(1 << mode) | value << mode
        return True

    def set_tables(self, data: bytes) -> bool:
        """Take the unicast and the multicast table; one that is too long stands for all addresses."""
        found: list[list[bytes]] = []
        for _ in (_UNI, _MULTI):
            end = 4 + MAC_BYTES * int.from_bytes(data[:4], "little")
            if len(data) < max(4, end):
                return False
            found.append([data[at : at + MAC_BYTES] for at in range(4, end, MAC_BYTES)])
            data = data[end:]
        if data:
            return False
        overflow = 0
        for which, macs in enumerate(found):
            if len(macs) > MAC_TABLE_MAX:
                overflow |= 1 << which
                macs.clear()
            for index, mac in enumerate(macs):
                self._shared.store(self._entry(which, index), 8, int.from_bytes(mac, "big"))
        self._state.uni, self._state.multi = len(found[_UNI]), len(found[_MULTI])
        self._state.overflow = overflow
        return True

    def set_vlan(self, vlan: int, *, wanted: bool) -> bool:
        """Want frames of a VLAN, or no more."""
        if vlan >= VLANS:
            return False
        at, bit = self._vlans + vlan // 8, 1 << vlan % 8
        byte = self._shared.u8[at]
        self._shared.u8[at] = byte | bit if wanted else byte & ~bit
        return True

    def _entry(self, which: int, index: int) -> int:
        return self._tables + (which * MAC_TABLE_MAX + index) * 8

    def _listed(self, which: int, count: int) -> list[bytes]:
        entries = (self._shared.load(self._entry(which, index), 8) for index in range(min(count, MAC_TABLE_MAX)))
        return [(entry & (1 << 8 * MAC_BYTES) - 1).to_bytes(MAC_BYTES, "big") for entry in entries]
