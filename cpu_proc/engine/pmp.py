"""Physical memory protection: 16 entries, granularity 4 bytes (RISC-V privileged §3.7).

Two slots are derived whenever an entry changes: ``PMP_OPEN`` says that nothing needs to be checked, which is what
firmware leaves behind that protects nothing, and what is tested first.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import ctz
from cpu_proc.engine.tlb import FETCH, STORE, flush_tlb

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

R, W, X, A_SHIFT, L = 1, 2, 4, 3, 0x80
OFF, TOR, NA4, NAPOT = range(4)
ENTRIES = 16
ADDRESS_MASK = (1 << 54) - 1
EVERYTHING = (1 << 54) - 1  # pmpaddr of a NAPOT entry over all memory


@jit
def config(S, entry):
    """Return the configuration byte of an entry."""
    return S[st.PMPCFG0 + (entry >> 3)] >> (entry & 7) * 8 & 0xFF


@jit
def start_of(S, entry):
    """Return the first address that an entry matches."""
    mode = config(S, entry) >> A_SHIFT & 3
    if mode == TOR:
        return S[st.PMPADDR0 + entry - 1] << 2 if entry > 0 else 0
    address = S[st.PMPADDR0 + entry]
    if mode == NAPOT:
        return (address & address + 1) << 2
    return address << 2


@jit
def end_of(S, entry):
    """Return the address after the last one that an entry matches."""
    mode = config(S, entry) >> A_SHIFT & 3
    address = S[st.PMPADDR0 + entry]
    if mode == TOR:
        return address << 2
    if mode == NAPOT:
        return start_of(S, entry) + (8 << ctz(~address))
    return (address << 2) + 4


@jit
def permitted(S, pa, size, access, privilege):
    """Tell whether the access may happen: the first entry that matches any of it decides, and must match all."""
    if S[st.PMP_OPEN]:
        return True
    for entry in range(ENTRIES):
        byte = config(S, entry)
        if byte >> A_SHIFT & 3 == OFF:
            continue
        start, end = start_of(S, entry), end_of(S, entry)
        if start >= end or pa >= end or pa + size <= start:  # a TOR entry may match nothing (§3.7.1)
            continue
        if pa < start or pa + size > end:
            return False
        if privilege == st.M and byte & L == 0:
            return True
        needed = X if access == FETCH else W if access == STORE else R
        return byte & needed != 0
    return privilege == st.M


@jit
def uniform(S, page):
    """Tell whether one answer holds for the whole of a page."""
    if S[st.PMP_OPEN]:
        return True
    for entry in range(ENTRIES):
        if config(S, entry) >> A_SHIFT & 3 == OFF:
            continue
        start, end = start_of(S, entry), end_of(S, entry)
        if start < end and page < end and page + 4096 > start:
            return page >= start and page + 4096 <= end
    return True


@jit
def refresh(S):
    """Derive what follows from the entries, and forget translations made under the old ones."""
    S[st.PMP_OPEN] = 0
    for entry in range(ENTRIES):
        byte = config(S, entry)
        if byte >> A_SHIFT & 3 != OFF:
            everything = byte >> A_SHIFT & 3 == NAPOT and S[st.PMPADDR0 + entry] == EVERYTHING
            S[st.PMP_OPEN] = 1 if everything and byte & (R | W | X) == R | W | X else 0
            break
    flush_tlb(S)


@jit
def locked_address(S, entry):
    """Tell whether pmpaddr cannot be written: locked itself, or the bottom of a locked TOR entry."""
    if config(S, entry) & L:
        return True
    return entry + 1 < ENTRIES and config(S, entry + 1) & (L | 3 << A_SHIFT) == L | TOR << A_SHIFT


@jit
def write_config(S, word, value):
    """Write eight configuration bytes; locked ones stay, and W without R is reserved."""
    for index in range(8):
        old = S[st.PMPCFG0 + word] >> index * 8 & 0xFF
        byte = value >> index * 8 & 0x9F
        if byte & (R | W) == W:
            byte &= ~W
        if old & L == 0:
            S[st.PMPCFG0 + word] ^= (old ^ byte) << index * 8
    refresh(S)
    return 1


@jit
def write_address(S, entry, value):
    """Write pmpaddr."""
    if not locked_address(S, entry):
        S[st.PMPADDR0 + entry] = value & ADDRESS_MASK
        refresh(S)
    return 1
