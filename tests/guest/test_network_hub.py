"""Two of our guests on a hub that one of their VMs has, whole packets of 64 KiB between them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.names import Runtime
from tests.guest import network
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


def shown(vm: str, what: str) -> str:
    """Return a property of the hub, as busctl prints it."""
    place = ["org.busvm.hub.lan", "/org/busvm/hub/lan", "org.busvm.Hub1", what]
    command = ["busctl", f"--address={Runtime(vm).bus_address}", "get-property", *place]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def test_two_guests_on_a_hub(debian: Path, tmp_path: Path) -> None:
    ups = []
    for name, hub in (("hubone", "lan"), ("hubtwo", "hubone/lan")):
        path = tmp_path / f"{name}.toml"
        text = network.with_card(name, debian, 'backend = "hub"', f'hub = "{hub}"', init=network.SHELL)
        path.write_text(text + ('[[hub]]\nid = "lan"\n' if name == "hubone" else ""))
        ups.append([sys.executable, "-m", "orchestrator", "up", str(path)])
    with Guest(ups[0]) as one, Guest(ups[1]) as two:
        for guest, address in ((one, "10.9.0.1/24"), (two, "10.9.0.2/24")):
            network.shell(guest)
            network.set_address(guest, address)
        assert network.ping(one, "10.9.0.2") == 3
        network.transfer(one, two, "10.9.0.2", 16 * network.MIB)
        network.transfer(two, one, "10.9.0.1", 16 * network.MIB)
        assert len(re.findall(r'"card\d+"', shown("hubone", "Macs"))) == 2
        frames = re.search(r'"frames" (\d+)', shown("hubone", "Counters"))
        assert frames is not None
        assert int(frames[1]) * 1500 < 32 * network.MIB, "large packets went through in one piece"
        for guest in (two, one):
            assert network.end(guest) == 0
