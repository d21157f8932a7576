"""The back-end at the other end of a socket: meeting it, losing it, waiting for it to come back.

A thread tries to connect while there is no back-end, and does the first exchange of messages too, so that the device
loop never waits for one that listens and does not answer. ``Peer`` itself is the device loop's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import HostError, PeerGone, ProtocolError
from protocol.vhost_user.connection import BadMessage
from protocol.vhost_user.front_end import FrontEnd
from protocol.vhost_user.messages import ProtocolFeature, Request

logger = logging.getLogger(__name__)

_P = ProtocolFeature
WANTED = (
    _P.MQ
    | _P.REPLY_ACK
    | _P.BACKEND_REQ
    | _P.CONFIG
    | _P.INFLIGHT_SHMFD
    | _P.CONFIGURE_MEM_SLOTS
    | _P.STATUS
    | _P.RESET_DEVICE
)
TIMEOUT_S = 10.0
_FIRST_S, _LONGEST_S = 0.02, 0.5


@dataclass
class BackEnd:
    """A back-end that has been met."""

    front: FrontEnd
    features: int
    """The virtio features that it offers."""
    queues: int
    """The most queues it serves; 0 where it does not say."""
    config: bytes
    """Its config space; empty where it has none."""

    def has(self, feature: ProtocolFeature) -> bool:
        """Tell whether a protocol feature was agreed on."""
        return feature in self.front.protocol_features

    def read_config(self, sizes: tuple[int, ...]) -> bytes:
        """Return the config space, as much of it as the back-end knows."""
        for size in sizes if self.has(ProtocolFeature.CONFIG) else ():
            with suppress(BadMessage):  # a refusal is an answer without anything, or with nothing but its head
                data = self.front.config(size)
                if len(data) == size:
                    return data
        return b""


def meet(path: Path, config_sizes: tuple[int, ...], timeout_s: float = TIMEOUT_S) -> BackEnd:
    """Connect to the back-end at ``path`` and agree on protocol features.

    Raises:
        PeerGone: nobody listens there, or it says nothing.
        ProtocolError: what it says is not the protocol.
    """
    front = FrontEnd.connect(path, timeout_s=timeout_s)
    try:
        features = front.meet(WANTED)
        met = BackEnd(front, features, 0, b"")
        if met.has(_P.MQ):
            met.queues = front.word(Request.GET_QUEUE_NUM)
        met.config = met.read_config(config_sizes)
        if met.has(_P.BACKEND_REQ):
            front.listen()
    except BaseException:
        front.close()
        raise
    return met


class Peer:
    """The back-end of one device, or the wait for it; ``fd`` is readable when one has been met."""

    def __init__(self, path: Path, config_sizes: tuple[int, ...]) -> None:
        self.path = path
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sizes = config_sizes
        self._met: BackEnd | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def first(self, wait_s: float) -> BackEnd:
        """Return the back-end that is there, or comes within ``wait_s``.

        Raises:
            HostError: none does, or it does not speak the protocol.
        """
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return meet(self.path, self._sizes)
            except PeerGone as error:
                if time.monotonic() >= deadline:
                    hint = "start the back-end first, or let --wait SECONDS wait for it"
                    raise HostError(f"no back-end: {error.message}", hint=hint) from error
            except ProtocolError as error:
                raise HostError(f"{self.path}: no vhost-user back-end: {error.message}") from error
            time.sleep(_FIRST_S)

    def seek(self) -> None:
        """Look for a back-end until there is one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._seek, name="seek", daemon=True)
            self._thread.start()

    def _seek(self) -> None:
        pause_s, complained = _FIRST_S, False
        while not self._ended.wait(pause_s):
            pause_s = min(2 * pause_s, _LONGEST_S)
            try:
                self._met = meet(self.path, self._sizes)
            except (ProtocolError, HostError) as error:
                if not complained and not isinstance(error, PeerGone):
                    complained = True
                    logger.warning("%s: %s", self.path, error.message)
                continue
            os.eventfd_write(self.fd, 1)
            return

    def take(self) -> BackEnd | None:
        """Return the back-end that was met, which is the caller's from now on."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        met, self._met = self._met, None
        if met is not None and self._thread is not None:
            self._thread.join()
            self._thread = None
        return met

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_S)
            if self._thread.is_alive():
                return  # it waits for one that says nothing, and ends with the process
        if self._met is not None:
            self._met.front.close()
        os.close(self.fd)
