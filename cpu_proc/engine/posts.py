"""What other threads leave for a hart while it runs: interrupt messages, and requests to forget translations.

A poster sets bits in a ``POSTED_*`` slot, then counts ``WANTED`` up, then wakes the hart if it sleeps. The hart sees
that ``WANTED`` has moved: it collects the interrupts whenever it asks what is pending, and between two slices it obeys
the requests and says so in ``SEEN``. Whoever has to know that waits for it, or for the hart to be out of compiled code.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import entry, jit
from cpu_proc.engine.native import atomic_add, atomic_or, atomic_swap, call_3, fence, load_i64

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def collect(S):
    """Take over the interrupts posted so far."""
    wanted = S[st.WANTED]
    if wanted == S[st.COLLECTED]:
        return
    fence(0)  # the bits were posted before the count
    here = S[st.SELF_HOST]
    S[st.MIP] |= atomic_swap(here + st.POSTED_MIP * 8, 0)
    for word in range(4):
        S[st.MI_EIP0 + word] |= atomic_swap(here + (st.POSTED_MI0 + word) * 8, 0)
        S[st.SI_EIP0 + word] |= atomic_swap(here + (st.POSTED_SI0 + word) * 8, 0)
    S[st.COLLECTED] = wanted


@entry
def post(target, slot, bits, write_function, one_host):
    """Set ``bits`` in a slot of the hart whose state vector is at ``target``; return the number of this post.

    The add is a full barrier: either the hart, about to sleep, sees the post, or we see that it sleeps.
    """
    atomic_or(target + slot * 8, bits)
    number = atomic_add(target + st.WANTED * 8, 1) + 1
    if load_i64(target + st.SLEEPING * 8):
        call_3(write_function, load_i64(target + st.WAKE_FD * 8), one_host, 8)
    return number


@jit
def post_message(S, hart, slot, identity):
    """Make ``identity`` pending in an interrupt file (MSI, AIA §3.2)."""
    if identity > 0 and identity < 256:
        target = load_i64(S[st.HARTS_HOST] + hart * 8)
        bits = 1 << (identity & 63)
        post(target, slot + (identity >> 6), bits, S[st.WRITE_FUNCTION], S[st.ONE_HOST])
