"""Control and status registers, one row each (RISC-V privileged §2, AIA §2, Sstc).

A row with a slot and a write mask is plain storage under WARL: bits outside the mask keep their value. A row with
``read`` or ``write`` names a function of ``engine.registers``, ``counters`` or ``interrupt_registers``. The number
itself carries the lowest privilege (bits 9:8) and read-only-ness (bits 11:10), privileged §2.1. A row with ``count``
stands for that many registers; its functions get the place among them, and the names are numbered from ``first``.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = -1

# mstatus: SIE MIE SPIE MPIE SPP MPP FS MPRV SUM MXR TVM TW TSR
MSTATUS_MASK = 0x7E_79AA
# sstatus: SIE SPIE SPP FS SUM MXR, plus read-only UXL (2 = 64 bit) and SD
SSTATUS_MASK = 0xC_6122
SSTATUS_VIEW = SSTATUS_MASK | 3 << 32 | -(1 << 63)
S_INTERRUPTS = 0x222  # SSI, STI, SEI
AIA = "IMSIC_PRESENT"  # what Smaia and Ssaia need
MEDELEG_MASK = 0xB3FF
ENVCFG_MASK = 0xF1  # FIOM CBIE CBCFE CBZE
MENVCFG_MASK = ENVCFG_MASK | -(1 << 63) | 3 << 61  # STCE PBMTE ADUE
COUNTERS = 0xFFFF_FFFF  # cycle, time, instret, and 29 that count nothing
# mstateen0 (Smstateen §1.1, AIA §2.1): who below M mode may reach what
STATEEN_SE, STATEEN_ENVCFG, STATEEN_CSRIND, STATEEN_AIA, STATEEN_IMSIC = (1 << bit for bit in (63, 62, 60, 59, 58))
STATEEN0_MASK = (STATEEN_SE | STATEEN_ENVCFG | STATEEN_CSRIND | STATEEN_AIA | STATEEN_IMSIC) - (1 << 64)


@dataclass(frozen=True)
class Csr:
    """One row."""

    name: str
    number: int
    slot: str = ""
    mask: int = 0
    read: str = ""
    write: str = ""
    count: int = 1
    first: int = 0
    stateen: int = 0
    """Bit of mstateen0 without which S and U modes have no access."""
    needs: str = ""
    """Slot of the state vector that says whether the hart has the register at all; zero makes it illegal."""

    def names(self) -> dict[str, int]:
        """Return the registers of the row: name and number."""
        if self.count == 1:
            return {self.name: self.number}
        return {f"{self.name}{self.first + i}": self.number + i for i in range(self.count)}


CSRS = (
    Csr("fflags", 0x001, read="read_fflags", write="write_fflags"),
    Csr("frm", 0x002, read="read_frm", write="write_frm"),
    Csr("fcsr", 0x003, read="read_fcsr", write="write_fcsr"),
    Csr("cycle", 0xC00, read="read_cycle"),
    Csr("time", 0xC01, read="read_time"),
    Csr("instret", 0xC02, read="read_instret"),
    Csr("hpmcounter", 0xC03, read="read_hpmcounter", count=29, first=3),
    Csr("sstatus", 0x100, read="read_sstatus", write="write_sstatus"),
    Csr("sie", 0x104, read="read_sie", write="write_sie"),
    Csr("stvec", 0x105, slot="STVEC", mask=~2),
    Csr("scounteren", 0x106, slot="SCOUNTEREN", mask=COUNTERS),
    Csr("senvcfg", 0x10A, slot="SENVCFG", write="write_senvcfg", stateen=STATEEN_ENVCFG),
    Csr("sstateen", 0x10C, read="read_sstateen", write="write_sstateen", count=4),
    Csr("sscratch", 0x140, slot="SSCRATCH", mask=ALL),
    Csr("sepc", 0x141, slot="SEPC", mask=~1),
    Csr("scause", 0x142, slot="SCAUSE", mask=ALL),
    Csr("stval", 0x143, slot="STVAL", mask=ALL),
    Csr("sip", 0x144, read="read_sip", write="write_sip"),
    Csr("stimecmp", 0x14D, read="read_stimecmp", write="write_stimecmp"),
    Csr("siselect", 0x150, slot="SISELECT", mask=0xFFF, stateen=STATEEN_CSRIND, needs=AIA),
    Csr("sireg", 0x151, read="read_sireg", write="write_sireg", stateen=STATEEN_CSRIND, needs=AIA),
    Csr("stopei", 0x15C, read="read_stopei", write="write_stopei", stateen=STATEEN_IMSIC, needs=AIA),
    Csr("satp", 0x180, read="read_satp", write="write_satp"),
    Csr("stopi", 0xDB0, read="read_stopi", stateen=STATEEN_AIA, needs=AIA),
    Csr("mvendorid", 0xF11, slot="MVENDORID"),
    Csr("marchid", 0xF12, slot="MARCHID"),
    Csr("mimpid", 0xF13, slot="MIMPID"),
    Csr("mhartid", 0xF14, slot="MHARTID"),
    Csr("mconfigptr", 0xF15, read="read_zero"),
    Csr("mstatus", 0x300, read="read_mstatus", write="write_mstatus"),
    Csr("misa", 0x301, read="read_misa", write="write_nothing"),
    Csr("medeleg", 0x302, slot="MEDELEG", mask=MEDELEG_MASK),
    Csr("mideleg", 0x303, slot="MIDELEG", mask=S_INTERRUPTS),
    Csr("mie", 0x304, slot="MIE", mask=0xAAA),
    Csr("mtvec", 0x305, slot="MTVEC", mask=~2),
    Csr("mcounteren", 0x306, slot="MCOUNTEREN", mask=COUNTERS),
    Csr("mvien", 0x308, read="read_zero", write="write_nothing", needs=AIA),
    Csr("mvip", 0x309, read="read_mvip", write="write_mip", needs=AIA),
    Csr("menvcfg", 0x30A, slot="MENVCFG", write="write_menvcfg"),
    Csr("mstateen0", 0x30C, slot="MSTATEEN0", mask=STATEEN0_MASK),
    Csr("mstateen", 0x30D, slot="MSTATEEN1", mask=-(1 << 63), count=3, first=1),
    Csr("mcountinhibit", 0x320, slot="MCOUNTINHIBIT", write="write_mcountinhibit"),
    Csr("mhpmevent", 0x323, read="read_nothing", write="write_none", count=29, first=3),
    Csr("mscratch", 0x340, slot="MSCRATCH", mask=ALL),
    Csr("mepc", 0x341, slot="MEPC", mask=~1),
    Csr("mcause", 0x342, slot="MCAUSE", mask=ALL),
    Csr("mtval", 0x343, slot="MTVAL", mask=ALL),
    Csr("mip", 0x344, read="read_mip", write="write_mip"),
    Csr("miselect", 0x350, slot="MISELECT", mask=0xFFF, needs=AIA),
    Csr("mireg", 0x351, read="read_mireg", write="write_mireg", needs=AIA),
    Csr("mtopei", 0x35C, read="read_mtopei", write="write_mtopei", needs=AIA),
    Csr("pmpcfg0", 0x3A0, slot="PMPCFG0", write="write_pmpcfg0"),
    Csr("pmpcfg2", 0x3A2, slot="PMPCFG2", write="write_pmpcfg2"),
    Csr("pmpaddr", 0x3B0, slot="PMPADDR0", write="write_pmpaddr", count=16),
    # no triggers: each register reads as zero (Sdtrig §5.7)
    Csr("tselect", 0x7A0, read="read_zero", write="write_nothing"),
    Csr("tdata", 0x7A1, read="read_nothing", write="write_none", count=3, first=1),
    Csr("mcycle", 0xB00, read="read_mcycle", write="write_mcycle"),
    Csr("minstret", 0xB02, read="read_minstret", write="write_minstret"),
    Csr("mhpmcounter", 0xB03, read="read_nothing", write="write_none", count=29, first=3),
    Csr("mtopi", 0xFB0, read="read_mtopi", needs=AIA),
)


def numbers() -> dict[str, int]:
    """Return the number of every register by its name."""
    return {name: number for row in CSRS for name, number in row.names().items()}
