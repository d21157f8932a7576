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
    path.write_text(
        network.with_card(
            "wire", debian, 'backend = "stream"', 'address = "unix:wire"', "server = true", init=network.SHELL
        )
    )
    up = [sys.executable, "-m", "orchestrator", "up", str(path)]
    wire = f"stream,id=n,server=off,addr.type=unix,addr.path={tmp_path / 'wire'}"
    with Guest(up) as ours:
        network.shell(ours)
        theirs_ = network.qemu_guest(
            debian, "-netdev", wire, "-device", "virtio-net-pci,netdev=n,disable-legacy=on", init=network.SHELL
        )
        with Guest(theirs_) as theirs:
            network.shell(theirs)
            for guest, address in ((ours, "10.9.0.1/24"), (theirs, "10.9.0.2/24")):
                network.set_address(guest, address)
            assert network.ping(ours, "10.9.0.2") == 3
            assert network.ping(theirs, "10.9.0.1", 5) == 5
            network.transfer(ours, theirs, "10.9.0.2", 8 * network.MIB)
            network.transfer(theirs, ours, "10.9.0.1", 8 * network.MIB)
            network.end(theirs)
        assert network.end(ours) == 0
