"""passt: a program that is a guest's network without privileges, with the host's own addresses and its TCP's speed.

The device starts it with one end of a socket pair, and again when it has died: after 0.1 s, then twice as long each
time, up to 10 s. It ends when its socket does, however the device ends: nothing else would be reliable, for
PR_SET_PDEATHSIG is forgotten by a process that changes its user, as passt does. That it is ready it says by its file of
a process number, which is a pipe here.

That of 2023 (Debian 12) is fast to the guest and slow from it: it ignores what follows a send that the host's socket
took in part, until the guest sends it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from devproc.alarm import Alarm
from devproc.descriptors import READ, Descriptors
from devproc.network.backend import Card
from devproc.network.frame import MTU_LEAST
from devproc.network.plug import Plug
from devproc.network.user_config import MTU, Forward
from protocol.errors import ConfigError, HostError

logger = logging.getLogger(__name__)

PROGRAM = "passt"
_READY_S = 5.0
_END_S = 1.0
_BACKOFF_S, _BACKOFF_MOST_S = 0.1, 10.0
_SENDS = 1 << 24
_LINES_MOST = 20  # of its messages in the log, per start


@dataclass(frozen=True)
class PasstConfig:
    """How passt is started; forwards as those of the user network, without addresses of the guest, for it has one."""

    forward: tuple[str, ...] = ()
    mtu: int = MTU
    ipv6: bool = True
    interface: str = ""
    """The host's, whose addresses the guest gets; otherwise that of the default route."""
    domain_search: tuple[str, ...] = ()
    host_loopback: bool = True
    """The gateway's address leads to the host's 127.0.0.1."""
    program: str = PROGRAM

    def __post_init__(self) -> None:
        if not MTU_LEAST <= self.mtu <= MTU:
            raise ConfigError(f"mtu {self.mtu}: from {MTU_LEAST} to {MTU}")
        for forward in self.forwards:
            if isinstance(forward.host, Path) or forward.guest_address is not None:
                raise ConfigError(
                    f"forward {forward}: passt has ports of the host, and one guest",
                    hint="tcp:[ADDRESS]:PORT:GUEST_PORT, or the user network",
                )
        for name in (self.interface, *self.domain_search):
            if name.startswith("-") or any(letter.isspace() for letter in name):
                raise ConfigError(f"{name!r} is no name")

    @cached_property
    def forwards(self) -> list[Forward]:
        """Ports that lead to the guest; 0 has become one that is free."""
        return [_with_port(Forward.parse(text)) for text in self.forward]

    def arguments(self) -> list[str]:
        """Return its options."""
        found = ["--foreground", "--quiet", "--stderr", "--mtu", str(self.mtu)]
        if not self.ipv6:
            found.append("--ipv4-only")
        if not self.host_loopback:
            found.append("--no-map-gw")
        if self.interface:
            found += ["--interface", self.interface]
        if self.domain_search:
            found += ["--search", " ".join(self.domain_search)]
        for option, udp in (("--tcp-ports", False), ("--udp-ports", True)):
            ports = [forward for forward in self.forwards if forward.udp == udp]
            for forward in ports:
                assert isinstance(forward.host, tuple)
                found += [option, f"{forward.host[0]}/{forward.host[1]}:{forward.guest_port}"]
            if not ports:  # otherwise it forwards by UDP what it forwards by TCP
                found += [option, "none"]
        return found


def _with_port(forward: Forward) -> Forward:
    """Choose a port where any will do: passt cannot, and would not say which."""
    if isinstance(forward.host, Path) or forward.host[1]:
        return forward
    family = socket.AF_INET6 if ":" in forward.host[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if forward.udp else socket.SOCK_STREAM) as probe:
        try:
            probe.bind((forward.host[0], 0))
        except OSError as error:
            raise HostError(f"forward {forward}: {error.strerror}") from error
        return Forward(forward.udp, probe.getsockname()[:2], None, forward.guest_port)


