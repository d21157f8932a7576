"""What a user network is made of: addresses, ports that lead into it and out of it; all checked before it is started.

Ports of the host are of 127.0.0.1 unless an address says otherwise. (QEMU opens them to the host's whole network; a
guest's ssh with a password from an example is not for that.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from devproc.network.frame import MTU_LEAST
from protocol.errors import ConfigError

LOOPBACK = "127.0.0.1"
MTU = 65520
"""What slirp4netns recommends, too: TCP ends in the process, and larger frames are fewer."""
MTU_MOST = 65521  # IF_MTU_MAX of libslirp
_FORWARD_HINT = "tcp:[ADDRESS]:PORT:[GUEST_ADDRESS:]GUEST_PORT, udp:…, or unix:PATH:GUEST_PORT"
_GUEST_FORWARD_HINT = "tcp:GUEST_ADDRESS:PORT:TARGET, with HOST:PORT, unix:PATH or cmd:COMMAND as TARGET"
_COLON = re.compile(r":(?![^[]*\])")  # but none of those in brackets
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(\d+)")


@dataclass(frozen=True)
class Guest:
    """A port in the virtual network."""

    address: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True)
class Forward:
    """A port of the host, or a UNIX socket, that leads to a port of the guest."""

    udp: bool
    host: tuple[str, int] | Path
    """An address with a port, 0 for any that is free; or the path of a socket."""
    guest_address: IPv4Address | IPv6Address | None
    """``None``: the first that DHCP gives."""
    guest_port: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Return the forward that ``text`` describes.

        Raises:
            ConfigError: it describes none.
        """
        kind, *parts = _COLON.split(text)
        if kind == "unix" and len(parts) >= 2:
            path, _, port = text.removeprefix("unix:").rpartition(":")
            if not path or len(path.encode()) > 107:
                raise ConfigError(f"forward {text!r}: a path of 1 to 107 bytes", hint=_FORWARD_HINT)
            return cls(False, Path(path), None, _port(port, text, 1))
        if kind not in ("tcp", "udp") or not 3 <= len(parts) <= 4:
            raise ConfigError(f"forward {text!r} is none", hint=_FORWARD_HINT)
        host = _address(parts[0] or LOOPBACK, text)
        guest = _address(parts[2], text) if len(parts) == 4 and parts[2] else None
        if (guest.version if guest else 4) != host.version:
            raise ConfigError(f"forward {text!r}: both addresses have to be of one family", hint=_FORWARD_HINT)
        return cls(kind == "udp", (str(host), _port(parts[1], text, 0)), guest, _port(parts[-1], text, 1))

    def __str__(self) -> str:
        if isinstance(self.host, Path):
            return f"unix:{self.host}:{self.guest_port}"
        address, port = (f"[{self.host[0]}]" if ":" in self.host[0] else self.host[0]), self.host[1]
        return f"{'udp' if self.udp else 'tcp'}:{address}:{port}:{self.guest_port}"


@dataclass(frozen=True)
class GuestForward:
    """An address in the virtual network that leads to something of the host: one of the three."""

    guest: Guest
    unix: Path | None = None
    host: tuple[str, int] | None = None
    command: str = ""

    @classmethod
    def parse(cls, text: str) -> GuestForward:
        """Return the guest forward that ``text`` describes.

        Raises:
            ConfigError: it describes none.
        """
        kind, address, port, target = [*text.split(":", 3), "", "", ""][:4]
        if kind != "tcp" or not target:
            raise ConfigError(f"guest forward {text!r} is none", hint=_GUEST_FORWARD_HINT)
        at = _address(address, text)
        if at.version != 4:
            raise ConfigError(f"guest forward {text!r}: {address} is no IPv4 address", hint=_GUEST_FORWARD_HINT)
        guest = Guest(at, _port(port, text, 1))
        if target.startswith("unix:"):
            if not 0 < len(target.removeprefix("unix:").encode()) <= 107:
                raise ConfigError(f"guest forward {text!r}: a path of 1 to 107 bytes", hint=_GUEST_FORWARD_HINT)
            return cls(guest, unix=Path(target.removeprefix("unix:")))
        found = _HOST_PORT.fullmatch(target)
        if found and found[1] != "cmd":
            return cls(guest, host=(found[1].strip("[]"), _port(found[2], text, 1)))
        return cls(guest, command=target.removeprefix("cmd:"))


