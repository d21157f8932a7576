"""The user network against a guest by hand: DHCP, ports both ways, no room, nonsense, and what is left after it."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devproc.network import slirp_library
from devproc.network.backend import PLAIN
from devproc.network.features import NetFeature
from devproc.network.frame import FRAME_MAX, HEADER, Flags
from devproc.network.user import User
from devproc.network.user_config import UserConfig
from protocol.errors import HostError
from tests.unit.devproc.network import guest as by_hand
from tests.unit.devproc.network.cards import sleeps
from tests.unit.devproc.network.guest import (
    ACK,
    RST,
    SYN,
    Connection,
    HandGuest,
    arp,
    dhcp,
    dhcp_options,
    ethernet,
    tcp,
    udp,
)
from tests.unit.devproc.vhost_rig import open_fds

pytestmark = pytest.mark.skipif(not slirp_library.available(), reason="no libslirp")

Make = Callable[..., HandGuest]


@pytest.fixture
def guest() -> Iterator[Make]:
    before = open_fds()
    made: list[HandGuest] = []

    def make(free: int = 1 << 30, **config: Any) -> HandGuest:
        made.append(HandGuest(User(UserConfig(**config)), free=free))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert open_fds() == before


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(5)
        yield made


def port(place: socket.socket) -> int:
    return int(place.getsockname()[1])


def host_port(made: HandGuest, index: int = 0) -> int:
    assert isinstance(made.network, User)
    return int(made.network.forwards[index].split(":")[2])


def accepted(place: socket.socket) -> socket.socket:
    found, _ = place.accept()
    found.settimeout(5)
    return found


def read(made: HandGuest, sock: socket.socket, size: int) -> bytes:
    """Read while the network goes on."""
    sock.setblocking(False)
    found = bytearray()

    def enough() -> bool:
        try:
            found.extend(sock.recv(1 << 20))
        except BlockingIOError:
            pass
        return len(found) >= size

    made.until(enough)
    return bytes(found)


def test_dhcp_gives_what_was_configured(guest: Make, tmp_path: Path) -> None:
    one = guest(
        network="192.168.7.0/24",
        hostname="box",
        domain="example.org",
        domain_search=("a.example", "b.example"),
        bootfile="start.efi",
        tftp=tmp_path,
    )
    one.send(dhcp(1))
    one.until(lambda: one.segments(17))
    offer = one.segments(17)[0].body
    options = dhcp_options(offer)
    assert socket.inet_ntoa(offer[16:20]) == "192.168.7.15"
    assert [socket.inet_ntoa(options[number]) for number in (3, 6, 54)] == ["192.168.7.2", "192.168.7.3", "192.168.7.2"]
    assert options[12] == b"box"
    assert options[15] == b"example.org"
    assert options[119].startswith(b"\x01a\x07example")
    assert offer[108:117] == b"start.efi"


def test_tftp_gives_the_folder_and_no_more(guest: Make, tmp_path: Path) -> None:
    folder = tmp_path / "boot"
    folder.mkdir()
    (folder / "kernel").write_bytes(b"a kernel")
    (tmp_path / "secret").write_bytes(b"a secret")
    one = guest(tftp=folder)
    assert one.ask("10.0.2.2", 69, b"\0\1kernel\0octet\0", 5001) == b"\0\3\0\1a kernel"
    assert one.ask("10.0.2.2", 69, b"\0\1../secret\0octet\0", 5002)[:2] == b"\0\5"


def test_the_guest_reaches_the_host(guest: Make, server: socket.socket) -> None:
    one = guest()
    connection = Connection(one, "10.0.2.2", port(server), 4000, mss=65480).connect()
    data = random.Random(1).randbytes(300_000)
    with accepted(server) as host:
        connection.write(data[:200_000])
        assert read(one, host, 200_000) == data[:200_000]
        host.setblocking(False)
        sent = 0

        def all_back() -> bool:
            nonlocal sent
            try:
                sent += host.send(data[sent:]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            return len(connection.received) == len(data)

        connection.until(all_back)
        assert connection.received == data
        assert max(map(len, one.card.frames)) > 30_000  # not cut for an Ethernet
        host.close()
        connection.until(lambda: connection.flags & by_hand.FIN)


def test_a_guest_with_small_frames_gets_small_frames(guest: Make, server: socket.socket) -> None:
    one = guest(mtu=1500)
    connection = Connection(one, "10.0.2.2", port(server), 4000, mss=9000).connect()
    with accepted(server) as host:
        host.send(bytes(20_000))
        connection.until(lambda: len(connection.received) == 20_000)
    assert 1400 < max(map(len, one.card.frames)) <= 1514
    assert one.network.mtu == 1500


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_host_reaches_the_guest(guest: Make, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ssh"
    one = guest(forward=("tcp:127.0.0.1:0:22",) if kind == "tcp" else (f"unix:{path}:22",))
    if kind == "unix":
        assert path.stat().st_mode & 0o777 == 0o600
    else:
        assert f"tcp:127.0.0.1:{host_port(one)}:22" in one.network.describe()
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as host:
        host.connect(str(path) if kind == "unix" else ("127.0.0.1", host_port(one)))
        connection = Connection(one, "", 0, 22).accept()
        host.sendall(b"to the guest")
        connection.until(lambda: connection.received == b"to the guest")
        connection.write(b"and back")
        assert read(one, host, 8) == b"and back"
        connection.finish()
        one.until(lambda: host.recv(1) == b"" if sleeps(one.descriptors, 0.01) else False)
    one.network.close()
    assert not path.exists()


def test_datagrams_reach_the_guest(guest: Make) -> None:
    one = guest(forward=("udp::0:5353",))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.connect(("127.0.0.1", host_port(one)))
        host.send(b"question")
        one.until(lambda: one.segments(17))
        found = one.segments(17)[0]
        assert (found.dport, found.body) == (5353, b"question")
        one.send(udp(one.address, 5353, found.source, found.sport, b"answer"))
        assert read(one, host, 6) == b"answer"


def test_addresses_in_the_network_lead_to_the_host(guest: Make, server: socket.socket, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as named:
        named.bind(str(tmp_path / "s"))
        named.listen()
        named.settimeout(5)
        one = guest(
            guest_forward=(
                "tcp:10.0.2.100:80:cmd:cat",
                f"tcp:10.0.2.100:81:unix:{tmp_path / 's'}",
                f"tcp:10.0.2.100:82:127.0.0.1:{port(server)}",
            ),
            restrict=True,
        )
        one.send(arp(1, one.address, "10.0.2.100"))  # it answers for them
        one.until(lambda: one.card.frames)
        echo = Connection(one, "10.0.2.100", 80, 4001).connect()
        echo.write(b"cat says")
        echo.until(lambda: echo.received == b"cat says")
        for sport, where, place in ((4002, 81, named), (4003, 82, server)):
            connection = Connection(one, "10.0.2.100", where, sport).connect()
            connection.write(b"hello")
            with accepted(place) as host:
                assert read(one, host, 5) == b"hello"
                host.sendall(b"goodbye")
                connection.until(lambda c=connection: c.received == b"goodbye")  # type: ignore[misc]
                connection.finish()
                assert read_end(one, host)
        echo.finish()
        echo.until(lambda: echo.flags & by_hand.FIN)


def test_commands_do_not_outlive_the_network(guest: Make, server: socket.socket) -> None:
    one = guest(
        guest_forward=("tcp:10.0.2.100:80:cmd:sh -c 'echo $$; exec cat'", f"tcp:10.0.2.100:81:127.0.0.1:{port(server)}")
    )
    shell = Connection(one, "10.0.2.100", 80, 4001).connect()
    shell.put(ACK)
    shell.until(lambda: b"\n" in shell.received)
    relayed = Connection(one, "10.0.2.100", 81, 4002).connect()
    relayed.put(ACK)
    one.descriptors.turn()
    with accepted(server) as host:
        one.network.close()
        assert host.recv(1) == b""  # by the relay, which ends after that
    process = Path(f"/proc/{int(shell.received)}")
    end = time.monotonic() + 5
    while process.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


_ORDINARY = """
import ctypes, logging, os
from devproc.network import slirp_library
from devproc.network.user import User
from devproc.network.user_config import UserConfig
from tests.unit.devproc.network.guest import HandGuest, dhcp
slirp_library.load()  # which this user could not read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
guest = HandGuest(User(UserConfig(forward=("tcp::0:22",))))
guest.send(dhcp(1))
guest.until(lambda: guest.segments(17))
guest.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="they are one already")
def test_an_ordinary_user_will_do() -> None:
    done = subprocess.run([sys.executable, "-c", _ORDINARY], timeout=20, check=False, stderr=subprocess.PIPE, text=True)
    assert not done.returncode, done.stderr


