"""Options of a network card's program that say which network it is on; every card has the same."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from devproc.network.address import Address
from devproc.network.backend import Network, Nothing
from devproc.network.capture import Capture
from devproc.network.frame import MAC_BYTES, MTU_LEAST, MTU_MOST
from protocol.errors import ConfigError

MAC_DEFAULT = "52:54:00:12:34:56"  # QEMU's; the orchestrator gives each card its own
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all networks."""
    card = parser.add_argument_group("network")
    card.add_argument("--mac", default=MAC_DEFAULT, help=f"address of the card (default: {MAC_DEFAULT})")
    card.add_argument("--mtu", type=int, default=0, metavar="N", help="largest packet (default: what the network has)")
    card.add_argument(
        "--backend", choices=tuple(BACKENDS), default="none", help="what the card is connected to (default: none)"
    )
    card.add_argument("--pcap", type=Path, metavar="FILE", help="write all frames down, for tshark")
    card.add_argument("--address", metavar="ADDRESS", help="stream: unix:PATH or HOST:PORT to connect to")
    card.add_argument("--server", action="store_true", help="stream: listen there instead")
    card.add_argument(
        "--reconnect", type=float, default=1.0, metavar="S", help="stream: seconds until it tries again (default: 1)"
    )
    card.add_argument("--local", metavar="ADDRESS", help="dgram: where frames arrive; of a group the interface's")
    card.add_argument("--remote", metavar="ADDRESS", help="dgram: where frames go, perhaps a multicast group")
    card.add_argument("--hub", type=Path, metavar="SOCKET", help="hub: where its ports are")


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


def open_network(options: argparse.Namespace) -> Network:
    """Return the network that the options name.

    Raises:
        ConfigError: an option is missing, wrong or of another network.
        HostError: the host does not provide it.
    """
    _check_mtu(options)
    network = BACKENDS[options.backend](options)
    if options.pcap is None:
        return network
    try:
        return Capture(network, options.pcap)
    except BaseException:
        network.close()
        raise


def check(options: argparse.Namespace) -> None:
    """Say whether ``open_network`` would do, without doing anything that others see.

    Raises:
        ConfigError, HostError: as it does.
    """
    mac_of(options)
    _check_mtu(options)
    checks: dict[str, Callable[[argparse.Namespace], object]] = {
        "stream": lambda o: Address.parse(_needed(o, "address")),
        "dgram": lambda o: [Address.parse(text) for text in (o.local, _needed(o, "remote")) if text],
        "hub": lambda o: _needed(o, "hub"),
    }
    if options.backend in checks:
        checks[options.backend](options)


def _check_mtu(options: argparse.Namespace) -> None:
    if options.mtu and not MTU_LEAST <= options.mtu <= MTU_MOST:
        raise ConfigError(f"--mtu {options.mtu}: {MTU_LEAST} to {MTU_MOST}")


def _needed(options: argparse.Namespace, name: str) -> str:
    value: str | None = getattr(options, name)
    if value is None:
        raise ConfigError(f"--backend {options.backend} needs --{name}")
    return value


def _stream(options: argparse.Namespace) -> Network:
    from devproc.network.stream import Stream

    address = Address.parse(_needed(options, "address"))
    return Stream(address, server=options.server, reconnect_s=options.reconnect)


def _dgram(options: argparse.Namespace) -> Network:
    from devproc.network.dgram import Dgram

    return Dgram(Address.parse(options.local) if options.local else None, Address.parse(_needed(options, "remote")))


def _hub(options: argparse.Namespace) -> Network:
    from devproc.network.stream import Stream

    return Stream(Address(Path(_needed(options, "hub"))), headers=True)


BACKENDS: dict[str, Callable[[argparse.Namespace], Network]] = {
    "none": lambda _options: Nothing(),
    "stream": _stream,
    "dgram": _dgram,
    "hub": _hub,
}
