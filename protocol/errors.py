"""The exception tree.

Exceptions stand for our own faults and the host's. What a guest does wrong is never one: it reads all-ones, its
writes are dropped, a counter goes up.

    BusvmError
    ├── ConfigError      the user's configuration; exit status 2
    ├── NotFound         no such VM or device; exit status 3
    ├── HostError        the host refuses a resource; exit status 4
    └── ProtocolError    a peer breaks a contract of this package
        ├── Malformed        a message that is not what its type says
        ├── VersionMismatch  a layout or message version this build does not know
        ├── StaleEpoch       a message of an earlier device incarnation
        ├── Refused          the peer answered that it will not do what it was asked
        └── PeerGone         the peer has closed the connection, or takes nothing from it
"""

from __future__ import annotations

SOFTWARE = 70  # exit status of a process after a fault of our own, with a traceback in its log (EX_SOFTWARE)


class BusvmError(Exception):
    """Base of all: one line for people, and a hint on what to do about it.

    ``exit_status`` is what a command ends with (DESIGN §11).
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BusvmError):
    """The configuration names something wrong; the message has file, line and key."""

    exit_status = 2


class NotFound(BusvmError):
    """No VM or device of that name."""

    exit_status = 3


class HostError(BusvmError):
    """The host refused something: a file, memory, a program that is missing."""

    exit_status = 4


class ProtocolError(BusvmError):
    """A peer broke the contract; counted, answered, never the end of a process."""


class Malformed(ProtocolError):
    """Bytes that are no message, or a message with the wrong fields."""


class VersionMismatch(ProtocolError):
    """A version this build does not speak."""


class StaleEpoch(ProtocolError):
    """A message from, or for, an earlier incarnation of the device."""


class Refused(ProtocolError):
    """The peer answered a request with a failure."""


class PeerGone(ProtocolError):
    """The connection has ended."""
