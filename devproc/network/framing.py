"""Frames on a stream socket, each behind its length in four bytes, as QEMU's ``-netdev stream`` and passt have them.

A burst leaves with one ``sendmsg`` per 32 kB from where the frames are: passt (2023) loses its place when a read ends
inside a length, and so much arrives together. What the socket does not take is copied, once, and until that has gone
the card is told to wait: nothing but the rest of one burst ever lies here. A peer that takes nothing for a second is
one that the guest no longer waits for; its frames are lost, and counted, until it reads again.

What arrives is read by as much as there is, up to 256 KiB at once, and delivered from there. A frame that the card has
no room for stays, with all behind it, and then the socket is not read: the peer's own end tells it to wait.

With ``headers`` the 12 bytes of virtio-net (virtio 1.2 §5.1.6) are in front of each frame and count in its length, so
that two of our machines need neither checksums nor segments between them. QEMU has no such thing.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from devproc.alarm import Alarm
from devproc.descriptors import GONE, READ, WRITE, Descriptors
from devproc.network.backend import PLAIN, Buffer, Pieces
from devproc.network.frame import ETHERNET, FRAME_MAX, HEADER

STALL_S = 1.0
"""A peer that has taken nothing for so long is not waited for."""
COUNTERS = ("frames_peer_slow", "frames_too_long", "frames_too_short", "bad_lengths")
"""What a framing counts."""

_LENGTH = struct.Struct(">I")
_READ = 1 << 18  # bytes at once
_BURST = (
    32_000  # bytes of whole frames at once, which a UNIX socket carries in one piece (af_unix.c, UNIX_SKB_FRAGS_SZ)
)
_PIECES = 1000  # of a burst; the kernel takes 1024 (IOV_MAX)


class Sink(Protocol):
    """Who gets the frames: a ``Card``, or a port of a hub."""

    def deliver(self, frame: Buffer, header: Buffer = PLAIN) -> bool:
        """Take a frame, or say that there is no room; it is good until this returns."""

    def writable(self) -> None:
        """Sending, refused before, is worth another try."""


class Framing:
    """One connection; it owns its socket, and counts in ``counters``, which outlives it."""

    def __init__(
        self,
        peer: socket.socket,
        descriptors: Descriptors,
        sink: Sink,
        ended: Callable[[str], None],
        counters: dict[str, int],
        *,
        headers: bool = False,
        listening: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a connected ``peer``; ``ended`` is called once, with a reason for people, after all is closed."""
        peer.setblocking(False)
        self._peer, self._descriptors, self._sink, self._ended, self._clock = peer, descriptors, sink, ended, clock
        self._counters = counters
        for name in COUNTERS:
            counters.setdefault(name, 0)
        self._prefix = HEADER if headers else 0
        self._alarm = Alarm()
        self._closed = False
        # to the peer
        self._burst: list[Buffer] = []
        self._burst_size = 0
        self._rest = memoryview(b"")
        self._progress = 0.0
        self._stalled = False
        self._refused = False
        self._broken = ""
        # from the peer
        self._buffer = memoryview(bytearray(_READ + _LENGTH.size + HEADER + FRAME_MAX))
        self._start = self._end = 0
        self._held = False
        self._wanted = listening
        self._events = READ if listening else 0
        descriptors.watch(peer.fileno(), self._happened, self._events)
        descriptors.watch(self._alarm.fd, self._rang)

    # to the peer

    def send(self, header: Buffer, frame: Pieces) -> bool:
        """Put a frame into the burst, which ``flush`` ends; ``False``: the peer is behind, ``writable`` will follow."""
        size = sum(map(len, frame)) + self._prefix
        if self._burst and (self._burst_size + size > _BURST or len(self._burst) + len(frame) > _PIECES):
            self.flush()
        if self._rest:
            if self._stalled:
                self._counters["frames_peer_slow"] += 1
                return True
            self._refused = True
            return False
        if size > FRAME_MAX + self._prefix:
            self._counters["frames_too_long"] += 1
            return True
        if self._prefix:
            self._burst += (_LENGTH.pack(size), header, *frame)
        else:
            self._burst += (_LENGTH.pack(size), *frame)
        self._burst_size += size + _LENGTH.size
        return True

    def flush(self) -> None:
        """Send the burst, and copy what the socket does not take."""
        burst = self._burst
        if not burst:
            return
        self._burst, self._burst_size = [], 0
        if self._broken or self._closed:
            return
        if len(burst) > _PIECES:  # one frame of very many pieces
            burst = [b"".join(burst)]
        try:
            sent = self._peer.sendmsg(burst)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._break(error.strerror or "not writable")
            return
        for place, piece in enumerate(burst):
            if sent < len(piece):
                self._rest = memoryview(b"".join((memoryview(piece)[sent:], *burst[place + 1 :])))
                self._progress = self._clock()
                self._alarm.set(STALL_S)
                self._want()
                return
            sent -= len(piece)

    def _break(self, reason: str) -> None:
        """End it, but from a handler: whoever sends is in the middle of something."""
        self._broken = reason
        try:
            self._peer.shutdown(socket.SHUT_RDWR)  # the poll of it says HUP from now on, also where only EPIPE was said
        except OSError:
            pass

    def _drain(self) -> None:
        """Send what was copied."""
        try:
            sent = self._peer.send(self._rest)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error.strerror or "not writable")
            return
        self._progress = self._clock()
        self._rest = self._rest[sent:]
        if not self._rest:
            self._rest = memoryview(b"")  # lets go of the copy
            self._stalled = False
            self._want()
            self._tell()

    def _tell(self) -> None:
        if self._refused:
            self._refused = False
            self._sink.writable()

    # from the peer

    def listen(self, *, wanted: bool) -> None:
        """Read from the peer, or leave it waiting; frames that were held come soon, but not from in here."""
        self._wanted = wanted
        if wanted and self._held and not self._closed:
            self._alarm.set(0)
        self._want()

    def _read(self) -> None:
        view = self._buffer
        rest = self._end - self._start
        if self._start:
            view[:rest] = view[self._start : self._end]  # less than a frame
        self._start, self._end = 0, rest
        try:
            count = self._peer.recv_into(view[rest : rest + _READ])
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(error.strerror or "not readable")
            return
        if not count:
            self._finish(self._broken or "hung up")
            return
        self._end += count
        self._parse()

    def _parse(self) -> None:
        """Deliver the frames that are whole."""
        view, prefix, deliver = self._buffer, self._prefix, self._sink.deliver
        start, end = self._start, self._end
        self._held = False
        while end - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(view, start)
            if size > FRAME_MAX + prefix:
                self._counters["bad_lengths"] += 1
                self._finish(f"sent a frame of {size} bytes")
                return
            body = start + _LENGTH.size
            if end - body < size:
                break
            if size < ETHERNET + prefix:
                self._counters["frames_too_short"] += 1
            elif prefix:
                if not deliver(view[body + HEADER : body + size], view[body : body + HEADER]):
                    self._held = True
                    break
            elif not deliver(view[body : body + size]):
                self._held = True
                break
            if self._closed:
                return
            start = body + size
        self._start = start
        self._want()

    # both

    def _want(self) -> None:
        if self._closed:
            return
        events = (READ if self._wanted and not self._held else 0) | (WRITE if self._rest else 0)
        if events != self._events:
            self._events = events
            self._descriptors.want(self._peer.fileno(), events)

    def _happened(self, events: int) -> None:
        if events & WRITE and self._rest and not self._broken:
            self._drain()
        if self._closed:
            return
        if events & READ and self._events & READ and not self._broken:
            self._read()
        elif events & GONE:
            self._finish(self._broken or "hung up")

    def _rang(self, _events: int) -> None:
        """Go on with what was held; see whether the peer has stalled."""
        self._alarm.acknowledge()
        if self._held and self._wanted:
            self._parse()
        if self._closed or not self._rest or self._stalled:
            return
        left = self._progress + STALL_S - self._clock()
        if left > 0:
            self._alarm.set(left)
        else:
            self._stalled = True
            self._tell()

    def _finish(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._ended(reason)
            self._tell()

    def close(self) -> None:
        """Close the connection and say nothing."""
        if self._closed:
            return
        self._closed = True
        self._descriptors.unwatch(self._peer.fileno())
        self._descriptors.unwatch(self._alarm.fd)
        self._peer.close()
        self._alarm.close()
        self._burst, self._rest = [], memoryview(b"")
