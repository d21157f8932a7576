"""passt as a process of ours: what it answers, what happens when it dies, and that it never outlives the device."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devproc.network import passt
from devproc.network.backend import PLAIN
from devproc.network.passt import Passt, PasstConfig
from protocol.errors import ConfigError, HostError
from tests.unit.devproc.network.guest import HandGuest, arp, dhcp, dhcp_options, tcp
from tests.unit.devproc.vhost_rig import open_fds

real = pytest.mark.skipif(not passt.available(), reason="no passt")
Make = Callable[..., HandGuest]


@pytest.fixture
def guest(outside: None) -> Iterator[Make]:
    before = open_fds()
    made: list[HandGuest] = []

    def make(**config: Any) -> HandGuest:
        made.append(HandGuest(Passt(PasstConfig(**config))))
        return made[-1]

    yield make
    pids = [network_of(each).pid for each in made]
    for each in made:
        each.close()
    assert not [pid for pid in pids if pid and alive(pid)]
    assert open_fds() == before


def network_of(made: HandGuest) -> Passt:
    assert isinstance(made.network, Passt)
    return made.network


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_options() -> None:
    found = PasstConfig(
        forward=("tcp::2222:22", "udp:0.0.0.0:53:5353"), mtu=1500, ipv6=False,
        interface="eth0", domain_search=("a.b", "c"), host_loopback=False,
    ).arguments()  # fmt: skip
    text = " ".join(found)
    assert "--tcp-ports 127.0.0.1/2222:22 --udp-ports 0.0.0.0/53:5353" in text
    assert "--mtu 1500 --ipv4-only --no-map-gw --interface eth0 --search a.b c" in text
    assert PasstConfig().arguments()[-4:] == ["--tcp-ports", "none", "--udp-ports", "none"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"forward": ("unix:/x:22",)},
        {"forward": ("tcp::1:10.0.2.15:22",)},
        {"mtu": 65521},
        {"interface": "-x"},
        {"domain_search": ("a b",)},
    ],
)
def test_what_passt_has_not(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PasstConfig(**wrong)


def test_a_missing_program_has_a_hint() -> None:
    before = open_fds()
    with pytest.raises(HostError, match="passt-of-nobody") as caught:
        Passt(PasstConfig(program="passt-of-nobody"))
    assert "apt install passt" in str(caught.value.hint)
    assert open_fds() == before


@real
def test_a_port_that_is_taken_is_said() -> None:
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(HostError, match="bind"):
        Passt(PasstConfig(forward=(f"tcp::{server.getsockname()[1]}:22",)))
    assert open_fds() == before


@real
def test_dhcp(guest: Make) -> None:
    one = guest(mtu=9000)
    one.send(dhcp(1))
    one.until(lambda: one.segments(17))
    options = dhcp_options(one.segments(17)[0].body)
    assert options[53] == b"\x02"
    assert options[26] == struct.pack(">H", 9000)
    assert one.network.mtu == 9000


@real
def test_the_host_reaches_the_guest(guest: Make) -> None:
    one = guest(forward=("tcp::0:22",))
    forward = network_of(one).config.forwards[0]
    assert isinstance(forward.host, tuple)
    assert str(forward) in one.network.describe()
    one.send(dhcp(1))
    one.until(lambda: one.segments(17))
    one.address = socket.inet_ntoa(one.segments(17)[0].body[16:20])
    one.send(arp(1, one.address, socket.inet_ntoa(dhcp_options(one.segments(17)[0].body)[3])))
    with socket.socket() as host:
        host.setblocking(False)
        host.connect_ex(forward.host)
        one.until(lambda: [each for each in one.segments() if each.dport == 22])
        found = one.segments()[0]
        one.send(tcp(one.address, 22, found.source, found.sport, 1, found.seq + 1, 0x14))  # refused


@real
def test_it_is_started_again(guest: Make) -> None:
    one = guest()
    network = network_of(one)
    first = network.pid
    os.kill(first, signal.SIGKILL)
    one.until(lambda: not network.pid)
    assert network.send(0, PLAIN, [memoryview(dhcp(1))])
    network.flush()
    assert network.counters()["frames_without_peer"] == 1
    assert "ended" in network.describe()
    one.until(lambda: network.pid)
    assert network.pid != first
    assert network.counters()["restarts"] == 1
    one.send(dhcp(1))
    one.until(lambda: one.segments(17))


@real
def test_one_that_speaks_nonsense_is_replaced(guest: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = guest()
    network = network_of(one)
    first = network.pid
    assert network._framing is not None
    network._framing._finish("sent a frame of 1000000 bytes")  # it never does
    one.until(lambda: network.pid)
    assert network.pid != first
    assert not alive(first)


_DEVICE = """
import sys, time
from devproc.descriptors import Descriptors
from devproc.network.passt import Passt, PasstConfig
from tests.unit.devproc.network.cards import ScriptedCard
network = Passt(PasstConfig())
network.start(ScriptedCard(), Descriptors())
print(network.pid, flush=True)
time.sleep(60)
"""


@real
def test_it_does_not_outlive_a_killed_device() -> None:
    with subprocess.Popen([sys.executable, "-c", _DEVICE], stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        pid = int(device.stdout.readline())
        assert alive(pid)
        device.kill()
    end = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < end, "passt was left over"
        time.sleep(0.01)


def test_a_program_that_keeps_dying_is_not_a_busy_loop(guest: Make, tmp_path: Path) -> None:
    dying = tmp_path / "dying"
    dying.write_text('#!/bin/sh\nwhile [ "$1" != --pid ]; do shift; done\necho 1 > "$2"\nexec sleep 0.01\n')
    dying.chmod(0o755)
    one = guest(program=str(dying))
    end = time.monotonic() + 0.6
    one.until(lambda: time.monotonic() > end)
    assert 1 <= one.network.counters()["restarts"] <= 3
