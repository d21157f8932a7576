"""Bits of the 82574L's registers and descriptors, by the names of its datasheet (Intel 82574 GbE Controller Family).

They are numbers, no flags: what Python computes with flags is flags again, which took half of the time of each frame.
"""

from __future__ import annotations

from enum import IntEnum

from devproc.state import Record, Word


class Ctrl(IntEnum):
    """CTRL (82574 §10.2.2.1)."""

    FD = 1 << 0
    MASTER_DISABLE = 1 << 2
    SLU = 1 << 6
    SPEED_1000 = 2 << 8
    RST = 1 << 26
    VME = 1 << 30
    PHY_RST = 1 << 31


class Status(IntEnum):
    """STATUS (82574 §10.2.2.2)."""

    FD = 1 << 0
    LU = 1 << 1
    SPEED_1000 = 2 << 6
    ASDV_1000 = 2 << 8
    PHYRA = 1 << 10
    MASTER_ENABLE = 1 << 19


class Eecd(IntEnum):
    """EECD (82574 §10.2.2.3)."""

    REQ = 1 << 6
    GNT = 1 << 7
    PRES = 1 << 8
    AUTO_RD = 1 << 9


class Mdic(IntEnum):
    """MDIC (82574 §10.2.2.7)."""

    WRITE = 1 << 26
    READ = 2 << 26
    READY = 1 << 28
    INTERRUPT = 1 << 29
    ERROR = 1 << 30


class Cause(IntEnum):
    """ICR, ICS, IMS, IMC (82574 §10.2.4.1)."""

    TXDW = 1 << 0
    TXQE = 1 << 1
    LSC = 1 << 2
    RXDMT0 = 1 << 4
    RXO = 1 << 6
    RXT0 = 1 << 7
    MDAC = 1 << 9
    RXQ0 = 1 << 20
    RXQ1 = 1 << 21
    TXQ0 = 1 << 22
    TXQ1 = 1 << 23
    OTHER = 1 << 24
    INT_ASSERTED = 1 << 31


OTHER_CAUSES = Cause.LSC | Cause.RXO | Cause.MDAC
"""Causes that with MSI-X also set ``OTHER`` (82574 §7.4.1.1)."""
CAUSES = (1 << 25) - 1
"""Bits that can be set and masked."""


class CtrlExt(IntEnum):
    """CTRL_EXT (82574 §10.2.2.5)."""

    EIAME = 1 << 24
    IAME = 1 << 27


class Rctl(IntEnum):
    """RCTL (82574 §10.2.5.1)."""

    EN = 1 << 1
    UPE = 1 << 3
    MPE = 1 << 4
    LPE = 1 << 5
    DTYP = 3 << 10
    BAM = 1 << 15
    VFE = 1 << 18
    BSEX = 1 << 25
    SECRC = 1 << 26


class Tctl(IntEnum):
    """TCTL (82574 §10.2.6.1)."""

    EN = 1 << 1
    PSP = 1 << 3


RFCTL_EXSTEN = 1 << 15  # extended receive descriptors (82574 §10.2.5.22)
RAH_AV = 1 << 31  # the address is in use (82574 §10.2.5.17)
SWSM_SMBI = 1 << 0  # the semaphore that a read takes (82574 §10.2.3.14)
EERD_START, EERD_DONE = 1 << 0, 1 << 1
IVAR_VALID = 8  # in each field of IVAR (82574 §10.2.4.9)

DESCRIPTOR = 16
SHORTEST = 60  # bytes of a frame on a wire without its CRC; shorter ones are padded


class Tx(IntEnum):
    """The second half of a transmit descriptor, legacy or extended (82574 §7.2.8, §7.2.11)."""

    EOP = 1 << 24
    IC = 1 << 26  # legacy: insert a checksum
    TSE = 1 << 26  # extended: cut it into segments
    RS = 1 << 27
    DEXT = 1 << 29
    VLE = 1 << 30
    IXSM = 1 << 40
    TXSM = 1 << 41


TX_DTYP = 0xF << 20
TX_DTYP_DATA = 1 << 20
TX_CONTEXT_TCP = 1 << 24


class Rx(IntEnum):
    """Status and errors that are written to a receive descriptor, where an extended one has them (82574 §7.1.5)."""

    DD = 1 << 0
    EOP = 1 << 1
    IXSM = 1 << 2
    VP = 1 << 3
    TCPCS = 1 << 5
    IPCS = 1 << 6
    LAP = 1 << 19
    """Reserved in the datasheet, and ours: it changes with each use of a descriptor (``receive``)."""
    RXE = 1 << 31


class PhyRegister(IntEnum):
    """Registers of the PHY (IEEE 802.3 §22.2.4, 82574 §10.2.8)."""

    CONTROL = 0
    STATUS = 1
    ID1 = 2
    ID2 = 3
    ADVERTISE = 4
    PARTNER = 5
    EXPANSION = 6
    CONTROL_1000 = 9
    STATUS_1000 = 10
    EXTENDED_STATUS = 15
    SPECIFIC_CONTROL = 16
    SPECIFIC_STATUS = 17


PHY_REGISTERS = 32
NVM_WORDS = 64


class State(Record):
    """What the card remembers beside its registers."""

    unplugged = Word(4, "1 while the cable is out; a successor finds it so")
    signalled = Word(4, "pending causes of which a message has been sent")
    transmitted = Word(4, "descriptors before this one have been written back")
    sent = Word(8, "TDH, and above it the context in force there: one store takes a burst as sent")
    context0_low = Word(8, "a context descriptor")
    context0_high = Word(8)
    context1_low = Word(8, "another")
    context1_high = Word(8)
    receiving = Word(4, "1 while the descriptors of a frame are being written back")
    rx_where = Word(8, "the first of them, above it how many there are, and bytes of the frame")
    rx_what = Word(8, "status and errors of the last of them, and above it the VLAN tag of the frame")
