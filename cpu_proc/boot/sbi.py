"""The supervisor binary interface, served by the CPU process in the place of firmware (RISC-V SBI 2.0).

Base, TIME, IPI, RFENCE, HSM, SRST, DBCN. A call arrives with the extension in a7, the function in a6, arguments in
a0–a5, and returns an error in a0 and a value in a1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cpu_proc.engine import state as st
from cpu_proc.hart import STARTED, STOPPED, SUSPENDED, Hart

BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN = 0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354, 0x4442434E
SUCCESS, FAILED, NOT_SUPPORTED, INVALID_PARAM, DENIED, INVALID_ADDRESS = 0, -1, -2, -3, -4, -5
ALREADY_AVAILABLE = -6

SPEC_VERSION = 2 << 24
IMPLEMENTATION_ID = 0x62757376  # "busv": no number is registered for us
IMPLEMENTATION_VERSION = 1

_SSIP = _SIE = 1 << 1
_ALL_HARTS = (1 << 64) - 1
_CONSOLE_MAX = 4096

Result = tuple[int, int]


_HSM_STATES = {STARTED: 0, STOPPED: 1, SUSPENDED: 4}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _answer(hart: Hart, a0: int, a1: int) -> None:
    """Set a0 and a1, given as unsigned or small negative numbers."""
    for register, value in ((10, a0), (11, a1)):
        hart.x[register] = _signed(value)


class Platform(Protocol):
    """What SBI needs of the machine."""

    harts: list[Hart]

    def console_write(self, data: bytes) -> None: ...

    def console_read(self, limit: int) -> bytes: ...

    def ram_read(self, gpa: int, length: int) -> bytes | None: ...

    def ram_write(self, gpa: int, data: bytes) -> bool: ...

    def power_off(self, status: int) -> None: ...

    def request_reset(self) -> None: ...


class Sbi:
    """Serves the ``ecall`` of one machine's harts."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._extensions: dict[int, Callable[[Hart, int, list[int]], Result | None]] = {
            BASE: self._base,
            TIME: self._time,
            IPI: self._ipi,
            RFENCE: self._rfence,
            HSM: self._hsm,
            SRST: self._srst,
            DBCN: self._dbcn,
        }

    def call(self, hart: Hart) -> None:
        """Serve the call in the hart's registers."""
        mask = (1 << 64) - 1
        arguments = [int(hart.x[i]) & mask for i in range(10, 16)]
        serve = self._extensions.get(int(hart.x[17]) & 0xFFFF_FFFF)
        result = serve(hart, int(hart.x[16]) & 0xFFFF_FFFF, arguments) if serve else (NOT_SUPPORTED, 0)
        if result is not None:
            _answer(hart, *result)

    def _base(self, hart: Hart, function: int, a: list[int]) -> Result:
        answers = {
            0: SPEC_VERSION,
            1: IMPLEMENTATION_ID,
            2: IMPLEMENTATION_VERSION,
            3: int(a[0] in self._extensions),
            4: hart["MVENDORID"],
            5: hart["MARCHID"],
            6: hart["MIMPID"],
        }
        return (SUCCESS, answers[function]) if function in answers else (NOT_SUPPORTED, 0)

    def _time(self, hart: Hart, function: int, a: list[int]) -> Result:
        if function != 0:
            return NOT_SUPPORTED, 0
        hart["STIMECMP"] = a[0]
        hart["TIMER_DUE"] = hart["TIMER_DUE"] & ~(1 << 5)
        return SUCCESS, 0

    def _chosen(self, mask: int, base: int) -> list[Hart] | None:
        """Return the harts of a mask (SBI §3.1), or ``None`` if one of them does not exist."""
        harts = self._platform.harts
        if base == _ALL_HARTS:
            return list(harts)
        numbers = [base + bit for bit in range(64) if mask >> bit & 1]
        return [harts[n] for n in numbers] if all(n < len(harts) for n in numbers) else None

    def _ipi(self, hart: Hart, function: int, a: list[int]) -> Result:
        if function != 0:
            return NOT_SUPPORTED, 0
        chosen = self._chosen(a[0], a[1])
        if chosen is None:
            return INVALID_PARAM, 0
        for target in chosen:
            target.post("POSTED_MIP", _SSIP)
        return SUCCESS, 0

    def _rfence(self, hart: Hart, function: int, a: list[int]) -> Result:
        if function > 2:  # the others fence a hypervisor's guest
            return NOT_SUPPORTED, 0
        chosen = self._chosen(a[0], a[1])
        if chosen is None:
            return INVALID_PARAM, 0
        flush = st.FLUSH_CODE if function == 0 else st.FLUSH_TRANSLATIONS
        for target in chosen:
            hart.fences.append((target, target.post("POSTED_FLUSH", flush)))
        return SUCCESS, 0

    def _hsm(self, hart: Hart, function: int, a: list[int]) -> Result | None:
        harts = self._platform.harts
        if function == 3:
            return self._suspend(hart, a)
        if function == 1:  # hart_stop
            hart.condition = STOPPED
            return None
        if function not in (0, 2):
            return NOT_SUPPORTED, 0
        if a[0] >= len(harts):
            return INVALID_PARAM, 0
        target = harts[a[0]]
        if function == 2:  # hart_get_status
            return SUCCESS, _HSM_STATES[target.condition]
        if target.condition != STOPPED:
            return ALREADY_AVAILABLE, 0
        if self._platform.ram_read(a[1], 2) is None:
            return INVALID_ADDRESS, 0
        target.reset()
        target.enter_supervisor(a[1], target.index, _signed(a[2]))
        target.condition = STARTED
        target.wake()
        return SUCCESS, 0

    def _suspend(self, hart: Hart, a: list[int]) -> Result | None:
        """Serve hart_suspend: default retentive is a WFI, default non-retentive resumes at the given address."""
        kind = a[0] & 0xFFFF_FFFF
        if kind & 0x7FFF_FFFF != 0:
            return INVALID_PARAM, 0
        hart.condition = SUSPENDED
        if kind == 0:
            return SUCCESS, 0
        hart["PC"], hart["SATP"], hart["MSTATUS"] = a[1], 0, hart["MSTATUS"] & ~_SIE
        hart.flush_translations()
        _answer(hart, hart.index, a[2])
        return None  # the hart starts anew (§9.4): nothing returns to the caller

    def _srst(self, hart: Hart, function: int, a: list[int]) -> Result:
        if function != 0:
            return NOT_SUPPORTED, 0
        kind, reason = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF
        if kind == 0:
            self._platform.power_off(1 if reason == 1 else 0)  # reason 1: system failure
        elif kind in (1, 2):
            self._platform.request_reset()
        else:
            return INVALID_PARAM, 0
        return SUCCESS, 0

    def _dbcn(self, hart: Hart, function: int, a: list[int]) -> Result:
        if function == 2:
            self._platform.console_write(bytes([a[0] & 0xFF]))
            return SUCCESS, 0
        if function not in (0, 1):
            return NOT_SUPPORTED, 0
        length = min(a[0], _CONSOLE_MAX)  # fewer bytes than asked for is a legal answer (§12.1)
        if a[2] != 0:
            return INVALID_PARAM, 0
        if function == 0:
            data = self._platform.ram_read(a[1], length)
            if data is None:
                return INVALID_PARAM, 0
            self._platform.console_write(data)
            return SUCCESS, length
        if self._platform.ram_read(a[1], length) is None:
            return INVALID_PARAM, 0
        data = self._platform.console_read(length)
        self._platform.ram_write(a[1], data)
        return SUCCESS, len(data)
