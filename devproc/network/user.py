"""The user network: a private network with DHCP, DNS and NAT, in the process, for which nobody needs a privilege.

When a frame of the guest is in one piece and large, libslirp reads it where it is. Small ones, acknowledgements mostly,
are copied first, and taken after the burst: what libslirp answers, the next segments of a download, can then be
delivered straight from its buffer, for that happens only while the card is at rest. What it answers to the large ones
is small, and copied instead.

Frames that the guest has no room for are kept, up to 1 MiB, and while there are any no socket is read, so that the
peers' own TCP slows down; beyond that they are lost, and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import time
from collections import deque
from pathlib import Path

from devproc.alarm import Alarm
from devproc.descriptors import READ, Descriptors
from devproc.listening import Socket
from devproc.network import relay
from devproc.network.backend import PLAIN, Base, Buffer, Card, Pieces
from devproc.network.features import NetFeature
from devproc.network.frame import HEADER, Flags
from devproc.network.slirp import Slirp
from devproc.network.user_config import Forward, Guest, GuestForward, UserConfig
from protocol.errors import HostError

logger = logging.getLogger(__name__)

_SMALL = 4096  # bytes of a frame, copied in a fraction of a microsecond
_TAKEN_MAX = 1 << 20  # bytes from the guest that wait for the end of the burst
_KEPT_MAX = 1 << 20  # bytes to the guest that wait for room
_OVERHEAD = 64  # bytes that a frame is charged with beside its own
_SLACK_S = 0.0005
_VALID = bytes([Flags.DATA_VALID]).ljust(HEADER, b"\0")


class User(Base):
    """libslirp behind a card; its checksums come straight from the process, and a guest that agrees verifies none."""

    offloads = int(NetFeature.GUEST_CSUM)

    def __init__(self, config: UserConfig) -> None:
        """Make the network, and listen at the host's ports.

        Raises:
            HostError: there is no libslirp, or a port is taken.
        """
        self.config = config
        self.mtu = config.mtu
        self._lost = {"frames_guest_slow": 0}
        self._kept: deque[bytes] = deque()
        self._kept_size = 0
        self._taken: deque[bytes] = deque()
        self._taken_size = 0
        self._card: Card | None = None
        self._header = PLAIN
        self._direct = False
        self._wanted = self._watching = True
        self._unanswered = False
        self._due = 0.0
        self._names: list[tuple[Path, int]] = []
        self._ports: list[str] = []
        self._slirp = Slirp(config, self._packet)
        try:
            for forward in config.forwards:
                self._forward(forward)
            for leads in config.guest_forwards:
                self._lead_out(leads)
        except BaseException:
            self._close_slirp()
            raise
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._alarm = Alarm()

    def _forward(self, forward: Forward) -> None:
        guest = Guest(forward.guest_address or self.config.guest, forward.guest_port)
        if isinstance(forward.host, Path):
            Socket.at(forward.host).close()  # whoever listens there is not to lose it; a name left over goes
        before = os.umask(0o177)
        try:
            found = self._slirp.forward(guest, forward.host, udp=forward.udp)
        except OSError as error:
            raise HostError(
                f"forward {forward}: {error.strerror or os.strerror(error.errno or 0)}",
                hint="0 takes any port that is free",
            ) from error
        finally:
            os.umask(before)
        if isinstance(forward.host, Path):
            self._names.append((forward.host, forward.host.stat().st_ino))
        self._ports.append(str(forward if not found else Forward(forward.udp, found, guest.address, guest.port)))

    def _lead_out(self, leads: GuestForward) -> None:
        command = leads.command
        if leads.host:
            command = shlex.join([sys.executable, "-I", "-S", relay.__file__, leads.host[0], str(leads.host[1])])
        try:
            self._slirp.guest_forward(leads.guest, unix=leads.unix, command=command)
        except OSError as error:
            raise HostError(f"guest forward of {leads.guest.address}:{leads.guest.port}: {error.strerror}") from error

    @property
    def forwards(self) -> list[str]:
        """What the host's ports lead to, with the ports that were found free."""
        return list(self._ports)

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch its sockets, and an alarm for its timers."""
        self._card, self._descriptors = card, descriptors
        descriptors.watch(self._slirp.fd, self._ready)
        descriptors.watch(self._bell, self._has_room)
        descriptors.watch(self._alarm.fd, self._rang)
        os.eventfd_write(self._bell, 1)

    # from the guest

    def send(self, pair: int, header: Buffer, frame: Pieces) -> bool:
        """Have libslirp take a frame, now or after the burst."""
        piece = frame[0] if len(frame) == 1 else b"".join(frame)
        if len(piece) <= _SMALL and self._taken_size < _TAKEN_MAX:
            self._taken.append(bytes(piece))
            self._taken_size += len(piece)
        else:
            self._take()  # their order stays
            self._slirp.input(piece)
        self._unanswered = True
        return True

    def answer(self) -> None:
        """Have libslirp take the small ones, and deliver what it says to all."""
        if self._unanswered:
            self._turn()

    def _take(self) -> None:
        """Have libslirp take what was copied."""
        taken, take = self._taken, self._slirp.input
        while taken:
            take(taken.popleft())
        self._taken_size = 0

    # to the guest

    def _packet(self, frame: memoryview) -> None:
        """Deliver a frame, or keep it."""
        if self._direct and not self._kept and self._card is not None and self._card.deliver(frame, self._header):
            return
        if self._kept_size > _KEPT_MAX:
            self._lost["frames_guest_slow"] += 1
            return
        self._kept.append(bytes(frame))
        self._kept_size += len(frame) + _OVERHEAD

    def _deliver(self) -> None:
        """Deliver what was kept."""
        kept = self._kept
        assert self._card is not None
        while kept and self._card.deliver(kept[0], self._header):
            self._kept_size -= len(kept.popleft()) + _OVERHEAD

    def agree(self, features: int) -> None:
        """Say of frames, if the guest knows how to hear it, that their checksums are right."""
        self._header = _VALID if features & NetFeature.GUEST_CSUM else PLAIN

    def listen(self, *, wanted: bool) -> None:
        """Go on, or let all wait, its clocks too."""
        if wanted != self._wanted:
            self._wanted = wanted
            if wanted and self._card is not None:
                os.eventfd_write(self._bell, 1)
            self._watch()

    def _watch(self) -> None:
        """Look at the sockets unless something has to wait."""
        watching = self._wanted and not self._kept
        if watching != self._watching and self._card is not None:
            self._watching = watching
            self._descriptors.want(self._slirp.fd, READ if watching else 0)

    # handlers

    def _has_room(self, _events: int) -> None:
        """The guest has room again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._turn()

    def _ready(self, _events: int) -> None:
        """A socket has something."""
        self._turn()

    def _rang(self, _events: int) -> None:
        """It is time."""
        self._alarm.acknowledge()
        self._due = 0.0
        if self._wanted:
            self._turn()

    def _turn(self) -> None:
        """Do all there is to do; libslirp wants to be polled after each input too, for what has waited for ARP."""
        self._unanswered = False
        self._direct = True
        self._deliver()
        self._take()
        self._slirp.poll(sockets=self._wanted and not self._kept)
        self._direct = False
        self._arm()

    def _arm(self) -> None:
        """Learn what it waits for now, and for how long."""
        seconds = self._slirp.fill()
        self._watch()
        if seconds is None:
            return
        now = time.monotonic()
        if not now < self._due <= now + seconds + _SLACK_S:
            self._due = now + seconds
            self._alarm.set(seconds)

    # words

    def counters(self) -> dict[str, int]:
        """Return what was lost."""
        more = {"guest_errors": self._slirp.guest_errors, "faults": self._slirp.faults, "sockets": self._slirp.sockets}
        return self._lost | more

    def describe(self) -> str:
        """Say where it leads."""
        words = [f"user {self.config.ipv4}, guest {self.config.guest}"]
        if self.config.restrict:
            words.append("restricted")
        return ", ".join([*words, *self._ports])

    def close(self) -> None:
        """Close its sockets."""
        if self._card is not None:
            for fd in (self._slirp.fd, self._bell, self._alarm.fd):
                self._descriptors.unwatch(fd)
            self._card = None
        self._close_slirp()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        self._alarm.close()

    def _close_slirp(self) -> None:
        self._slirp.close()
        for path, inode in self._names:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # as in ``devproc.listening``
                if path.stat().st_ino == inode:
                    path.unlink()
        self._names = []