@dataclass(frozen=True)
class UserConfig:
    """A user network; texts are as in vm.toml."""

    network: str = "10.0.2.0/24"
    """The host is its .2, the name server .3, and DHCP gives from .15."""
    forward: tuple[str, ...] = ()
    guest_forward: tuple[str, ...] = ()
    restrict: bool = False
    """Nothing leaves the virtual network but through forwards."""
    ipv6: bool = True
    ipv6_network: str = "fec0::/64"
    hostname: str = ""
    """What DHCP tells the guest its name is."""
    domain: str = ""
    domain_search: tuple[str, ...] = ()
    tftp: Path | None = None
    """A folder that the guest can read by TFTP from the host's address."""
    tftp_server_name: str = ""
    bootfile: str = ""
    mtu: int = MTU
    host_loopback: bool = True
    """The host's address leads to the host's 127.0.0.1."""

    def __post_init__(self) -> None:
        if not MTU_LEAST <= self.mtu <= MTU_MOST:
            raise ConfigError(f"mtu {self.mtu}: from {MTU_LEAST} to {MTU_MOST}")
        if not 4 <= self.ipv4.prefixlen <= 27:
            raise ConfigError(f"network {self.network}: a prefix from /4 to /27, with room for .2, .3 and from .15 on")
        if self.ipv6 and self.prefix6.prefixlen != 64:
            raise ConfigError(f"ipv6_network {self.ipv6_network}: a prefix of /64, as stateless addresses need")
        for name in ("hostname", "domain"):
            if getattr(self, name) and not _NAME.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name} {getattr(self, name)!r}: letters, digits, '-' and '.'")
        for name in self.domain_search:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"domain_search {name!r}: letters, digits, '-' and '.'")
        if len(self.hostname) > 32:  # libslirp cuts it: it has that many bytes in its structure
            raise ConfigError(f"hostname {self.hostname!r}: 32 letters at most")
        if self.tftp is not None and not self.tftp.is_dir():
            raise ConfigError(f"tftp {self.tftp} is no folder")
        for each in self.forwards:
            address = each.guest_address
            if address is not None and address not in (self.ipv4 if address.version == 4 else self.prefix6):
                raise ConfigError(f"forward {each}: {address} is not in the guest's network")
        for other in self.guest_forwards:
            if other.guest.address not in self.ipv4:
                raise ConfigError(f"guest forward of {other.guest.address}, which is not in {self.ipv4}")

    @cached_property
    def ipv4(self) -> IPv4Network:
        """The network."""
        try:
            return IPv4Network(self.network)
        except ValueError as error:
            raise ConfigError(f"network {self.network!r}: {error}", hint="such as 10.0.2.0/24") from error

    @cached_property
    def prefix6(self) -> IPv6Network:
        """The IPv6 network."""
        try:
            return IPv6Network(self.ipv6_network)
        except ValueError as error:
            raise ConfigError(f"ipv6_network {self.ipv6_network!r}: {error}", hint="such as fec0::/64") from error

    @cached_property
    def forwards(self) -> list[Forward]:
        """Ports that lead into it."""
        return [Forward.parse(text) for text in self.forward]

    @cached_property
    def guest_forwards(self) -> list[GuestForward]:
        """Ports that lead out of it."""
        return [GuestForward.parse(text) for text in self.guest_forward]

    def _of(self, suffix: int) -> IPv4Address:
        """Return an address as QEMU derives it: 10.0.2.2 of 10.0.2.0/24, and of 10.0.0.0/16 too."""
        return IPv4Address(int(self.ipv4.network_address) | suffix & int(self.ipv4.hostmask))

    @property
    def host(self) -> IPv4Address:
        """The host, which is the router."""
        return self._of(0x0202)

    @property
    def guest(self) -> IPv4Address:
        """The first address that DHCP gives."""
        return self._of(0x020F)

    def addresses(self) -> dict[str, IPv4Address | IPv6Address]:
        """Return the addresses by the names that libslirp has for them."""
        prefix = self.prefix6.network_address
        return {
            "vnetwork": self.ipv4.network_address,
            "vnetmask": self.ipv4.netmask,
            "vhost": self.host,
            "vnameserver": self._of(0x0203),
            "vdhcp_start": self.guest,
            "vprefix_addr6": prefix,
            "vhost6": prefix + 2,
            "vnameserver6": prefix + 3,
        }


def _address(text: str, whole: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text.strip("[]"))
    except ValueError as error:
        raise ConfigError(f"forward {whole!r}: {text!r} is no address", hint=_FORWARD_HINT) from error


def _port(text: str, whole: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) < 1 << 16:
        raise ConfigError(f"forward {whole!r}: {text!r} is no port", hint=_FORWARD_HINT)
    return int(text)
