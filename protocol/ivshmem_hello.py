"""How a peer of ours begins in the dialect of ivshmem's protocol: who it is, and what it has.

Words as all others: a magic word, the id that it had or -1, its name in eight words, its flags, the descriptors that it
knows as id and descriptor, then -1. With the flags a lifeline may come: the read end of a pipe, or a socket, that hangs
up when who stands behind the peer is gone. A peer is a process that serves a guest's device, and may be killed and
started again; its guest lives on, and has doorbells and memory.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
from dataclasses import dataclass, field
from enum import IntFlag

from protocol.errors import Malformed
from protocol.eventfd import is_eventfd
from protocol.ivshmem import NOBODY, VECTORS_MAX, Message, checked_id, close_all

MAGIC = int.from_bytes(b"busvmiv2", "little")
NAME_BYTES = 64
KNOWN_MAX = 256  # ids in a hello, as many as a server has peers

_WORD = struct.Struct("<q")
_FLAGS = 2 + NAME_BYTES // _WORD.size  # where they are
_HANG_UP = select.POLLHUP | select.POLLRDHUP | select.POLLERR | select.POLLNVAL


class Flag(IntFlag):
    """What else a peer says of itself."""

    READONLY = 1  # it is to have the memory for reading


def checked_lifeline(fd: int) -> int:
    """Return ``fd``.

    Raises:
        Malformed: it is no descriptor that hangs up when its other end is closed.
    """
    kind = os.fstat(fd).st_mode
    if stat.S_ISFIFO(kind) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return fd
    if stat.S_ISSOCK(kind) and _is_connected(fd):
        return fd
    raise Malformed("the lifeline does not hang up", hint="the read end of a pipe, or a connected stream socket")


def _is_connected(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            sock.getpeername()
        except OSError:
            return False
        return sock.type == socket.SOCK_STREAM


def hung_up(lifeline: int) -> bool:
    """Return whether who held the other end is gone."""
    poll = select.poll()
    poll.register(lifeline, select.POLLRDHUP)
    return any(events & _HANG_UP for _, events in poll.poll(0))


@dataclass
class Hello:
    """A server's side: what was said so far, whose descriptors are the hello's; also what a client says."""

    id: int = NOBODY
    name: str = ""
    known: dict[int, list[int]] = field(default_factory=dict)
    """By id: descriptors that ring it, of the client itself and of others."""
    readonly: bool = False
    lifeline: int | None = None
    complete: bool = False
    _words: int = 0
    _name: bytes = b""

    def words(self) -> list[tuple[int, int | None]]:
        """Return what a client sends."""
        name = self.name.encode().ljust(NAME_BYTES, b"\0")
        words: list[tuple[int, int | None]] = [(MAGIC, None), (self.id, None)]
        words += [(_WORD.unpack_from(name, at)[0], None) for at in range(0, NAME_BYTES, _WORD.size)]
        words += [(int(Flag.READONLY if self.readonly else 0), self.lifeline)]
        words += [(peer, fd) for peer, fds in self.known.items() for fd in fds]
        return [*words, (NOBODY, None)]

    def take(self, message: Message, vectors: int = VECTORS_MAX) -> None:
        """Take a message in, with its descriptor, of which there are no more than ``vectors`` of a peer.

        Raises:
            Malformed: it is not what comes at this place.
        """
        try:
            self._take(message, vectors)
        except BaseException:
            message.drop()
            raise

    def _take(self, message: Message, vectors: int) -> None:
        value, fd = message
        if self.complete or (fd is not None and self._words < _FLAGS):
            raise Malformed("a word or descriptor where a hello has none")
        if self._words == 0 and value != MAGIC:
            raise Malformed("not a peer of busvm: those of QEMU connect to the other socket, and say nothing")
        if self._words == 1:
            self.id = value if value == NOBODY else checked_id(value)
        if 2 <= self._words < _FLAGS:
            self._name += _WORD.pack(value)
            if self._words == _FLAGS - 1:
                self.name = checked_name(self._name.rstrip(b"\0"))
        if self._words == _FLAGS:
            self._flags(value, fd)
        if self._words > _FLAGS:
            self._descriptor(value, fd, vectors)
        self._words = min(self._words + 1, _FLAGS + 1)

    def _flags(self, value: int, lifeline: int | None) -> None:
        if value & ~int(Flag.READONLY):
            raise Malformed(f"flags {value:#x} of a hello are not known")
        self.readonly = bool(value & Flag.READONLY)
        self.lifeline = None if lifeline is None else checked_lifeline(lifeline)

    def _descriptor(self, value: int, fd: int | None, vectors: int) -> None:
        if fd is None:
            if value != NOBODY:
                raise Malformed(f"peer {value} without a descriptor in a hello")
            self.complete = True
            return
        fds = self.known.get(checked_id(value), [])
        if len(fds) >= vectors or (not fds and len(self.known) >= KNOWN_MAX):
            raise Malformed("more descriptors than a hello may have")
        if not is_eventfd(fd):
            raise Malformed(f"the descriptor of peer {value} is no eventfd")
        fds.append(fd)
        self.known[value] = fds

    def close(self) -> None:
        """Close the descriptors that nobody has taken out."""
        for fds in self.known.values():
            close_all(fds)
        self.known.clear()
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None


def checked_name(name: bytes) -> str:
    """Return a peer's name.

    Raises:
        Malformed: it is longer than 64 bytes, or not of printable ASCII.
    """
    text = name.decode("ascii", errors="replace")
    if len(name) > NAME_BYTES or not text.isprintable() or not text.isascii():
        raise Malformed(f"{text!r} is no name of a peer", hint=f"up to {NAME_BYTES} printable ASCII characters")
    return text
