"""Linux's net_failover over a card that is unplugged and plugged in again: a TCP stream goes on through its standby."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MAC = "52:54:00:fa:11:07"
PAIR = f"""
[[hub]]
id = "lan"
[[device]]
id = "standby"
type = "virtio-net"
backend = "hub"
hub = "lan"
mac = "{MAC}"
standby = true
[[device]]
id = "primary"
type = "e1000e"
bus = "pcie"
backend = "hub"
hub = "lan"
mac = "{MAC}"
"""
MASTER, STANDBY, PRIMARY = "eth0", "eth1", "eth2"  # in the order in which net_failover and the drivers make them
PIECES, PIECE = 160, 256 << 10


def did(*words: str) -> None:
    """Run a command about the machine, which succeeds."""
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def sent(guest: Guest, card: str) -> int:
    """Return the bytes that a card has sent."""
    return int(guest.run(f"cat /sys/class/net/{card}/statistics/tx_bytes"))


def progress(guest: Guest, card: str) -> None:
    """Return when a card has sent some MiB more."""
    before, deadline = sent(guest, card), time.monotonic() + 30
    while sent(guest, card) < before + (2 << 20):
        assert time.monotonic() < deadline, guest.run("ip -br link; dmesg | tail")


def test_a_stream_survives_its_primary(debian: Path, tmp_path: Path) -> None:
    pair, peer = tmp_path / "pair.toml", tmp_path / "peer.toml"
    pair.write_text(on_a_snapshot("pair").format(image=debian).replace(" rw", f" rw {network.SHELL}") + PAIR)
    peer.write_text(network.with_card("peer", debian, 'backend = "hub"', 'hub = "pair/lan"', init=network.SHELL))
    up = [sys.executable, "-m", "orchestrator", "up"]
    with Guest([*up, str(pair)]) as guest, Guest([*up, str(peer)]) as other:
        network.shell(guest, "virtio_net", "e1000e")
        network.shell(other)
        network.set_address(other, "10.9.0.2/24")
        assert "primary slave" in guest.run("dmesg | grep 'failover primary'")
        guest.run(f"ip addr add 10.9.0.1/24 dev {MASTER}; ip link set {MASTER} up")
        guest.run(f"until ip link show {PRIMARY} | grep -q LOWER_UP; do sleep 0.1; done", 30)
        assert network.ping(guest, "10.9.0.2") == 3

        guest.run(f"head -c {PIECE} /dev/urandom > /tmp/piece")
        pieces = f"for i in $(seq {PIECES}); do cat /tmp/piece"
        expected = network.digest_of(guest.run(f"{pieces}; done | sha256sum", 120))
        other.type(f"{network.LISTEN}; echo end-of-''transfer")
        time.sleep(1)
        guest.run(f"({pieces}; sleep 0.05; done > /dev/tcp/10.9.0.2/5555) & sleep 0")
        progress(guest, PRIMARY)
        function = guest.run("grep -l e1000e /sys/bus/pci/devices/*/uevent").split("/")[5]
        guest.run(f"echo 1 > /sys/bus/pci/devices/{function}/remove")  # Debian's kernel has no hot-plug driver
        did("detach", "pair", "primary")
        progress(guest, STANDBY)
        did("attach", "pair", "primary")
        guest.run("echo 1 > /sys/bus/pci/rescan")
        guest.run(f"until ip link show {PRIMARY} 2> /dev/null | grep -q LOWER_UP; do sleep 0.1; done", 30)
        progress(guest, PRIMARY)
        assert network.digest_of(other.wait_for("end-of-transfer\n", 120)) == expected
        assert network.end(guest) == network.end(other) == 0
