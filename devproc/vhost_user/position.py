"""Where a ring goes on after a back-end that has ended without a word.

Only the rings themselves are left. The used index counts the requests that came back; it is the position in the
available ring too if none is under way, or if those under way are the last ones. With in-flight tables that need not be
so, since the back-end finds the others there. Without them the rings cannot tell: of a request that came back before
an earlier one did nothing remains but its number among others, and to do it again would be to do what the guest has
put into its place.
"""

from __future__ import annotations

import socket

from devproc.virtqueue import QueueRecord
from protocol.memory import GuestMemory
from protocol.peer import credentials

_START_TIME = 19  # fields behind the name in /proc/PID/stat (proc_pid_stat(5))


def used_index(memory: GuestMemory, record: QueueRecord) -> int:
    """Return the index of the used ring, whose place has been checked."""
    return memory.load(record.device + 2, 2) or 0


def idle(memory: GuestMemory, record: QueueRecord) -> bool:
    """Tell whether every request has come back."""
    return used_index(memory, record) == memory.load(record.driver + 2, 2)


def identity(sock: socket.socket) -> int:
    """Return a number for the process that listens at the other end, another for each; 0 if it cannot be told.

    One that is still the same has finished, when its connection ended, all it had taken.
    """
    pid = credentials(sock).pid
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[_START_TIME]) << 32 & (1 << 64) - 1 | pid
    except (OSError, IndexError, ValueError):
        return 0