def read_end(made: HandGuest, sock: socket.socket) -> bool:
    sock.setblocking(False)

    def ended() -> bool:
        try:
            return sock.recv(1) == b""
        except BlockingIOError:
            return False

    made.until(ended)
    return True


def test_a_restricted_guest_stays_inside(guest: Make, server: socket.socket) -> None:
    one = guest(restrict=True)
    one.send(tcp(one.address, 4000, "10.0.2.2", port(server), 1, 0, SYN, mss=1460))
    one.send(tcp(one.address, 4001, "127.0.0.1", port(server), 1, 0, SYN, mss=1460))
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        one.until(server.accept)
    assert not any(each.flags & SYN for each in one.segments())


def test_the_hosts_own_ports_can_be_closed_to_the_guest(guest: Make, server: socket.socket) -> None:
    one = guest(host_loopback=False)
    one.send(tcp(one.address, 4000, "10.0.2.2", port(server), 1, 0, SYN, mss=1460))
    one.until(lambda: [each for each in one.card.frames if each[23] == 1])  # ICMP: not reachable
    assert not one.segments()


def test_a_port_where_nobody_listens_is_refused(guest: Make, server: socket.socket) -> None:
    one, closed = guest(), port(server)
    server.close()
    assert Connection(one, "10.0.2.2", closed, 4000).connect().flags & RST


