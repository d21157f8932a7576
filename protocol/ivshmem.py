"""ivshmem's client-server protocol, version 0 (QEMU docs/specs/ivshmem-spec.rst), and the dialect of our own peers.

Words of 8 bytes, little-endian and signed, each with one descriptor or none. The server says in order: version 0, the
client's id, -1 with the shared memory, then id and descriptor once per vector for each other peer, and at last the
client's own id with the descriptors that it is rung by. Later, id and descriptor: a peer joins; id alone: it leaves.
The client says nothing; how many vectors there are is nowhere said.

The dialect, on a socket beside the first, has what version 0 lacks: the client begins (``ivshmem_hello``). The server
answers with version 0 and the number of vectors, and goes on as above; or with a ``Refusal``.

Nothing here waits: a ``Receiver`` takes what has arrived, a ``Session`` is told message by message.
"""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from protocol.errors import Malformed, PeerGone, Refused, VersionMismatch
from protocol.eventfd import accept

VERSION = 0
MEMORY = -1
NOBODY = -1
IDS = 1 << 16
VECTORS_MAX = 2048  # MSI-X has no more (PCI 3.0 §6.8.2)

_WORD = struct.Struct("<q")
_FD = array.array("i").itemsize


class Refusal(IntEnum):
    """What the server answers in place of the version when it takes a peer of ours not."""

    NAME_TAKEN = -2  # a peer of that name is there
    FULL = -3  # as many peers as there may be, or no descriptors left
    BAD_HELLO = -4  # not the dialect
    LATE = -5  # it took too long to say who it is


class TryAgain(Refused):
    """The server takes us not now."""


class Message(NamedTuple):
    """A word, and the descriptor that came with it, which belongs to who has the message."""

    value: int
    fd: int | None = None

    def drop(self) -> None:
        """Close the descriptor."""
        if self.fd is not None:
            os.close(self.fd)


def encode(value: int) -> bytes:
    """Return the bytes of a word."""
    return _WORD.pack(value)


def send(sock: socket.socket, value: int, fd: int | None = None) -> None:
    """Send a word, and a descriptor that stays the caller's; raises ``BlockingIOError`` when there is no room."""
    extra = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sock.sendmsg([_WORD.pack(value)], extra, socket.MSG_NOSIGNAL)


def same_doorbells(some: list[int], others: list[int]) -> bool:
    """Return whether the eventfds are the same, one by one; not, where the host does not tell."""
    return len(some) == len(others) and all(
        (one := _eventfd_id(a)) is not None and one == _eventfd_id(b) for a, b in zip(some, others, strict=True)
    )


def _eventfd_id(fd: int) -> str | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            return next((line for line in info if line.startswith("eventfd-id:")), None)
    except OSError:
        return None


def close_all(fds: list[int]) -> None:
    """Close descriptors, and forget them."""
    for fd in fds:
        os.close(fd)
    fds.clear()


class Receiver:
    """Takes messages from a stream socket, one at a time: the kernel joins words of which one has a descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._data = b""
        self._fd: int | None = None

    def receive(self) -> Message | None:
        """Return the next message, or ``None`` when it is not there yet.

        Raises:
            PeerGone: the other end has closed the connection.
            Malformed: two descriptors with one word, or one for which this process has no room.
        """
        while len(self._data) < _WORD.size:
            try:
                data, extra, flags, _ = self._socket.recvmsg(
                    _WORD.size - len(self._data), socket.CMSG_SPACE(4 * _FD), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                raise PeerGone(f"the connection broke: {error.strerror}") from error
            self._keep(extra, cut=bool(flags & socket.MSG_CTRUNC))
            if not data:
                inside = " inside a message" if self._data else ""
                raise PeerGone(f"the other end closed the connection{inside}")
            self._data += data
        message = Message(_WORD.unpack(self._data)[0], self._fd)
        self._data, self._fd = b"", None
        return message

    def _keep(self, extra: list[tuple[int, int, bytes]], *, cut: bool) -> None:
        found: list[int] = []
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(data[: len(data) // _FD * _FD])
                found.extend(fds)
        if cut or len(found) + (self._fd is not None) > 1:
            close_all(found)
            reason = "descriptors did not fit" if cut else "more than one descriptor with a word"
            raise Malformed(reason, hint="raise the limit of open files" if cut else None)
        if found:
            self._fd = found[0]

    def close(self) -> None:
        """Close a descriptor whose word has not come."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True)
