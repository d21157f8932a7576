"""Read and write one register of a hart that stands still, by gdb's number.

CSRs go through the functions that the guest's instructions use, in M mode, so that every rule of theirs holds: masks,
forgetting translations, what does not exist. The floating-point ones alone are reached whatever mstatus.FS says.
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.engine import state as st
from cpu_proc.gdbstub.description import CSR0, F0, IN_G, PC, PRIV, widths
from cpu_proc.hart import Hart

_FFLAGS, _FRM, _FCSR = 1, 2, 3
_READ_ONLY = 3  # bits 11:10 of the number
_SAVED = ("PRIV", "EXIT", "CAUSE", "TVAL", "REMAINING")


def read(hart: Hart, number: int) -> bytes | None:
    """Return the register's bytes, or ``None`` if there is none."""
    value: int | None
    if number < PC:
        value = int(hart.x[number]) if number else 0
    elif number == PC:
        value = hart["PC"]
    elif number < IN_G:
        value = int(hart.f[number - F0])
    elif number == PRIV:
        value = hart["PRIV"]
    else:
        value = _read_csr(hart, number - CSR0)
    width = widths().get(number, 8)
    return None if value is None else (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def write(hart: Hart, number: int, data: bytes) -> bool:
    """Set a register; tell whether that was possible."""
    width = widths().get(number)
    if width is None or len(data) != width:
        return False
    value = int.from_bytes(data, "little")
    signed = value - (1 << 64) if value >> 63 else value
    if number < PC:
        if number:
            hart.x[number] = signed
    elif number == PC:
        hart["PC"] = signed & ~1
    elif number < IN_G:
        hart.f[number - F0] = signed
    elif number == PRIV:
        if value not in (st.U, st.S, st.M):
            return False
        hart["PRIV"] = value
        hart.flush_translations()
    else:
        return _write_csr(hart, number - CSR0, signed)
    return True


def read_all(hart: Hart) -> bytes:
    """Return the registers of the g packet."""
    return b"".join(read(hart, number) or b"" for number in range(IN_G))


def _read_csr(hart: Hart, number: int) -> int | None:
    if number in (_FFLAGS, _FRM, _FCSR):
        fcsr = hart["FRM"] << 5 | hart["FFLAGS"]
        return {_FFLAGS: hart["FFLAGS"], _FRM: hart["FRM"], _FCSR: fcsr}[number]
    if not 0 <= number < 4096:
        return None
    # the counters count the instruction that reads them, and here is none
    return _in_m_mode(hart, lambda: int(hart.engine.inspect_csr(hart.state, number)), remaining=-1)


def _write_csr(hart: Hart, number: int, value: int) -> bool:
    if number == _FFLAGS:
        hart["FFLAGS"] = value & 31
    elif number == _FRM:
        hart["FRM"] = value & 7
    elif number == _FCSR:
        hart["FFLAGS"], hart["FRM"] = value & 31, value >> 5 & 7
    elif number >> 10 == _READ_ONLY:
        return False
    else:
        return _in_m_mode(hart, lambda: int(hart.engine.change_csr(hart.state, number, value)), remaining=0) is not None
    return True


def _in_m_mode(hart: Hart, access: Callable[[], int], *, remaining: int) -> int | None:
    """Return what ``access`` does, or ``None`` if the guest would have got an exception."""
    saved = {name: hart[name] for name in _SAVED}
    hart["PRIV"], hart["EXIT"], hart["REMAINING"] = st.M, st.EXIT_NONE, remaining
    try:
        value = access()
        return None if hart["EXIT"] else value
    finally:
        for name, before in saved.items():
            hart[name] = before