@pytest.mark.parametrize("on", [True, False])
def test_ipv6_can_be_off(guest: Make, on: bool) -> None:
    one = guest(ipv6=on)
    source, target = bytes.fromhex("fe80" + 12 * "00" + "0015"), bytes.fromhex("ff02" + 12 * "00" + "0002")
    solicit = bytes([133, 0, 0, 0]) + bytes(4)
    check = by_hand.checksum(source + target + struct.pack(">II", 8, 58) + solicit)
    solicit = solicit[:2] + struct.pack(">H", check) + solicit[4:]
    packet = struct.pack(">IHBB", 6 << 28, 8, 58, 255) + source + target + solicit
    one.send(ethernet(0x86DD, packet, bytes.fromhex("333300000002")))

    def advertised() -> list[bytes]:
        return [each for each in one.card.frames if each[12:14] == b"\x86\xdd" and each[54] == 134]

    if on:
        one.until(advertised)
        assert bytes.fromhex("fec0" + 14 * "00") in advertised()[0]
    else:
        one.send(dhcp(1))
        one.until(lambda: one.segments(17))
        assert not advertised()


def test_a_guest_that_agrees_need_not_verify(guest: Make) -> None:
    one = guest()
    for features, flags in ((0, 0), (NetFeature.GUEST_CSUM, Flags.DATA_VALID), (0, 0)):
        one.network.agree(features)
        one.card.headers.clear()
        one.send(dhcp(1))
        one.until(lambda: one.card.headers)
        assert one.card.headers[0] == bytes([flags]) + bytes(HEADER - 1)


def test_without_room_nothing_is_lost(guest: Make, server: socket.socket) -> None:
    one = guest()
    connection = Connection(one, "10.0.2.2", port(server), 4000).connect()
    with accepted(server) as host:
        host.sendall(bytes(range(250)) * 200)
        one.card.free = 1
        one.until(lambda: one.card.refused)
        for _ in range(200):
            one.card.free += 2
            one.network.listen(wanted=False)
            one.network.listen(wanted=True)
            one.until(lambda: not one.card.free or len(connection.received) == 50_000)
            connection.look()
        one.card.free = 1 << 30
        one.network.listen(wanted=True)
        connection.until(lambda: len(connection.received) == 50_000)
    assert connection.received == bytes(range(250)) * 200
    assert not one.network.counters()["frames_guest_slow"]


def test_who_does_not_listen_gets_nothing_and_costs_nothing(guest: Make) -> None:
    one = guest(forward=("tcp::0:22",))
    one.network.listen(wanted=False)
    with socket.create_connection(("127.0.0.1", host_port(one))):
        one.until(lambda: sleeps(one.descriptors))
        assert not one.card.frames
        one.network.listen(wanted=True)
        Connection(one, "", 0, 22).accept()


def test_a_flood_without_room_is_bounded(guest: Make) -> None:
    one = guest(free=0)
    for number in range(40_000):
        assert one.network.send(0, PLAIN, [memoryview(arp(1, one.address, "10.0.2.2"))])
        if number % 500 == 0:
            one.network.flush()
            one.descriptors.turn()
    one.until(lambda: one.network.counters()["frames_guest_slow"])
    network = one.network
    assert isinstance(network, User)
    assert network._kept_size < 1_200_000
    assert sum(map(len, network._taken)) < 1_200_000
    one.until(lambda: sleeps(one.descriptors))