class Process:
    """passt while it runs, with our end of its socket."""

    def __init__(self, config: PasstConfig) -> None:
        """Start it.

        Raises:
            HostError: there is no such program, or no process more.
        """
        self.started = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self.socket, theirs = socket.socketpair()
        # what does not fit it takes for lost, and TCP sends it again: 15 MB/s by default; net.core.wmem_max limits it
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDS)
        self.words, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ready, ready = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(said, True)
            os.fchmod(ready, 0o666)  # it opens it by name, as "nobody" if we are root
            extra = ["--fd", str(theirs.fileno()), "--pid", f"/proc/self/fd/{ready}"]
            self._process = subprocess.Popen(
                [config.program, *config.arguments(), *extra],
                pass_fds=[theirs.fileno(), ready],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            self.pid = self._process.pid
            self.ended = os.pidfd_open(self.pid)
        except OSError as error:
            self.socket.close()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            os.close(self.words)
            os.close(self._ready)
            raise HostError(
                f"{config.program}: {error.strerror}", hint="install passt (Debian: apt install passt)"
            ) from error
        finally:
            theirs.close()
            os.close(said)
            os.close(ready)

    def wait(self) -> str | None:
        """Wait until it is ready; return what it says if it is not going to be."""
        readable, _, _ = select.select([self._ready], [], [], _READY_S)
        if readable and os.read(self._ready, 16):
            return None
        return self.said() or ("it has ended" if readable else f"it is not ready after {_READY_S:.0f} s")

    def said(self) -> str:
        """Return its last words."""
        try:
            lines = os.read(self.words, 1 << 16).decode(errors="replace").splitlines()
        except BlockingIOError:
            return ""
        told = [line.strip() for line in lines if line.strip() and "syslog" not in line and "as root" not in line]
        return told[-1] if told else ""

    def close(self) -> None:
        """End it; its socket is closed already, or is now."""
        self.socket.close()
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for fd in (self.ended, self.words, self._ready):
            os.close(fd)


class Passt(Plug):
    """passt behind a card."""

    def __init__(self, config: PasstConfig) -> None:
        """Start it, and wait until it is ready.

        Raises:
            HostError: there is no such program, or it says why not: a port that is taken, mostly.
        """
        super().__init__(restarts=0)
        self.config = config
        self.mtu = config.mtu
        self._card: Card | None = None
        self._backoff_s = _BACKOFF_S
        self._lines = 0
        self._process: Process | None = Process(config)
        reason = self._process.wait()
        if reason:
            self._process.close()
            raise HostError(f"passt: {reason}", hint=" ".join([config.program, *config.arguments()]))
        self._alarm = Alarm()

    @property
    def pid(self) -> int:
        """Its process, 0 while there is none."""
        return self._process.pid if self._process else 0

    def start(self, card: Card, descriptors: Descriptors) -> None:
        """Watch it and its frames."""
        self._card, self._descriptors = card, descriptors
        descriptors.watch(self._alarm.fd, self._again)
        self._plug()

    def _plug(self) -> None:
        process, card = self._process, self._card
        assert process is not None
        assert card is not None
        self.plug(process.socket, self._descriptors, card, self._hung_up)
        self._lines = 0
        self._descriptors.watch(process.ended, self._died)
        self._descriptors.watch(process.words, self._spoke)

    def _hung_up(self, reason: str) -> None:
        """It has closed its socket, or did not keep to the format; either way it is of no use."""
        self.unplug()
        self._end(reason)

    def _died(self, _events: int) -> None:
        self.unplug()
        self._end("it has ended")
        if self._card is not None:
            self._card.writable()

    def _end(self, reason: str) -> None:
        """Forget the process, and have another later."""
        process = self._process
        if process is None:
            return
        if time.monotonic() - process.started > _BACKOFF_MOST_S:
            self._backoff_s = _BACKOFF_S
        words = process.said()
        logger.warning("passt: %s; again in %.1f s", words or reason, self._backoff_s)
        self._drop()
        self._later()

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for fd in (process.ended, process.words):
                with contextlib.suppress(KeyError, OSError):
                    self._descriptors.unwatch(fd)
            process.close()

    def _later(self) -> None:
        self._alarm.set(self._backoff_s)
        self._backoff_s = min(_BACKOFF_MOST_S, 2 * self._backoff_s)

    def _again(self, _events: int) -> None:
        """Start it again; whether it gets ready shows when it dies or does not."""
        self._alarm.acknowledge()
        self._counters["restarts"] += 1
        try:
            self._process = Process(self.config)
        except HostError as error:
            logger.warning("%s; again in %.1f s", error, self._backoff_s)
            self._later()
            return
        self._plug()

    def _spoke(self, events: int) -> None:
        """Pass on what it says, up to a point."""
        assert self._process is not None
        if not events & READ:
            self._descriptors.unwatch(self._process.words)
            return
        words = self._process.said()
        self._lines += 1
        if words and self._lines <= _LINES_MOST:
            logger.info("passt: %s", words)

    def describe(self) -> str:
        """Say who it is."""
        who = f"process {self.pid}" if self.pid else "which has ended"
        return ", ".join([f"passt, {who}", *map(str, self.config.forwards)])

    def close(self) -> None:
        """End it."""
        self.unplug()
        if self._card is not None:
            self._descriptors.unwatch(self._alarm.fd)
            self._drop()
            self._card = None
        elif self._process is not None:
            self._process.close()
            self._process = None
        self._alarm.close()


def available(program: str = PROGRAM) -> bool:
    """Whether the program is there."""
    return shutil.which(program) is not None
