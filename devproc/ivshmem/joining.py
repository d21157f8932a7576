"""A peer's way in: the hello is sent and the server's greeting taken in, as far as there is room and something came.

Nothing here waits, so that a server that is stopped stops nobody else.
"""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

from protocol.errors import HostError, PeerGone
from protocol.ivshmem import Receiver, Session, Stage, send
from protocol.ivshmem_hello import Hello

DIALECT_SUFFIX = ".busvm"
_QUIET_S = 0.05  # a server of version 0 does not say how many vectors there are: it says no more


class Joining:
    """A connection to a server, ``session`` and ``receiver``, until its greeting is complete."""

    def __init__(self, path: Path, hello: Hello, timeout_s: float, *, is_ours: bool, wait_s: float = 0.0) -> None:
        """Connect, and begin; ``wait_s`` is how long a server whose queue is full is waited for.

        Raises:
            HostError: nobody listens there.
        """
        self._path = path
        self._deadline = time.monotonic() + timeout_s
        self._heard = time.monotonic()
        self._words = hello.words()[::-1] if is_ours else []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.session, self.receiver = Session(is_ours), Receiver(self.socket)
        try:
            self.socket.settimeout(wait_s)
            self.socket.connect(str(path.with_name(path.name + DIALECT_SUFFIX) if is_ours else path))
            self.socket.setblocking(False)
        except OSError as error:
            self.close()
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> HostError:
        return HostError(f"{self._path}: {error.strerror or error}", hint="is the server there?")

    def step(self) -> bool:
        """Say and take in what can be; return whether the session is complete.

        Raises:
            HostError: the hello cannot be sent.
            ProtocolError: the server does not take us, goes away, or is none.
        """
        try:
            self._say()
            return self._hear()
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def _say(self) -> None:
        try:
            while self._words:
                send(self.socket, *self._words[-1])
                self._words.pop()
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._words.clear()  # it says why, or is gone

    def _hear(self) -> bool:
        session = self.session
        try:
            while not (session.complete and session.vectors):
                message = self.receiver.receive()
                if message is None:
                    return self._silence()
                session.take(message)
                self._heard = time.monotonic()
        except PeerGone:
            if not session.complete:
                raise
            session.vectors = len(session.own)  # that it is gone will be noticed
        return True

    def _silence(self) -> bool:
        """Return whether the server has nothing more to say, as far as one can know."""
        session, now = self.session, time.monotonic()
        if session.complete and now - self._heard >= _QUIET_S:
            session.vectors = len(session.own)
            return True
        if now >= self._deadline:
            stage = "our vectors" if session.stage is Stage.PEERS else session.stage.value
            raise PeerGone(f"the server does not go on: {stage} did not come")
        return False

    @property
    def wake_s(self) -> float:
        """How long there is nothing to do if nothing comes."""
        if self._words:
            return 0.01
        return max(0.0, min(_QUIET_S, self._deadline - time.monotonic()) if self.session.complete else 0.5)

    def wait(self) -> None:
        """Wait until there is something to do."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | (select.POLLOUT if self._words else 0))
        left = self._deadline - time.monotonic()
        poll.poll(max(0.0, min(left, _QUIET_S if self.session.complete else left)) * 1000 + 1)

    def close(self) -> None:
        """Give it up."""
        self.session.close()
        self.receiver.close()
        self.socket.close()
