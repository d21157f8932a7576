"""The registers as gdb numbers them, and the target description, both from the register tables (gdb manual, G.5.12).

Numbers are those that gdb and QEMU use: x0-x31, pc, f0-f31, then 65 + the number of each CSR, then the privilege level.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from cpu_proc.isa import abi
from cpu_proc.isa.csr import numbers

PC, F0, CSR0 = 32, 33, 65
PRIV = CSR0 + 4096
IN_G = CSR0  # registers of the g packet: those before the CSRs

_FPU_CSRS = ("fflags", "frm", "fcsr")
_POINTERS = {"sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr", "ra": "code_ptr", "pc": "code_ptr"}
_DOUBLE = (
    '<union id="riscv_double"><field name="float" type="ieee_single"/><field name="double" type="ieee_double"/></union>'
)


@dataclass(frozen=True)
class Register:
    """One register."""

    name: str
    number: int
    type: str = "int"
    bits: int = 64

    def xml(self) -> str:
        """Return its element."""
        return f'<reg name="{self.name}" bitsize="{self.bits}" type="{self.type}" regnum="{self.number}"/>'


@functools.cache
def features() -> dict[str, tuple[Register, ...]]:
    """Return the registers by feature."""
    csrs = numbers()
    integer = (*abi.INTEGER, "pc")
    return {
        "cpu": tuple(Register(name, number, _POINTERS.get(name, "int")) for number, name in enumerate(integer)),
        "fpu": (
            *(Register(name, F0 + number, "riscv_double") for number, name in enumerate(abi.FLOAT)),
            *(Register(name, CSR0 + csrs[name], bits=32) for name in _FPU_CSRS),
        ),
        "csr": tuple(
            Register(name, CSR0 + number)
            for name, number in sorted(csrs.items(), key=lambda item: item[1])
            if name not in _FPU_CSRS
        ),
        "virtual": (Register("priv", PRIV),),
    }


@functools.cache
def widths() -> dict[int, int]:
    """Return the bytes of every register by number."""
    return {register.number: register.bits // 8 for rows in features().values() for register in rows}


@functools.cache
def target_xml() -> bytes:
    """Return the description."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append("<architecture>riscv:rv64</architecture>")
    for name, registers in features().items():
        lines.append(f'<feature name="org.gnu.gdb.riscv.{name}">')
        if name == "fpu":
            lines.append(_DOUBLE)
        lines += [register.xml() for register in registers]
        lines.append("</feature>")
    return "\n".join([*lines, "</target>", ""]).encode()
