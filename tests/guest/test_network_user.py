"""The network that needs no privilege: Debian as ``make run`` boots it gets an address, a resolver and an ssh."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.expect import Guest
from tests.guest.server import serving

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


def test_debian_has_a_network(debian: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    card = ['backend = "user"', 'forward = ["tcp:127.0.0.1:0:22"]', 'pcap = "net.pcap"', 'hostname = "guest"']
    path.write_text(network.with_card("user", debian, *card))
    data = hashlib.shake_128(b"down").digest(16 * network.MIB)
    with Guest([sys.executable, "-m", "orchestrator", "up", str(path)]) as guest, serving(data) as (port, heard):
        guest.login(network.PASSWORD)
        said = guest.run("for i in $(seq 100); do ip -4 addr | grep 10.0.2.15 && break; sleep 0.2; done", 60)
        assert "10.0.2.15/24" in said, guest.run("ip addr; networkctl status")
        assert "10.0.2.3" in guest.run("cat /etc/resolv.conf")
        guest.run("getent ahostsv4 www.debian.org", 60)
        assert network.ping(guest, "10.0.2.2") == 3
        assert "dropbear" in ssh_banner(ssh_port("user"))
        got = guest.run(f"exec 3<>/dev/tcp/10.0.2.2/{port}; echo give >&3; sha256sum <&3", 120)
        assert network.digest_of(got) == hashlib.sha256(data).hexdigest()
        guest.run(f"head -c {16 * network.MIB} /dev/urandom > /tmp/up")
        sent = network.digest_of(guest.run("sha256sum < /tmp/up"))
        guest.run(f"cat /tmp/up > /dev/tcp/10.0.2.2/{port}", 120)
        assert hashlib.sha256(heard.get(timeout=60)).hexdigest() == sent
        the_link_goes_and_comes(guest)
        a_process_dies(guest)
        got = guest.run(f"exec 3<>/dev/tcp/10.0.2.2/{port}; echo give >&3; sha256sum <&3", 120)
        assert network.digest_of(got) == hashlib.sha256(data).hexdigest()
        guest.type("poweroff -f")
        assert guest.status(60) == 0
    capture = tmp_path / "net.pcap"
    messages = shown(capture, "dhcp.option.dhcp", "dhcp.option.dhcp")
    assert messages[:4] == ["1", "2", "3", "5"]  # discover, offer, request, acknowledgement
    assert shown(capture, "dns.flags.response == 0", "dns.qry.name")[0] == "www.debian.org"
    if resolver_answers():
        assert shown(capture, "dns.flags.response == 1", "dns.qry.name")[0] == "www.debian.org"


def shown(capture: Path, which: str, field: str) -> list[str]:
    """Return a field of some frames, as tshark has it."""
    command = ["tshark", "-r", str(capture), "-Y", which, "-T", "fields", "-e", field]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def resolver_answers() -> bool:
    """Return whether the host's own resolver says anything at all."""
    found = re.search(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.M)
    if not found:
        return False
    query = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3www\6debian\3org\0\0\1\0\1"
    with socket.socket(socket.AF_INET6 if ":" in found[1] else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        try:
            asker.sendto(query, (found[1], 53))
            return bool(asker.recv(1000))
        except OSError:
            return False


def orchestrator(*words: str) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def the_link_goes_and_comes(guest: Guest) -> None:
    """Plug the cable out and in; the guest sees both."""
    card = network.card_of(guest)
    orchestrator("link", "user", "net0", "down")
    assert "net0: down" in orchestrator("link", "user", "net0")
    assert "0" in guest.run(f"sleep 0.5; cat /sys/class/net/{card}/carrier")
    orchestrator("link", "user", "net0", "up")
    assert "1" in guest.run(f"sleep 0.5; cat /sys/class/net/{card}/carrier")
    orchestrator("link", "user", "net0", "announce")


def a_process_dies(guest: Guest) -> None:
    """Kill the card's process; its successor serves the same driver."""
    listed = json.loads(orchestrator("ps", "user", "--json"))
    rows = listed["processes"] if isinstance(listed, dict) else listed[0]["processes"]
    os.kill(next(row["pid"] for row in rows if row["id"] == "net0"), signal.SIGKILL)
    for _ in range(30):
        if network.ping(guest, "10.0.2.2", 1):
            return
    pytest.fail("no ping after the process died")


def ssh_port(vm: str) -> int:
    """Return the port that was free."""
    said = orchestrator("inspect", vm, "net0")
    found = re.search(r"tcp:127\.0\.0\.1:(\d+)", said)
    assert found is not None, said
    return int(found[1])


def ssh_banner(port: int) -> str:
    """Return how the server at a port of the host introduces itself."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        peer.settimeout(60)
        return peer.recv(200).decode(errors="replace")