@pytest.mark.parametrize("seed", range(4))
def test_any_frames_are_survived(guest: Make, seed: int) -> None:
    dice = random.Random(seed)
    one = guest(restrict=True)  # what looks right by chance goes nowhere
    models = [dhcp(1), arp(1, one.address, "10.0.2.2"), udp(one.address, 1, "10.0.2.3", 53, bytes(40)),
              udp(one.address, 1, "10.0.2.2", 69, b"\0\1x\0octet\0"),
              tcp(one.address, 9, "10.0.2.2", 1, 1, 0, SYN, mss=1),
              tcp(one.address, 9, "10.0.2.2", 1, 1, 1, ACK, b"x" * 99)]  # fmt: skip
    for number in range(1500):
        if number % 3:
            frame = bytearray(dice.choice(models))
            for _ in range(dice.randrange(4)):
                frame[dice.randrange(len(frame))] = dice.randrange(256)
            frame = frame[: dice.choice((len(frame), dice.randrange(len(frame) + 1)))]
            if dice.random() < 0.1:
                frame += dice.randbytes(dice.choice((1, 1500, 60_000)))
        else:
            size = dice.choice((0, 1, 13, 14, 15, 33, 34, 42, 60, 1514, FRAME_MAX, dice.randrange(FRAME_MAX)))
            kind = dice.choice((b"", b"\x08\x00\x45", b"\x08\x06", b"\x86\xdd\x60"))
            frame = bytearray((bytes(12) + kind + dice.randbytes(min(size, 3000))).ljust(size, b"\x77")[:size])
        cut = dice.randrange(len(frame) + 1)
        pieces = [memoryview(frame)] if dice.random() < 0.5 else [memoryview(frame)[:cut], memoryview(frame)[cut:]]
        assert one.network.send(0, PLAIN, pieces)
        if number % 50 == 0:
            one.network.flush()
            one.descriptors.turn()
    one.card.frames.clear()
    one.seen = 0
    one.send(dhcp(1))
    one.until(lambda: one.segments(17) if all(len(each) > 23 for each in one.card.frames) else True)
    assert not one.network.counters()["faults"]


def test_an_exception_does_not_pass_through_the_library(guest: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = guest()

    def broken(*_: object) -> bool:
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(one.card, "deliver", broken)
        one.send(dhcp(1))
        one.until(lambda: one.network.counters()["faults"])
    one.send(dhcp(1))
    one.until(lambda: one.segments(17))


def test_a_port_that_is_taken_is_said(guest: Make, server: socket.socket, tmp_path: Path) -> None:
    before = open_fds()
    with pytest.raises(HostError, match=f"forward tcp:127.0.0.1:{port(server)}:22: .*in use"):
        User(UserConfig(forward=(f"unix:{tmp_path / 'left'}:1", f"tcp::{port(server)}:22")))
    assert open_fds() == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(HostError, match="guest forward"):
        User(UserConfig(guest_forward=("tcp:10.0.2.2:80:cat",)))  # the host's own address
    with socket.socket(socket.AF_UNIX) as named:
        named.bind(str(tmp_path / "s"))
        named.listen()
        with pytest.raises(HostError, match="another process"):
            User(UserConfig(forward=(f"unix:{tmp_path / 's'}:22",)))
    assert (tmp_path / "s").exists()


def test_a_missing_library_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp_library, "LIBRARY", "libslirp-of-nobody.so.0")
    slirp_library.load.cache_clear()
    with pytest.raises(HostError, match="libslirp-of-nobody") as caught:
        User(UserConfig())
    assert "apt install libslirp0" in str(caught.value.hint)
    assert not slirp_library.available()
    monkeypatch.undo()
    slirp_library.load.cache_clear()


_NAME_SERVER = """
import ctypes, os, socket, subprocess, sys, threading
from devproc.network.user import User
from devproc.network.user_config import UserConfig
from tests.unit.devproc.network.guest import HandGuest
flags = 0x4000_0000 | 0x2_0000 | (0x1000_0000 if os.geteuid() else 0)  # CLONE_NEWNET, NEWNS, NEWUSER
if ctypes.CDLL(None).unshare(flags):
    sys.exit(77)
script = f"mount --make-rprivate /; mount --bind {sys.argv[1]} /etc/resolv.conf; ip link set lo up"
subprocess.run(["sh", "-ec", script], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    question, asker = server.recvfrom(1000)
    server.sendto(b"answer to " + question, asker)
threading.Thread(target=serve, daemon=True).start()
guest = HandGuest(User(UserConfig()))
assert guest.ask("10.0.2.3", 53, b"a question") == b"answer to a question"
guest.close()
"""


def test_names_are_asked_for_where_the_host_asks(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    done = subprocess.run(
        [sys.executable, "-c", _NAME_SERVER, str(resolver)], timeout=20, check=False, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == 77:
        pytest.skip("no namespaces")
    assert not done.returncode, done.stderr


def test_idle_connections_cost_little(guest: Make, server: socket.socket) -> None:
    server.listen(100)
    one = guest()
    kept = []
    for number in range(50):
        connection = Connection(one, "10.0.2.2", port(server), 6000 + number).connect()
        connection.put(ACK)
        kept.append(accepted(server))
    one.until(lambda: sleeps(one.descriptors))
    turns, end = 0, time.monotonic() + 0.5
    while (left := end - time.monotonic()) > 0:
        if select.select([one.descriptors.fd], [], [], left)[0]:
            one.descriptors.turn()
            turns += 1
    for each in kept:
        each.close()
    assert turns < 25
