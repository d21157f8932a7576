"""Messages and their descriptors on a socket.

Every descriptor that arrives has one owner: the ``Message``, until ``take_fd`` or ``close``. What comes with a message
that takes none is closed here. Reading never goes beyond the end of a message, since descriptors travel with its first
byte. A non-blocking socket may give a message in pieces; they are kept until it is whole.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Self, TypeVar

from protocol.errors import Malformed, PeerGone, Refused
from protocol.vhost_user.messages import FRONT_END, VERSION, Flag, Kind, Table
from protocol.vhost_user.payloads import CONFIG_MAX, NOTHING, U64, Payload, ShmemConfig

HEADER = struct.Struct("=III")  # request, flags, size of the payload
PAYLOAD_MAX = max(4096, CONFIG_MAX + 12, ShmemConfig.FORMAT.size)
FDS_MAX = 8

P = TypeVar("P", bound=Payload)


class BadFrame(Malformed):
    """The stream cannot be followed any further; the connection is of no more use."""


class BadMessage(Malformed):
    """A message that is not what its number says; what follows it can be read."""

    def __init__(self, text: str, *, number: int, flags: int) -> None:
        super().__init__(text)
        self.number = number
        self.flags = flags


class Message:
    """A message that arrived, with its descriptors."""

    def __init__(self, kind: Kind, flags: int, payload: Payload, fds: list[int]) -> None:
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.fds = fds

    @property
    def wants_ack(self) -> bool:
        """Whether the sender waits for an acknowledgement, if that was agreed on."""
        return bool(self.flags & Flag.NEED_REPLY) and self.kind.row.reply is None

    def get(self, layout: type[P]) -> P:
        """Return the payload, which the table says is a ``layout``."""
        if not isinstance(self.payload, layout):
            raise TypeError(f"{self.kind.name} carries {type(self.payload).__name__}, not {layout.__name__}")
        return self.payload

    def take_fd(self) -> int:
        """Return the next descriptor, which is the caller's now; -1 when there is none."""
        return self.fds.pop(0) if self.fds else -1

    def close(self) -> None:
        """Close what nobody has taken."""
        _close(self.fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """One end of a vhost-user socket; ``incoming`` has the requests that may arrive."""

    def __init__(self, sock: socket.socket, incoming: Table = FRONT_END) -> None:
        self.socket = sock
        self.stray_fds = 0
        self._incoming = incoming
        self._data = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket, and descriptors of a message that never became whole."""
        _close(self._fds)
        self.socket.close()

    # sending

    def send(self, kind: Kind, payload: Payload = NOTHING, fds: Sequence[int] = (), *, flags: int = 0) -> None:
        """Send a request, or with ``Flag.REPLY`` an answer; ``fds`` stay the caller's.

        Raises:
            Malformed: the payload cannot be expressed.
            PeerGone: the peer has closed the connection, or does not read.
        """
        body = payload.pack()
        data = HEADER.pack(kind, VERSION | flags, len(body)) + body
        try:
            sent = socket.send_fds(self.socket, [data], list(fds)) if fds else self.socket.send(data)
            while sent < len(data):
                sent += self.socket.send(data[sent:])
        except OSError as error:
            raise PeerGone(f"{kind.name} cannot be sent: {error.strerror or error}") from error

    def reply(self, message: Message, payload: Payload, fds: Sequence[int] = ()) -> None:
        """Answer a request."""
        self.send(message.kind, payload, fds, flags=Flag.REPLY)

    def acknowledge(self, kind: Kind, *, done: bool) -> None:
        """Say whether a request that has no answer of its own was done."""
        self.send(kind, U64(0 if done else 1), flags=Flag.REPLY)

    # receiving

    def receive(self) -> Message | None:
        """Return the next request; ``None`` when none is there yet.

        Raises:
            BadFrame: a header that is none; nothing can be read any more.
            BadMessage: an unknown request, or not with what it must have; the next can be read.
            PeerGone: the peer has closed the connection.
        """
        frame = self._frame()
        if frame is None:
            return None
        number, flags, body, fds = frame
        try:
            kind = self._incoming.get(number)
            if kind is None or flags & Flag.REPLY:
                what = "an answer to nothing" if kind else "unknown"
                raise BadMessage(f"request {number} is {what}", number=number, flags=flags)
            return self._message(kind, flags, body, fds, kind.row.payload)
        except BaseException:
            _close(fds)
            raise

    def receive_reply(self, kind: Kind, *, ack: bool = False) -> Message:
        """Return the answer to ``kind``, or its acknowledgement; for a blocking socket.

        Raises:
            BadFrame, BadMessage: it is none, or another one's.
            Refused: the acknowledgement is a no.
            PeerGone: the peer has closed the connection, or says nothing for the socket's timeout.
        """
        frame = self._frame()
        if frame is None:
            raise PeerGone(f"no answer to {kind.name}")
        number, flags, body, fds = frame
        try:
            if number != kind or not flags & Flag.REPLY:
                raise BadMessage(f"message {number} instead of {kind.name}'s answer", number=number, flags=flags)
            layout = U64 if ack else kind.row.reply
            message = self._message(kind, flags, body, fds, layout, reply=True)
            if ack and isinstance(message.payload, U64) and message.payload.value:
                raise Refused(f"{kind.name} was refused: {message.payload.value}")
            return message
        except BaseException:
            _close(fds)
            raise

    def _message(
        self, kind: Kind, flags: int, body: bytes, fds: list[int], layout: type[Payload] | None, *, reply: bool = False
    ) -> Message:
        try:
            payload = layout.unpack(body) if layout else NOTHING
            fewest, most = kind.count_wanted(payload, reply=reply)
            if most == 0 and fds:
                self.stray_fds += len(fds)
                _close(fds)
            if not fewest <= len(fds) <= most:
                raise Malformed(f"{len(fds)} descriptors, not {most}")
        except Malformed as error:
            raise BadMessage(f"{kind.name}: {error.message}", number=kind, flags=flags) from error
        return Message(kind, flags, payload, fds)

    def _frame(self) -> tuple[int, int, bytes, list[int]] | None:
        """Return request, flags, payload and descriptors of the next whole message."""
        while True:
            have = len(self._data)
            size = 0
            if have >= HEADER.size:
                number, flags, size = HEADER.unpack_from(self._data)
                if flags & Flag.VERSION != VERSION:
                    raise BadFrame(f"version {flags & Flag.VERSION}, this build speaks {VERSION}")
                if size > PAYLOAD_MAX:
                    raise BadFrame(f"request {number} with {size} bytes, at most {PAYLOAD_MAX}")
                if have == HEADER.size + size:
                    body, fds = bytes(self._data[HEADER.size :]), self._fds
                    self._data, self._fds = bytearray(), []
                    return number, flags, body, fds
            if not self._read(HEADER.size + size - have):
                return None

    def _read(self, wanted: int) -> bool:
        """Add up to ``wanted`` bytes and what travels with them; return whether some were there."""
        first = not self._data
        fds = array.array("i")
        try:  # not socket.recv_fds: it takes flags and ignores them, at least up to Python 3.11
            data, extra, mark, _ = self.socket.recvmsg(
                wanted, socket.CMSG_LEN(FDS_MAX * fds.itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            raise PeerGone(f"connection: {error.strerror}") from error
        for level, kind, part in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
        self._fds += fds
        if mark & socket.MSG_CTRUNC:
            raise BadFrame(f"more than {FDS_MAX} descriptors in a message")
        if not data:
            raise PeerGone("closed within a message" if self._data else "closed")
        if fds and not first:
            raise BadFrame("descriptors in the middle of a message")
        self._data += data
        return True


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
