"""Which user network a host has: libslirp in the process, or else passt, as far as it does the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from devproc.network import passt, slirp_library
from devproc.network.passt import Passt, PasstConfig
from devproc.network.slirp_library import INSTALL, LIBRARY
from devproc.network.user import User
from devproc.network.user_config import UserConfig
from protocol.errors import HostError

logger = logging.getLogger(__name__)


def choose(
    config: UserConfig,
    library: Callable[[], bool] = slirp_library.available,
    program: Callable[[], bool] = passt.available,
) -> UserConfig | PasstConfig:
    """Return ``config``, or what passt makes of it where there is no libslirp.

    Raises:
        HostError: neither is there, or passt cannot do what is wanted.
    """
    if library():
        return config
    if not program():
        raise HostError(f"the user network needs {LIBRARY} or passt", hint=INSTALL)
    wanted = beyond_passt(config)
    if wanted:
        raise HostError(f"without {LIBRARY} the user network is passt, which has no {', '.join(wanted)}", hint=INSTALL)
    logger.warning("no %s: the user network is passt, and its guest has the host's addresses", LIBRARY)
    return PasstConfig(
        forward=config.forward,
        mtu=min(config.mtu, 65520),
        ipv6=config.ipv6,
        domain_search=config.domain_search,
        host_loopback=config.host_loopback,
    )


def open_user(config: UserConfig) -> User | Passt:
    """Return the network.

    Raises:
        ConfigError: a forward is beyond passt.
        HostError: it cannot be had.
    """
    found = choose(config)
    return User(found) if isinstance(found, UserConfig) else Passt(found)


def beyond_passt(config: UserConfig) -> list[str]:
    """Return the names of what only libslirp does; ``restrict``, above all, is never given up in silence."""
    names = ("network", "guest_forward", "restrict", "ipv6_network", "hostname", "domain", "tftp", "tftp_server_name")
    plain = UserConfig()
    found = [name for name in (*names, "bootfile") if getattr(config, name) != getattr(plain, name)]
    if any(isinstance(each.host, Path) or each.guest_address is not None for each in config.forwards):
        found.append("forward of that kind")
    return found
