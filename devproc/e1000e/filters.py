"""Which frames the card takes from the wire (82574 §7.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devproc.e1000e.registers import ADDRESSES, MTA, RA, VFTA
from devproc.e1000e.spec import RAH_AV, Rctl
from devproc.network.backend import Buffer
from devproc.network.frame import BROADCAST, MAC_BYTES

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile

_MULTICAST_SHIFTS = (4, 3, 2, 0)  # RCTL.MO: which 12 bits of the address are looked up
_ADDRESS = (1 << 48) - 1


def wanted(device: RegisterFile, frame: Buffer, rctl: int) -> bool:
    """Return whether the frame's address is one the guest listens to."""
    if frame[0] & 1:
        if rctl & Rctl.MPE or (rctl & Rctl.BAM and bytes(frame[:MAC_BYTES]) == BROADCAST):
            return True
    elif rctl & Rctl.UPE:
        return True
    return _exact(device, frame) or bool(frame[0] & 1 and _hashed(device, frame, rctl))


def _exact(device: RegisterFile, frame: Buffer) -> bool:
    address = int.from_bytes(frame[:MAC_BYTES], "little")
    first = (device.images[0] + RA) >> 3
    for pair in device.shared.u64[first : first + ADDRESSES]:
        if pair & _ADDRESS == address and pair >> 32 & RAH_AV:
            return True
    return False


def _hashed(device: RegisterFile, frame: Buffer, rctl: int) -> bool:
    bit = (frame[5] << 8 | frame[4]) >> _MULTICAST_SHIFTS[rctl >> 12 & 3] & 0xFFF
    return _bit(device, MTA, bit)


def vlan_wanted(device: RegisterFile, tag: int, rctl: int) -> bool:
    """Return whether the guest is a member of the VLAN of a tagged frame."""
    return not rctl & Rctl.VFE or _bit(device, VFTA, tag & 0xFFF)


def _bit(device: RegisterFile, table: int, bit: int) -> bool:
    return bool(device.shared.load(device.images[0] + table + 4 * (bit >> 5), 4) >> (bit & 31) & 1)
