"""WFI: sleep until an interrupt is due, without Python (RISC-V privileged §3.3.3).

Each sleeping hart waits on its own eventfd; one of them, whoever took the token first, also on the one that devices
write. Harts that run see the devices' ``look`` byte between slices, so nobody has to wait for them.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import call_3, call_4, cas_64, fence, load_u8, store_64, ult
from cpu_proc.engine.traps import MTIP, STIP, now, pending

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

SECOND_NS = 1_000_000_000


@jit
def remaining_ns(S):
    """Return the time until the next timer interrupt, but no more than ``SLEEP_NS``.

    A timer that ``pending`` has found due is masked, or nobody would sleep: it ends no sleep.
    """
    time, due = now(S), -1
    if S[st.TIMER_DUE] & STIP == 0:
        due = S[st.STIMECMP]
    if S[st.TIMER_DUE] & MTIP == 0 and ult(S[st.MTIMECMP], due):
        due = S[st.MTIMECMP]
    if not ult(time, due):
        return 0
    if ult(S[st.SLEEP_NS] // st.TICK_NS, due - time):
        return S[st.SLEEP_NS]
    return (due - time) * st.TICK_NS


@jit
def drain(S, watching):
    """Take what the eventfds hold."""
    call_3(S[st.READ_FUNCTION], S[st.WAKE_FD], S[st.TIMEOUT_HOST], 8)
    if watching:
        call_3(S[st.READ_FUNCTION], S[st.IRQ_FD], S[st.TIMEOUT_HOST], 8)


@jit
def rest(S, watching):
    """Sleep until there is something to do; return whether that is up to Python: time has passed, no more."""
    while S[st.STOP_REQUEST] == 0 and (watching == 0 or load_u8(S[st.LOOK_HOST]) == 0):
        if pending(S) & S[st.MIE]:
            return 0
        left = remaining_ns(S)
        store_64(S[st.TIMEOUT_HOST], left // SECOND_NS)
        store_64(S[st.TIMEOUT_HOST] + 8, left % SECOND_NS)
        woken = call_4(S[st.PPOLL_FUNCTION], S[st.POLLFDS_HOST], 1 + watching, S[st.TIMEOUT_HOST], 0) & 0xFFFFFFFF
        if woken == 0 and left == S[st.SLEEP_NS]:
            return 1
        drain(S, watching)
    return 0


@jit
def wait(S):
    """Sleep; set ``S[EXIT]`` when Python has to see to something before the hart goes on."""
    if S[st.ICOUNT]:
        S[st.EXIT] = st.EXIT_WFI
        return
    watching = 1 if cas_64(S[st.WATCH_HOST], 0, 1) == 0 else 0
    S[st.SLEEPING] = 1
    S[st.RUNNING] = 0
    fence(0)  # whoever posts sees that we sleep, or we see the post
    if rest(S, watching):
        S[st.EXIT] = st.EXIT_WFI
    S[st.SLEEPING] = 0
    if watching:
        store_64(S[st.WATCH_HOST], 0)
    S[st.RUNNING] = 1
    fence(0)
