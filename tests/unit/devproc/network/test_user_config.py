"""Texts that describe a user network, and those that do not."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from devproc.network.user_config import Forward, GuestForward, UserConfig
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:127.0.0.1:2222:22", Forward(False, ("127.0.0.1", 2222), None, 22)),
        ("tcp::2222:22", Forward(False, ("127.0.0.1", 2222), None, 22)),  # not to the whole network
        ("tcp:0.0.0.0:0:22", Forward(False, ("0.0.0.0", 0), None, 22)),
        ("udp::53:10.0.2.20:5353", Forward(True, ("127.0.0.1", 53), ip_address("10.0.2.20"), 5353)),
        ("tcp:[::1]:2222:[fec0::15]:22", Forward(False, ("::1", 2222), ip_address("fec0::15"), 22)),
        ("unix:/run/a:b.sock:22", Forward(False, Path("/run/a:b.sock"), None, 22)),
    ],
)
def test_forwards(text: str, expected: Forward) -> None:
    assert Forward.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:22", "tcp:2222:22", "sctp::1:2",
     "tcp::65536:22", "tcp::1:0", "tcp:host:1:2", "tcp::²:2", "tcp::1:2:3:4",
     "unix::22", "unix:/x:0", "unix:" + "y" * 108 + ":22", "tcp:[::1]:2222:22", "tcp:[::1]:1:10.0.2.15:2"],
)  # fmt: skip
def test_what_is_no_forward(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Forward.parse(text)
    assert caught.value.hint


def test_targets_of_guest_forwards() -> None:
    def target(text: str) -> tuple[Any, ...]:
        found = GuestForward.parse("tcp:10.0.2.100:80:" + text)
        assert (str(found.guest.address), found.guest.port) == ("10.0.2.100", 80)
        return found.unix, found.host, found.command

    assert target("unix:/run/x") == (Path("/run/x"), None, "")
    assert target("example.org:8080") == (None, ("example.org", 8080), "")
    assert target("[::1]:8080") == (None, ("::1", 8080), "")
    assert target("cmd:cat -u") == (None, None, "cat -u")
    assert target("/bin/echo a:1") == (None, None, "/bin/echo a:1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "udp:10.0.2.100:1:cat",
        "tcp:10.0.2.100:1:",
        "tcp:x:1:cat",
        "tcp:10.0.2.100:0:cat",
        "tcp:10.0.2.100:1:unix:",
        "tcp:10.0.2.100:1:host:0",
    ],
)
def test_what_is_no_guest_forward(text: str) -> None:
    with pytest.raises(ConfigError):
        GuestForward.parse(text)


def test_addresses_are_derived_as_qemu_does() -> None:
    def derived(network: str) -> list[str]:
        found = UserConfig(network).addresses()
        return [str(found[name]) for name in ("vhost", "vnameserver", "vdhcp_start", "vnetmask")]

    assert derived("10.0.2.0/24") == ["10.0.2.2", "10.0.2.3", "10.0.2.15", "255.255.255.0"]
    assert derived("192.168.7.32/27") == ["192.168.7.34", "192.168.7.35", "192.168.7.47", "255.255.255.224"]
    assert derived("10.0.0.0/16") == ["10.0.2.2", "10.0.2.3", "10.0.2.15", "255.255.0.0"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mtu": 67},
        {"mtu": 65522},
        {"network": "10.0.2.1/24"},
        {"network": "10.0.2.0/28"},
        {"network": "fec0::/64"},
        {"hostname": "a b"},
        {"hostname": "x" * 33},
        {"domain_search": ("a\n",)},
        {"domain": "-"},
        {"tftp": Path("/nonexistent")},
        {"ipv6_network": "fec0::/48"},
        {"ipv6_network": "x"},
        {"forward": ("tcp::1:10.0.3.15:22",)},
        {"forward": ("x",)},
        {"guest_forward": ("tcp:10.0.3.1:1:cat",)},
    ],
)
def test_what_is_refused_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        UserConfig(**wrong)
