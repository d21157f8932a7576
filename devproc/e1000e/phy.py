"""The card's PHY behind MDIC: a gigabit transceiver at the other end of a cable that is in or out (82574 §10.2.8)."""

from __future__ import annotations

from devproc.e1000e.spec import PHY_REGISTERS, Mdic, PhyRegister
from protocol.memory import Shared

ADDRESS = 1
SIZE = 2 * PHY_REGISTERS

_RESET, _RESTART_AUTONEG, _POWER_DOWN = 1 << 15, 1 << 9, 1 << 11
_AUTONEG_DONE, _LINK = 1 << 5, 1 << 2
_RECEIVERS_OK = 3 << 12  # STATUS_1000: local and remote
_RESOLVED = 2 << 14 | 1 << 13 | 1 << 11 | 1 << 10  # SPECIFIC_STATUS: 1000 Mb/s, full duplex, resolved, link

_POWER_ON: dict[int, int] = {
    PhyRegister.CONTROL: 0x1140,  # autonegotiation, full duplex, 1000 Mb/s
    PhyRegister.STATUS: 0x7949,  # 10 and 100 Mb/s, extended status, autonegotiation
    PhyRegister.ID1: 0x0141,
    PhyRegister.ID2: 0x0CB1,  # BME1000 revision 2, the only one that drivers take in an 82574
    PhyRegister.ADVERTISE: 0x0DE1,
    PhyRegister.PARTNER: 0xC5E1,  # takes and offers all that is on offer
    PhyRegister.EXPANSION: 0x000F,
    PhyRegister.CONTROL_1000: 0x0E00,
    PhyRegister.STATUS_1000: 0x0800,  # the partner does 1000 Mb/s, full duplex
    PhyRegister.EXTENDED_STATUS: 0x3000,
    PhyRegister.SPECIFIC_CONTROL: 0x0060,  # crossover by itself
}
_FIXED = {PhyRegister.STATUS, PhyRegister.ID1, PhyRegister.ID2, PhyRegister.PARTNER, PhyRegister.EXPANSION,
          PhyRegister.STATUS_1000, PhyRegister.EXTENDED_STATUS, PhyRegister.SPECIFIC_STATUS}  # fmt: skip


class Phy:
    """Registers of 16 bits in the page; what a link says of itself follows from the cable."""

    def __init__(self, shared: Shared, offset: int) -> None:
        self._shared = shared
        self._offset = offset

    def power_on(self) -> None:
        """Return to the values after power-on, with the cable out."""
        for register in range(PHY_REGISTERS):
            self._store(register, _POWER_ON.get(register, 0))

    def _load(self, register: int) -> int:
        return self._shared.load(self._offset + 2 * register, 2)

    def _store(self, register: int, value: int) -> None:
        self._shared.store(self._offset + 2 * register, 2, value)

    @property
    def powered(self) -> bool:
        """Whether the driver has not put it to sleep."""
        return not self._load(PhyRegister.CONTROL) & _POWER_DOWN

    def link(self, *, up: bool) -> None:
        """Show a link that is up, with what both sides agreed on, or none."""
        self._store(PhyRegister.STATUS, _POWER_ON[PhyRegister.STATUS] | (_AUTONEG_DONE | _LINK if up else 0))
        self._store(PhyRegister.STATUS_1000, _POWER_ON[PhyRegister.STATUS_1000] | (_RECEIVERS_OK if up else 0))
        self._store(PhyRegister.SPECIFIC_STATUS, _RESOLVED if up else 0)

    def command(self, value: int) -> int:
        """Do what a write of ``value`` to MDIC asks for; return what MDIC reads then."""
        number, address = value >> 16 & 0x1F, value >> 21 & 0x1F
        operation = value & (Mdic.WRITE | Mdic.READ)
        value &= ~(Mdic.READY | Mdic.ERROR)
        if address != ADDRESS or operation not in (Mdic.WRITE, Mdic.READ):
            return value | Mdic.READY | Mdic.ERROR
        if operation == Mdic.READ:
            return value & ~0xFFFF | self._load(number) | Mdic.READY
        if number == PhyRegister.CONTROL:
            self._store(number, value & 0xFFFF & ~(_RESET | _RESTART_AUTONEG))  # both are done at once
        elif number not in _FIXED:
            self._store(number, value & 0xFFFF)
        return value | Mdic.READY
