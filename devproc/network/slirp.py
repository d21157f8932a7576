"""libslirp: TCP/IP for one guest, out of an ordinary process's own sockets, as QEMU's ``-netdev user`` has it.

Frames go in by ``input``, come out by a callback, and its sockets are waited for in an ``epoll`` of their own, so that
however many are ready, it is called once. Which they are, and for what, it says when it is asked, after each turn.

A Python exception must not unwind through C: each callback has a value to return after one, and it is logged.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from devproc.network.slirp_library import INSTALL, load
from devproc.network.user_config import Guest, UserConfig
from protocol.errors import HostError

logger = logging.getLogger(__name__)

_VERSION = 3
_INFINITE = 0xFFFF_FFFF
_STALE_NS = 100_000_000  # its idea of the time is that of the last poll: sockets for datagrams would expire at once
# bits 1 and 2, OUT and PRI, have each other's place in slirp and in epoll
_SWAPPED = [bits & 0b11001 | (bits & 2) << 1 | (bits & 4) >> 1 for bits in range(32)]


class Slirp:
    """One virtual network; ``packet`` gets its frames, each good until it returns."""

    def __init__(self, config: UserConfig, packet: Callable[[memoryview], None]) -> None:
        """Make it.

        Raises:
            HostError: there is no library, or it refuses the configuration.
        """
        self.faults = 0
        """Exceptions in callbacks."""
        self.guest_errors = 0
        self._polled_ns = 0
        self._packet = packet
        self._ffi, self._library = load()
        self._keep: list[Any] = []
        self._timers: dict[int, tuple[Any, Any]] = {}
        self._expiry: dict[int, int] = {}
        self._epoll = select.epoll()
        self._interest: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._happened: dict[int, int] = {}
        callbacks = self._callbacks()
        self._timeout = self._ffi.new("uint32_t *")
        self._slirp = self._library.slirp_new(self._configuration(config), callbacks, self._ffi.NULL)
        if not self._slirp:
            self._epoll.close()
            raise HostError(f"libslirp {self.version()} refuses to start", hint=INSTALL)

    def _configuration(self, config: UserConfig) -> Any:
        ffi = self._ffi

        def text(value: object) -> Any:
            if not value:
                return ffi.NULL
            self._keep.append(ffi.new("char[]", str(value).encode()))
            return self._keep[-1]

        made = ffi.new("SlirpConfig *")
        made.version = _VERSION
        made.restricted = config.restrict
        made.in_enabled = True
        for name, address in config.addresses().items():
            if isinstance(address, IPv4Address):
                setattr(made, name, {"s_addr": int.from_bytes(address.packed, "little")})
            else:
                setattr(made, name, {"s6_addr32": struct.unpack("=4I", address.packed)})
        made.in6_enabled = config.ipv6
        made.vprefix_len = 64
        made.vhostname = text(config.hostname)
        made.tftp_server_name = text(config.tftp_server_name)
        made.tftp_path = text(config.tftp)
        made.bootfile = text(config.bootfile)
        made.vdomainname = text(config.domain)
        if config.domain_search:
            self._keep.append(ffi.new("char *[]", [*map(text, config.domain_search), ffi.NULL]))
            made.vdnssearch = self._keep[-1]
        made.if_mtu = made.if_mru = config.mtu
        made.disable_host_loopback = not config.host_loopback
        self._keep.append(made)
        return made

    def _callbacks(self) -> Any:
        ffi = self._ffi

        def callback(kind: str, function: Callable[..., Any], error: Any = None) -> Any:
            made = ffi.callback(kind, function, error=error, onerror=self._fault)
            self._keep.append(made)
            return made

        table = ffi.new("SlirpCb *")
        table.send_packet = callback("ssize_t(const void *, size_t, void *)", self._send_packet, -1)
        table.guest_error = callback("void(const char *, void *)", self._guest_error)
        table.clock_get_ns = callback("int64_t(void *)", lambda _: time.monotonic_ns(), 0)
        table.timer_new = callback("void *(SlirpTimerCb, void *, void *)", self._timer_new, ffi.NULL)
        table.timer_free = callback("void(void *, void *)", self._timer_free)
        table.timer_mod = callback("void(void *, int64_t, void *)", self._timer_mod)
        table.register_poll_fd = callback("void(int, void *)", self._forget)
        table.unregister_poll_fd = callback("void(int, void *)", self._forget)
        table.notify = callback("void(void *)", lambda _: None)
        self._add_poll = callback("int(int, int, void *)", self._want, -1)
        self._get_revents = callback("int(int, void *)", lambda fd, _: self._happened.get(fd, 0), 0)
        self._keep.append(table)
        return table

    # called by the library

    def _fault(self, _kind: object, error: object, trace: Any) -> None:
        self.faults += 1
        if self.faults <= 10:
            logger.error("in a callback of libslirp: %r", error, exc_info=(type(error), error, trace))  # type: ignore[arg-type]

    def _send_packet(self, data: Any, size: int, _: object) -> int:
        self._packet(memoryview(self._ffi.buffer(data, size)))
        return size

    def _guest_error(self, message: Any, _: object) -> None:
        self.guest_errors += 1
        if self.guest_errors <= 10:
            logger.debug("libslirp: %s", self._ffi.string(message).decode(errors="replace"))

    def _timer_new(self, function: Any, opaque: Any, _: object) -> Any:
        number = max(self._timers, default=0) + 1
        self._timers[number] = function, opaque
        return self._ffi.cast("void *", number)

    def _timer_free(self, timer: Any, _: object) -> None:
        number = int(self._ffi.cast("uintptr_t", timer))
        self._timers.pop(number, None)
        self._expiry.pop(number, None)

    def _timer_mod(self, timer: Any, expiry_ms: int, _: object) -> None:
        self._expiry[int(self._ffi.cast("uintptr_t", timer))] = expiry_ms

    def _forget(self, fd: int, _: object) -> None:
        """A descriptor is new, or about to be closed: what is known of its number is true no longer."""
        self._happened.pop(fd, None)
        if self._interest.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass

    def _want(self, fd: int, events: int, _: object) -> int:
        self._wanted[fd] = events
        return fd  # which is then the index that it asks for

    # called by the network

    @property
    def fd(self) -> int:
        """The descriptor that is readable while one of its sockets is ready."""
        return self._epoll.fileno()

    @property
    def sockets(self) -> int:
        """How many sockets it waits for."""
        return len(self._interest)

    def version(self) -> str:
        """Return the library's version."""
        return str(self._ffi.string(self._library.slirp_version_string()).decode())

    def input(self, frame: bytes | memoryview) -> None:
        """Take a frame of the guest, which is in one piece."""
        if time.monotonic_ns() - self._polled_ns > _STALE_NS:
            self.poll(sockets=False)
        self._library.slirp_input(self._slirp, self._ffi.from_buffer(frame), len(frame))

    def poll(self, *, sockets: bool = True) -> None:
        """Serve sockets that are ready, unless they are to wait, and its timers."""
        self._polled_ns = time.monotonic_ns()
        self._happened = {fd: _SWAPPED[events & 31] for fd, events in self._epoll.poll(0)} if sockets else {}
        self._library.slirp_pollfds_poll(self._slirp, 0, self._get_revents, self._ffi.NULL)
        self._happened = {}
        if self._expiry:
            now = time.monotonic_ns() // 1_000_000
            for number in [number for number, expiry in self._expiry.items() if expiry <= now]:
                del self._expiry[number]
                function, opaque = self._timers[number]
                function(opaque)

    def fill(self) -> float | None:
        """Ask it which sockets to wait for; return after how many seconds at most to ``poll``."""
        wanted: dict[int, int] = {}
        self._wanted = wanted
        self._timeout[0] = _INFINITE
        self._library.slirp_pollfds_fill(self._slirp, self._timeout, self._add_poll, self._ffi.NULL)
        if wanted != self._interest:
            self._update(wanted)
        timeout_ms = self._timeout[0]
        if self._expiry:
            timeout_ms = min(timeout_ms, max(0, min(self._expiry.values()) - time.monotonic_ns() // 1_000_000))
        return None if timeout_ms == _INFINITE else timeout_ms / 1000

    def _update(self, wanted: dict[int, int]) -> None:
        """Wait for these, and no others."""
        interest = self._interest
        for fd in interest.keys() - wanted.keys():
            self._forget(fd, None)
        for fd, events in wanted.items():
            if interest.get(fd) == events:
                continue
            bits = _SWAPPED[events & 31]
            try:
                if fd in interest:
                    self._epoll.modify(fd, bits)
                else:
                    self._epoll.register(fd, bits)
            except FileExistsError:
                self._epoll.modify(fd, bits)
            except OSError:
                interest.pop(fd, None)  # closed by now; the next look finds it gone
                continue
            interest[fd] = events

    def forward(self, guest: Guest, host: tuple[str, int] | Path, *, udp: bool = False) -> tuple[str, int] | None:
        """Listen at ``host`` for ``guest``; return the address, whose port may have been 0.

        Raises:
            OSError: it cannot be listened at.
        """
        self.fill()
        before = set(self._interest)
        at, to = _sockaddr(host), _sockaddr((str(guest.address), guest.port))
        if self._library.slirp_add_hostxfwd(self._slirp, at, len(at), to, len(to), int(udp)) < 0:
            raise OSError(self._ffi.errno, "")
        self.fill()
        for fd in set(self._interest) - before:
            with socket.socket(fileno=os.dup(fd)) as copy:
                name = copy.getsockname()
            return name[:2] if isinstance(name, tuple) else None
        return None

    def guest_forward(self, guest: Guest, *, unix: Path | None = None, command: str = "") -> None:
        """Have connections of the guest to ``guest`` end at a socket, or at a command of their own.

        Raises:
            OSError: the address is not of its network, or taken.
        """
        assert isinstance(guest.address, IPv4Address)
        where = self._ffi.new("struct in_addr *", {"s_addr": int.from_bytes(guest.address.packed, "little")})
        text = self._ffi.new("char[]", str(unix or command).encode())
        self._keep.append(text)
        add = self._library.slirp_add_unix if unix else self._library.slirp_add_exec
        if add(self._slirp, text, where, guest.port) < 0:
            raise OSError(0, "it is not in the network, or taken")

    def close(self) -> None:
        """Close all its sockets."""
        if self._slirp:
            self._library.slirp_cleanup(self._slirp)
            self._slirp = None
            self._epoll.close()


def _sockaddr(address: tuple[str, int] | Path) -> bytes:
    """Return the kernel's form of an address."""
    if isinstance(address, Path):
        return struct.pack("=H", socket.AF_UNIX) + bytes(address) + b"\0"
    host, port = address
    try:
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + IPv4Address(host).packed + bytes(8)
    except ValueError:
        family = struct.pack("=H", socket.AF_INET6)
        return family + struct.pack(">HI", port, 0) + IPv6Address(host).packed + bytes(4)
