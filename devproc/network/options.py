"""Options of a network card's program that say which network it is on; every card has the same.

An option names the networks that it is for; given for another one it is an error, not a surprise.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devproc.network.address import Address
from devproc.network.backend import Network, Nothing
from devproc.network.capture import Capture
from devproc.network.frame import MAC_BYTES, MTU_LEAST, MTU_MOST
from devproc.sandbox.needs import Needs
from protocol.errors import ConfigError

MAC_DEFAULT = "52:54:00:12:34:56"  # QEMU's; the orchestrator gives each card its own
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_USER, _PASST, _BOTH = ("user",), ("passt",), ("user", "passt")
_FORWARD = "tcp:[ADDRESS]:PORT:[GUEST:]PORT, udp:… or unix:PATH:PORT: leads to a port of the guest"


@dataclass(frozen=True)
class Option:
    """One option; ``more`` is for argparse."""

    name: str
    backends: tuple[str, ...]
    help: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def flag(self) -> str:
        """``--with-dashes``."""
        return "--" + self.name.replace("_", "-")


_MANY: dict[str, Any] = {"action": "append", "default": []}
_OFF: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": True}
_PATH: dict[str, Any] = {"type": Path, "metavar": "PATH"}
OPTIONS = (
    Option("forward", _BOTH, _FORWARD, _MANY),
    Option("guest_forward", _USER, "tcp:ADDRESS:PORT:TARGET: leads the guest to HOST:PORT, unix: or cmd:", _MANY),
    Option("restrict", _USER, "nothing but forwards leaves the guest's network", {"action": "store_true"}),
    Option("network", _USER, "such as 10.0.2.0/24, the default"),
    Option("ipv6", _BOTH, "IPv6 too", _OFF),
    Option("ipv6_network", _USER, "such as fec0::/64, the default"),
    Option("hostname", _USER, "what DHCP tells the guest its name is"),
    Option("domain", _USER, "and its domain"),
    Option("domain_search", _BOTH, "domain that the guest looks names up in", _MANY),
    Option("tftp", _USER, "folder that the guest can read by TFTP", _PATH),
    Option("tftp_server_name", _USER, "what DHCP tells the guest that the TFTP server is called"),
    Option("bootfile", _USER, "file that DHCP tells the guest to boot"),
    Option("host_loopback", _BOTH, "the gateway's address leads to the host's 127.0.0.1", _OFF),
    Option("interface", ("passt", "tap"), "the tap; of passt, the host's interface whose addresses the guest gets"),
    Option("tap_fds", ("tap",), "inherited descriptors of a tap, one per pair of queues, with commas"),
    Option("address", ("stream",), "unix:PATH or HOST:PORT to connect to"),
    Option("server", ("stream",), "listen there instead", {"action": "store_true"}),
    Option("reconnect", ("stream",), "seconds until it tries again (default: 1)", {"type": float, "metavar": "S"}),
    Option("local", ("dgram",), "where frames arrive; of a multicast group the interface's address"),
    Option("remote", ("dgram",), "where frames go, perhaps a multicast group"),
    Option("hub", ("hub",), "socket where its ports are", _PATH),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all networks."""
    card = parser.add_argument_group(
        "network", "What the card is connected to; docs/network.md compares the back-ends."
    )
    card.add_argument("--mac", default=MAC_DEFAULT, help=f"address of the card (default: {MAC_DEFAULT})")
    card.add_argument("--mtu", type=int, default=0, metavar="N", help="largest packet (default: what the network has)")
    card.add_argument("--backend", choices=tuple(BACKENDS), default="none", help="the network (default: none)")
    card.add_argument("--pcap", type=Path, metavar="FILE", help="write all frames down, for tshark")
    for option in OPTIONS:
        card.add_argument(option.flag, help=f"{', '.join(option.backends)}: {option.help}", **option.more)


def mac_of(options: argparse.Namespace) -> bytes:
    """Return the card's address.

    Raises:
        ConfigError: it is none, or one of a group.
    """
    text = options.mac
    if not _MAC.fullmatch(text):
        raise ConfigError(f"--mac {text!r} is no address", hint=f"such as {MAC_DEFAULT}")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or mac == bytes(MAC_BYTES):
        raise ConfigError(f"--mac {text} is no card's address", hint="the first byte is even, such as 52")
    return mac


def open_network(options: argparse.Namespace, pairs: int = 1) -> Network:
    """Return the network that the options name, for a card of so many pairs of queues.

    Raises:
        ConfigError: an option is missing, wrong or of another network.
        HostError: the host does not provide it.
    """
    _check_options(options)
    network = BACKENDS[options.backend](options, pairs)
    if options.pcap is None:
        return network
    try:
        return Capture(network, options.pcap)
    except BaseException:
        network.close()
        raise


def needs(options: argparse.Namespace) -> Needs:
    """Return what the network still opens once it serves: frames of the others go through sockets that are open."""
    if options.backend == "stream" and not options.server:
        address = Address.parse(options.address)  # it connects again
        return Needs() if address.path else Needs(internet=True, tcp_connect=(address.port,))
    if options.backend not in ("user", "passt"):
        return Needs()
    programs = any(not text.split(":", 3)[-1].startswith("unix:") for text in options.guest_forward)
    found = Needs(
        read=(options.tftp,) if options.tftp else (),
        internet=True,
        tcp_connect=None,
        programs=programs or _is_passt(options),
    )
    return found.with_names()


