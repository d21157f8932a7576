"""The windows outside RAM that compiled code serves: which row has an address, and what of it is memory.

Memory of a device (a BAR that is shared with others) is as good as RAM: its pages are entered in the TLB. A machine
without such memory does not look for it.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import load_i64
from cpu_proc.engine.tlb import STORE, in_ram

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def window_of(S, pa, size):
    """Return the host address of the window row that holds ``[pa, pa+size)``, or 0."""
    row = S[st.WINDOWS_HOST]
    for _ in range(S[st.WINDOWS]):
        offset = pa - load_i64(row + st.W_BASE * 8)
        if offset >= 0 and offset <= load_i64(row + st.W_SIZE * 8) - size:
            return row
        row += st.WINDOW_WORDS * 8
    return 0


@jit
def image_at(row, pa):
    """Return the host address that a window has for ``pa``."""
    return load_i64(row + st.W_IMAGE * 8) + pa - load_i64(row + st.W_BASE * 8)


@jit
def plain_window(S, pa, size):
    """Return the host address of memory other than RAM that holds ``[pa, pa+size)`` to be read, or 0."""
    row = window_of(S, pa, size)
    if row and load_i64(row + st.W_KINDS * 8) == 0:
        return image_at(row, pa)
    return 0


@jit
def memory_host(S, pa, size, access):
    """Return the host address of ``[pa, pa+size)`` if that is RAM, or memory of a device that allows it; else 0."""
    if in_ram(S, pa, size):
        return S[st.RAM_HOST] + pa - S[st.RAM_BASE]
    if S[st.MEMORIES] == 0:
        return 0
    row = window_of(S, pa, size)
    if row and load_i64(row + st.W_MEMORY * 8) >= (2 if access == STORE else 1):
        return image_at(row, pa)
    return 0


@jit
def match_of(table, value):
    """Return the eventfd that a store of ``value`` writes, or -1: a sorted table of values and descriptors."""
    low, high = 0, load_i64(table)
    while low < high:
        middle = (low + high) >> 1
        found = load_i64(table + 8 + middle * 16)
        if found == value:
            return load_i64(table + 16 + middle * 16)
        if found < value:
            low = middle + 1
        else:
            high = middle
    return -1
