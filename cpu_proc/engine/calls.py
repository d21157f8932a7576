"""Calls of back-ends: an eventfd that somebody writes becomes an interrupt of the guest, without Python.

A back-end of vhost-user says that buffers are used by writing an eventfd, a peer of ivshmem rings by one, and neither
knows of the interrupt page. The thread that is in here sleeps until one of these descriptors is written. If the guest
has MSI-X on and the vector unmasked, and its message goes to an interrupt file of a hart, the message is posted there
and then. Otherwise the thread does what a device does: it counts the source's word up, stores ``look``, writes the
interrupt eventfd (``protocol.layout.IrqPage``), and ``pcie.root`` looks after masks and pending bits.

Control word, vector and table entry are read from the device's page each time: the guest and the device change them
at any moment. A row that is taken away is not touched once ``SERVING`` was seen to be 0 after that.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import entry, jit
from cpu_proc.engine.native import call_3, call_4, fence, load_i32, load_i64, load_u16, store_8, store_64
from cpu_proc.engine.posts import post

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

# slots of the vector that ``cpu_proc.calls`` fills
(
    EPOLL_WAIT_FUNCTION,
    READ_FUNCTION,
    WRITE_FUNCTION,
    EPOLL_FD,
    STOP_FD,
    IRQ_FD,
    EVENTS_HOST,
    EVENTS,
    EVENT_SIZE,
    EVENT_DATA,
    BUFFER_HOST,
    ONE_HOST,
    WORDS_HOST,
    LOOK_HOST,
    ROWS_HOST,  # one row per source
    SERVING,
    HARTS,  # 0: messages are not sent from here
    HARTS_HOST,
    IMSIC_S_BASE,
    IMSIC_M_BASE,
    SIZE,
) = range(21)

ROW_WORDS = 8
(
    ROW_FD,  # what an event has to be of; -1: none
    ROW_CONTROL,  # where the control word of MSI-X is; 0: Python delivers
    ROW_VECTOR,  # where the device says which vector it is
    ROW_TABLE,
    ROW_VECTORS,
    ROW_SENT,  # messages that were sent from here
) = range(6)
MSIX_ENABLE, MSIX_MASK_ALL, ENTRY_MASKED = 0x8000, 0x4000, 1


@entry
def serve_calls(S):
    """Serve until ``STOP_FD`` is written. An event's data is the descriptor, and above it the source."""
    while True:
        found = call_4(S[EPOLL_WAIT_FUNCTION], S[EPOLL_FD], S[EVENTS_HOST], S[EVENTS], -1) & 0xFFFFFFFF
        if found > S[EVENTS]:
            continue  # interrupted by a signal
        S[SERVING] = 1
        fence(0)  # whoever takes a row away sees that we serve, or we see that it is gone
        counted = 0
        for index in range(found):
            at = S[EVENTS_HOST] + index * S[EVENT_SIZE] + S[EVENT_DATA]
            fd, source = load_i32(at), load_i32(at + 4)
            if fd == S[STOP_FD]:
                return
            row = S[ROWS_HOST] + source * (ROW_WORDS * 8)
            if load_i64(row + ROW_FD * 8) != fd:
                continue
            if call_3(S[READ_FUNCTION], fd, S[BUFFER_HOST], 8) == 8 and not sent(S, row):
                word = S[WORDS_HOST] + 8 * source
                store_64(word, load_i64(word) + 1)
                counted += 1
        fence(0)
        S[SERVING] = 0
        if counted:
            fence(0)  # words, then look, then the wake (DESIGN §6)
            store_8(S[LOOK_HOST], 1)
            fence(0)
            call_3(S[WRITE_FUNCTION], S[IRQ_FD], S[ONE_HOST], 8)


@jit
def sent(S, row):
    """Post the message of a call to a hart, if nothing stands in the way; tell whether that is done."""
    control = load_i64(row + ROW_CONTROL * 8)
    if control == 0 or load_u16(control) & (MSIX_ENABLE | MSIX_MASK_ALL) != MSIX_ENABLE:
        return False
    vector = load_u16(load_i64(row + ROW_VECTOR * 8))
    if vector >= load_i64(row + ROW_VECTORS * 8):
        return False
    entry_host = load_i64(row + ROW_TABLE * 8) + vector * 16
    if load_i32(entry_host + 12) & ENTRY_MASKED:
        return False
    address, identity = load_i64(entry_host) & -4, load_i32(entry_host + 8)
    here, file = address - S[IMSIC_S_BASE], st.POSTED_SI0
    if here < 0 or here >= S[HARTS] << 12:
        here, file = address - S[IMSIC_M_BASE], st.POSTED_MI0
    if here < 0 or here >= S[HARTS] << 12 or here & 0xFFF or identity <= 0 or identity > 255:
        return False
    target = load_i64(S[HARTS_HOST] + (here >> 12) * 8)
    post(target, file + (identity >> 6), 1 << (identity & 63), S[WRITE_FUNCTION], S[ONE_HOST])
    store_64(row + ROW_SENT * 8, load_i64(row + ROW_SENT * 8) + 1)
    return True
