"""Calls of back-ends: an eventfd that somebody writes becomes a count in the interrupt page, without Python.

A back-end of vhost-user says that buffers are used by writing an eventfd, and knows nothing of the interrupt page. The
thread that is in here sleeps until one of these descriptors is written and then does what a device does: it counts
the source's word up, stores ``look``, writes the interrupt eventfd (``protocol.layout.IrqPage``).
"""

from __future__ import annotations

from cpu_proc.engine.jit import entry
from cpu_proc.engine.native import call_3, call_4, fence, load_i32, load_i64, store_8, store_64

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
    SIZE,
) = range(15)


@entry
def serve_calls(S):
    """Serve until ``STOP_FD`` is written. An event's data is the descriptor, and above it the source."""
    while True:
        found = call_4(S[EPOLL_WAIT_FUNCTION], S[EPOLL_FD], S[EVENTS_HOST], S[EVENTS], -1) & 0xFFFFFFFF
        if found > S[EVENTS]:
            continue  # interrupted by a signal
        counted = 0
        for index in range(found):
            at = S[EVENTS_HOST] + index * S[EVENT_SIZE] + S[EVENT_DATA]
            fd, source = load_i32(at), load_i32(at + 4)
            if fd == S[STOP_FD]:
                return
            if call_3(S[READ_FUNCTION], fd, S[BUFFER_HOST], 8) == 8:
                word = S[WORDS_HOST] + 8 * source
                store_64(word, load_i64(word) + 1)
                counted += 1
        if counted:
            fence(0)  # words, then look, then the wake (DESIGN §6)
            store_8(S[LOOK_HOST], 1)
            fence(0)
            call_3(S[WRITE_FUNCTION], S[IRQ_FD], S[ONE_HOST], 8)