def _is_passt(options: argparse.Namespace) -> bool:
    from devproc.network import slirp_library

    return options.backend == "passt" or not slirp_library.available()


def check(options: argparse.Namespace, pairs: int = 1) -> None:
    """Say whether ``open_network`` would do, without doing anything that others see.

    Raises:
        ConfigError, HostError: as it does.
    """
    mac_of(options)
    _check_options(options)
    checks: dict[str, Callable[[argparse.Namespace, int], object]] = {
        "user": _check_user,
        "passt": lambda o, _pairs: _passt_config(o),
        "tap": _check_tap,
        "stream": lambda o, _pairs: Address.parse(_needed(o, "address")),
        "dgram": lambda o, _pairs: [Address.parse(text) for text in (o.local, _needed(o, "remote")) if text],
        "hub": lambda o, _pairs: _needed(o, "hub"),
    }
    if options.backend in checks:
        checks[options.backend](options, pairs)


def _check_options(options: argparse.Namespace) -> None:
    if options.mtu and not MTU_LEAST <= options.mtu <= MTU_MOST:
        raise ConfigError(f"--mtu {options.mtu}: {MTU_LEAST} to {MTU_MOST}")
    for option in OPTIONS:
        given = getattr(options, option.name) != option.more.get("default", option.more.get("action") and False)
        if given and options.backend not in option.backends:
            raise ConfigError(f"{option.flag} is not for --backend {options.backend}", hint=", ".join(option.backends))


def _needed(options: argparse.Namespace, name: str) -> Any:
    value = getattr(options, name)
    if value is None:
        raise ConfigError(f"--backend {options.backend} needs --{name}")
    return value


def _given(options: argparse.Namespace, backend: str, *but: str) -> dict[str, Any]:
    """Return what was given of a network's options, by the names of its configuration."""
    values = {o.name: getattr(options, o.name) for o in OPTIONS if backend in o.backends and o.name not in but}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
    return found | ({"mtu": options.mtu} if options.mtu else {})


def _user(options: argparse.Namespace, _pairs: int) -> Network:
    from devproc.network.choose import open_user
    from devproc.network.user_config import UserConfig

    return open_user(UserConfig(**_given(options, "user")))


def _check_user(options: argparse.Namespace, _pairs: int) -> None:
    from devproc.network.choose import choose
    from devproc.network.user_config import UserConfig

    choose(UserConfig(**_given(options, "user")))


def _passt_config(options: argparse.Namespace) -> Any:
    from devproc.network import passt
    from protocol.errors import HostError

    if not passt.available():
        raise HostError("there is no passt", hint="apt install passt; backend user needs libslirp instead")
    return passt.PasstConfig(**_given(options, "passt"))


def _passt(options: argparse.Namespace, _pairs: int) -> Network:
    from devproc.network.passt import Passt

    return Passt(_passt_config(options))


def _check_tap(options: argparse.Namespace, pairs: int) -> None:
    from devproc.network import tun

    config = _tap_config(options, pairs)
    if config.interface:
        tun.check(config.interface, config.pairs)


def _tap_config(options: argparse.Namespace, pairs: int) -> Any:
    from devproc.network.tap import TapConfig

    words = options.tap_fds.split(",") if options.tap_fds else []
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--tap-fds {options.tap_fds!r}: numbers with commas")
    return TapConfig(options.interface or "", pairs, tuple(int(word) for word in words))


def _tap(options: argparse.Namespace, pairs: int) -> Network:
    from devproc.network.tap import Tap

    return Tap(_tap_config(options, pairs))


def _stream(options: argparse.Namespace, _pairs: int) -> Network:
    from devproc.network.sockets import RECONNECT_S
    from devproc.network.stream import Stream

    again = RECONNECT_S if options.reconnect is None else options.reconnect
    return Stream(Address.parse(_needed(options, "address")), server=options.server, reconnect_s=again)


def _dgram(options: argparse.Namespace, _pairs: int) -> Network:
    from devproc.network.dgram import Dgram

    return Dgram(Address.parse(options.local) if options.local else None, Address.parse(_needed(options, "remote")))


def _hub(options: argparse.Namespace, _pairs: int) -> Network:
    from devproc.network.stream import Stream

    return Stream(Address(_needed(options, "hub")), headers=True)


_LATER = {
    "user": ("choose", "slirp", "user"),
    "passt": ("passt",),
    "tap": ("tap",),
    "stream": ("stream",),
    "dgram": ("dgram",),
    "hub": ("stream",),
}
"""What the functions of ``BACKENDS`` import, so that a card has only its own network's."""


def load(options: argparse.Namespace) -> None:
    """Import what ``open_network`` will."""
    later = _LATER.get(options.backend, ())
    for name in (*later, "capture") if options.pcap is not None else later:
        importlib.import_module(f"devproc.network.{name}")


BACKENDS: dict[str, Callable[[argparse.Namespace, int], Network]] = {
    "none": lambda _options, _pairs: Nothing(),
    "user": _user,
    "passt": _passt,
    "tap": _tap,
    "stream": _stream,
    "dgram": _dgram,
    "hub": _hub,
}
