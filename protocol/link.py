"""One end of the ZeroMQ link between ``cpu_proc`` and one incarnation of a device.

PAIR sockets over ``ipc://``; ``cpu_proc`` binds a fresh endpoint per epoch, inside the VM's private folder and under
umask 077. A socket belongs to one thread at a time. Whatever arrives malformed, or from another epoch or another
process than the expected one, is counted and answered with ``Fault``; it never raises.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

from protocol import messages
from protocol.errors import HostError, Malformed

_LINGER_MS = 200
_RETRY_S = 0.01
_SEND_PATIENCE_MS = 50
_UNREAD_MOST = 4096


@dataclass
class LinkCounters:
    """What went wrong on a link, and how much went through it."""

    sent: int = 0
    received: int = 0
    malformed: int = 0
    stale: int = 0
    foreign: int = 0
    faults: int = 0


class Link:
    """A connected or bound end; ``epoch`` is stamped on what it accepts."""

    def __init__(self, endpoint: str, *, epoch: int, bind: bool, peer_pid: int | None = None) -> None:
        """Open the end.

        Raises:
            HostError: the endpoint cannot be bound.
        """
        self.endpoint = endpoint
        self.epoch = epoch
        self.peer_pid = peer_pid
        """Of whom everything is to come; none or 0, a process that this host does not show: of any of this user's."""
        self._uid = str(os.getuid())
        self.counters = LinkCounters()
        self._bound = bind
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self.socket.linger = _LINGER_MS
        self.socket.sndhwm = 0  # posted writes are bounded by the hart waiting for `processed`, not by dropping
        self.socket.rcvhwm = _UNREAD_MOST if bind else 0  # a device that says more than it is asked waits, or forgets
        self.socket.maxmsgsize = messages.MAX_MESSAGE
        # the binding end of a PAIR has no queue before its peer has come, and none after it has died: a send would
        # wait for ever there, and hold whatever lock its caller has
        self.socket.sndtimeo = _SEND_PATIENCE_MS
        if bind and peer_pid:
            with suppress(zmq.ZMQError):  # a library without it: what a stranger sends is refused nevertheless
                self.socket.setsockopt(zmq.IPC_FILTER_PID, peer_pid)  # a stranger would take the peer's one place
        self._backlog: deque[bytes] = deque()
        try:
            if bind:
                self.socket.bind(endpoint)
            else:
                self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise HostError(f"cannot open link {endpoint}: {error.strerror}") from error

    def send(self, message: messages.Any) -> None:
        """Queue one message; the transport keeps the order. Waits 50 ms at most, and never raises for a dead peer."""
        self.counters.sent += 1
        self._backlog.append(messages.encode(message))
        self._flush(0)

    def flush(self) -> bool:
        """Hand over what waits for a peer, if it has come; return whether nothing waits any more."""
        self._flush(zmq.DONTWAIT)
        return not self._backlog

    def _flush(self, flags: int) -> None:
        """Hand over what could not be sent before; without a peer it stays, until the link is closed."""
        while self._backlog:
            try:
                self.socket.send(self._backlog[0], flags, copy=True)
            except zmq.Again:
                return
            self._backlog.popleft()

    def receive(self, timeout_s: float = 0.0) -> messages.Any | None:
        """Return the next good message, or ``None`` when none came in ``timeout_s``."""
        deadline = time.monotonic() + timeout_s if timeout_s else 0.0
        while True:
            if self._backlog:
                self._flush(zmq.DONTWAIT)
            try:
                frame = self.socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                left = deadline - time.monotonic() if timeout_s else 0.0
                if left <= 0:
                    return None
                # what waits for a peer is tried again between short waits
                self.socket.poll(max(1, int((min(left, _RETRY_S) if self._backlog else left) * 1000)))
                continue
            message = self._accept(frame)
            if message is not None:
                return message

    def _accept(self, frame: zmq.Frame) -> messages.Any | None:
        if not self._from_peer(frame):
            self.counters.foreign += 1
            return None
        try:
            message = messages.decode(frame.bytes)
        except Malformed as error:
            self.counters.malformed += 1
            self.send(messages.Fault(self.epoch, 0, str(error)[:200]))
            return None
        self.counters.received += 1
        if isinstance(message, messages.Fault):
            self.counters.faults += 1
            return None
        if message.epoch != self.epoch:
            self.counters.stale += 1
            self.send(messages.Fault(self.epoch, message.seq, f"epoch {message.epoch}, this is {self.epoch}"))
            return None
        return message

    def _from_peer(self, frame: zmq.Frame) -> bool:
        """Tell whether the frame comes from this user's process that was attached (``host:uid:gid:pid``)."""
        try:
            uid, _, pid = str(frame.get("Peer-Address")).split(":")[-3:]
        except (zmq.ZMQError, ValueError):
            return False
        return uid == self._uid and (not self.peer_pid or pid == str(self.peer_pid))

    def close(self) -> None:
        """Close the end; the binder removes the socket file."""
        self.socket.close(_LINGER_MS)
        if self._bound:
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
