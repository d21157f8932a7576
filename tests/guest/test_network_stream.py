"""Our guest and QEMU's on one wire, by QEMU's ``-netdev stream`` and ``dgram``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.peer, pytest.mark.timeout(600)]


def test_our_guest_and_qemus_share_a_wire(debian: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(network.with_card("wire", debian, 'backend = "stream"', 'address = "unix:wire"', "server = true"))
    up = [sys.executable, "-m", "orchestrator", "up", str(path)]
    wire = f"stream,id=n,server=off,addr.type=unix,addr.path={tmp_path / 'wire'}"
    with Guest(up) as ours:
        ours.login(network.PASSWORD)
        theirs_ = network.qemu_guest(debian, "-netdev", wire, "-device", "virtio-net-pci,netdev=n,disable-legacy=on")
        with Guest(theirs_) as theirs:
            theirs.login(network.PASSWORD)
            for guest, address in ((ours, "10.9.0.1/24"), (theirs, "10.9.0.2/24")):
                network.set_address(guest, address)
            assert network.ping(ours, "10.9.0.2") == 3
            assert network.ping(theirs, "10.9.0.1", 5) == 5
            network.transfer(ours, theirs, "10.9.0.2", 8 * network.MIB)
            network.transfer(theirs, ours, "10.9.0.1", 8 * network.MIB)
            theirs.type("poweroff -f")
            theirs.status(60)
        ours.type("poweroff -f")
        assert ours.status(60) == 0