class Joined:
    """A peer can be rung."""

    peer: int


@dataclass(frozen=True)
class Left:
    """A peer is gone; its id may be another's later."""

    peer: int


class Stage(Enum):
    """What a client expects next."""

    VERSION = "the version"
    VECTORS = "the number of vectors"
    ID = "an id"
    MEMORY = "the shared memory"
    PEERS = "a peer"


@dataclass
class Session:
    """A client's side: what the server has said so far; the descriptors are the session's until ``close``."""

    dialect: bool = False
    vectors: int = 0  # 0: not known
    stage: Stage = Stage.VERSION
    id: int = NOBODY
    memory: int = -1
    own: list[int] = field(default_factory=list)
    peers: dict[int, list[int]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all own vectors are there; without their number, whether the first is."""
        return len(self.own) >= max(1, self.vectors)

    def take(self, message: Message) -> Joined | Left | None:
        """Take a message in, with its descriptor.

        Raises:
            VersionMismatch: the server speaks another version.
            Refused: the server said why it does not take this client.
            Malformed: it is not what comes at this place.
        """
        try:
            return self._take(message)
        except BaseException:
            message.drop()
            raise

    def _take(self, message: Message) -> Joined | Left | None:
        value, fd = message
        if self.stage is Stage.PEERS:
            return self._peer(value, fd)
        if (fd is not None) is not (self.stage is Stage.MEMORY):
            raise Malformed(
                f"{value} {'without' if fd is None else 'with'} a descriptor in place of {self.stage.value}"
            )
        if self.stage is Stage.VERSION:
            self._version(value)
            self.stage = Stage.VECTORS if self.dialect else Stage.ID
        elif self.stage is Stage.VECTORS:
            if not 0 < value <= VECTORS_MAX:
                raise Malformed(f"{value} vectors: there are 1 to {VECTORS_MAX}")
            self.vectors = value
            self.stage = Stage.ID
        elif self.stage is Stage.ID:
            self.id = checked_id(value)
            self.stage = Stage.MEMORY
        else:
            if value != MEMORY:
                raise Malformed(f"{value} in place of -1 and the shared memory")
            assert fd is not None
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                raise Malformed("what came as the shared memory is none")
            self.memory = fd
            self.stage = Stage.PEERS
        return None

    def _version(self, value: int) -> None:
        if self.dialect and value in Refusal.__members__.values():
            kind = TryAgain if value in (Refusal.FULL, Refusal.LATE) else Refused
            raise kind(f"the server takes us not: {Refusal(value).name.lower().replace('_', ' ')}")
        if value != VERSION:
            raise VersionMismatch(f"the server speaks version {value} of ivshmem's protocol, not 0")

    def _peer(self, value: int, fd: int | None) -> Joined | Left | None:
        peer = checked_id(value)
        if fd is None:
            if peer not in self.peers:
                raise Malformed(f"peer {peer} leaves, which never came")
            close_all(self.peers.pop(peer))
            return Left(peer)
        if not accept(fd):  # who rings, or looks whether it was rung, never waits
            raise Malformed(f"the descriptor of peer {peer} is no eventfd")
        fds = self.own if peer == self.id else self.peers.get(peer, [])
        if len(fds) >= (self.vectors or VECTORS_MAX):
            raise Malformed(f"peer {peer} has more than {len(fds)} vectors")
        fds.append(fd)
        if peer == self.id:
            return None
        self.peers[peer] = fds
        return Joined(peer) if len(fds) == max(1, self.vectors) else None

    def close(self) -> None:
        """Close every descriptor."""
        for fds in [self.own, *self.peers.values()]:
            close_all(fds)
        self.peers.clear()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


def checked_id(value: int) -> int:
    """Return ``value``.

    Raises:
        Malformed: it is no id of a peer.
    """
    if not 0 <= value < IDS:
        raise Malformed(f"{value} is no id: they are 0 to {IDS - 1}")
    return value
