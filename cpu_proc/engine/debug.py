"""Where a debugger wants to stop: tables of breakpoints and watchpoints, looked at on slow paths alone.

The decoded word of an address that has the page offset of a breakpoint stays empty, and a page that holds a watchpoint
is kept out of the TLB for data. So a guest that nobody debugs pays nothing, and whatever may have to stop comes here.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import load_i64

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def breakpoint_near(S, pc):
    """Return 2 for a breakpoint at ``pc``, 1 for one at the same offset of another page, else 0."""
    near = 0
    for i in range(S[st.BREAKS]):
        at = load_i64(S[st.BREAKS_HOST] + i * 8)
        if at == pc:
            return 2
        if (at ^ pc) & 0xFFF == 0:
            near = 1
    return near


@jit
def watched_page(S, va):
    """Tell whether a watchpoint lies on the page of ``va``."""
    page = va & -4096
    for i in range(S[st.WATCHES]):
        row = S[st.WATCHES_HOST] + i * st.WATCH_WORDS * 8
        if load_i64(row) <= page + 4095 and load_i64(row + 8) >= page:
            return True
    return False


@jit
def watched(S, va, size, kinds):
    """Leave the loop if a watchpoint wants to see this access, which has not happened yet; tell whether."""
    if S[st.STEPPING] & st.PASS_WATCHES:
        return False
    for i in range(S[st.WATCHES]):
        row = S[st.WATCHES_HOST] + i * st.WATCH_WORDS * 8
        if load_i64(row) <= va + size - 1 and load_i64(row + 8) >= va and load_i64(row + 16) & kinds:
            S[st.WATCH_HIT] = i + 1
            S[st.EXIT] = st.EXIT_DEBUG
            return True
    return False
