"""A tap in a network namespace of its own, with the kernel at the other end."""

from __future__ import annotations

import os
import pwd
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devproc.network import tun
from devproc.network.backend import PLAIN
from devproc.network.features import NetFeature
from devproc.network.frame import HEADER, Flags, Gso
from devproc.network.tap import Tap, TapConfig
from protocol.errors import ConfigError, HostError
from tests.unit.devproc.network.cards import sleeps
from tests.unit.devproc.network.guest import MAC, HandGuest, arp, ethernet, ipv4, udp
from tests.unit.devproc.vhost_rig import open_fds

Make = Callable[..., HandGuest]
HOST, GUEST = "10.9.0.1", "10.9.0.2"
_NEWNET = 0x4000_0000
_UDP_SEGMENT = 103
F = NetFeature
CSUM = F.CSUM | F.GUEST_CSUM


@pytest.fixture
def guest(namespace: None) -> Iterator[Make]:
    before = open_fds()
    made: list[HandGuest] = []

    def make(pairs: int = 1, free: int = 1 << 30, agreed: int = CSUM) -> HandGuest:
        tap = Tap(TapConfig("tap0", pairs))
        ip(f"addr add {HOST}/24 dev tap0")
        ip(f"neigh add {GUEST} lladdr {MAC.hex(':')} dev tap0")
        one = HandGuest(tap, GUEST, free)
        tap.agree(agreed)
        made.append(one)
        return one

    yield make
    for each in made:
        each.close()
    assert open_fds() == before
    assert not exists()


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def exists(name: str = "tap0") -> bool:
    return bool(tun._index(name))


def peer() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 5353))
    sock.setblocking(False)
    return sock


def datagrams(one: HandGuest) -> list[bytes]:
    return [each.body for each in one.segments(17) if each.dport == 7]


def test_frames_go_both_ways(guest: Make) -> None:
    one = guest()
    one.send(arp(1, GUEST, HOST))
    one.until(lambda: [each for each in one.card.frames if each[12:14] == b"\x08\x06"])
    with peer() as host:
        frame = memoryview(udp(GUEST, 7, HOST, 5353, b"to the host"))
        assert one.network.send(0, PLAIN, [frame[:20], frame[20:30], frame[30:]])
        assert host.recv(100) == b"to the host"
        for size in (0, 1, 1000, 1472):
            host.sendto(b"x" * size, (GUEST, 7))
        one.until(lambda: len(datagrams(one)) == 4)
    assert list(map(len, datagrams(one))) == [0, 1, 1000, 1472]
    assert one.network.describe() == "tap tap0"
    assert one.network.mtu == 0


def test_checksums_are_left_to_whom_agreed(guest: Make) -> None:
    one = guest()
    with peer() as host:
        for features, flags in ((CSUM, Flags.NEEDS_CSUM), (0, 0), (CSUM, Flags.NEEDS_CSUM)):
            one.network.agree(features)
            one.card.frames.clear()
            one.card.headers.clear()
            host.sendto(b"x", (GUEST, 7))
            one.until(lambda: datagrams(one))
            assert [
                head[0]
                for head, each in zip(one.card.headers, one.card.frames, strict=True)
                if each[12:14] == b"\x08\x00"
            ] == [flags]


def test_segments_are_made_by_the_kernel(guest: Make) -> None:
    one = guest()
    if not one.network.offloads & F.HOST_USO:
        pytest.skip("a kernel before 6.2")
    body = bytes(range(250)) * 16
    segments = struct.pack(">HHHH", 7, 5353, 8 + len(body), 0) + body
    header = struct.pack("<BBHHHHH", Flags.NEEDS_CSUM, Gso.UDP_L4, 42, 1000, 34, 6, 0)
    with peer() as host:
        assert one.network.send(0, header, [memoryview(ethernet(0x800, ipv4(GUEST, HOST, 17, segments)))])
        assert [host.recv(2000) for _ in range(4)] == [body[:1000]] * 4


@pytest.mark.parametrize("agreed", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_segments_for_a_guest_that_agreed(guest: Make, agreed: bool, count: int) -> None:
    one = guest(agreed=CSUM | (F.GUEST_USO4 | F.GUEST_USO6) * agreed)
    if not one.network.offloads & F.GUEST_USO4:
        pytest.skip("a kernel before 6.2")
    with peer() as host:
        host.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, 1000)
        for _ in range(count):  # the first finds short room, the second long
            host.sendto(bytes(range(250)) * 20, (GUEST, 7))
        one.until(lambda: sum(map(len, datagrams(one))) == count * 5000)
    kinds = {
        (head[1], int.from_bytes(head[4:6], "little"))
        for head, each in zip(one.card.headers, one.card.frames, strict=True)
        if len(each) > 1000
    }
    assert kinds == ({(Gso.UDP_L4, 1000)} if agreed else {(Gso.NONE, 0)})
    assert b"".join(datagrams(one)) == bytes(range(250)) * 20 * count


@pytest.mark.parametrize("agreed", [CSUM, 0])
def test_without_room_frames_stay(guest: Make, agreed: int) -> None:
    one = guest(free=0, agreed=agreed)
    with peer() as host:
        for number in range(5):
            host.sendto(bytes([number]) * 1400, (GUEST, 7))
        one.until(lambda: one.card.refused)
        assert sleeps(one.descriptors)
        for _ in range(50):
            one.card.free = 2
            one.network.listen(wanted=True)
            one.until(lambda: not one.card.free or len(datagrams(one)) == 5)
        assert [each[0] for each in datagrams(one)] == [0, 1, 2, 3, 4]


def test_who_does_not_listen_hears_nothing(guest: Make) -> None:
    one = guest()
    one.network.listen(wanted=False)
    with peer() as host:
        host.sendto(b"x", (GUEST, 7))
        assert sleeps(one.descriptors)
        one.network.listen(wanted=True)
        one.until(lambda: datagrams(one))


def test_large_frames_of_the_interface(guest: Make) -> None:
    one = guest()
    ip("link set tap0 mtu 9000")
    with peer() as host:
        for _ in range(3):
            host.sendto(bytes(8000), (GUEST, 7))
        one.until(lambda: len(datagrams(one)) == 3)
    one.network.close()
    ip("tuntap add dev tap0 mode tap")
    ip("link set tap0 mtu 9000")
    tap = Tap(TapConfig("tap0"))
    assert tap.mtu == 9000
    tap.close()
    ip("link delete tap0")


def test_headers_that_the_kernel_refuses(guest: Make) -> None:
    one = guest()
    for header in (
        struct.pack("<BBHHHHH", Flags.NEEDS_CSUM, Gso.NONE, 0, 0, 60_000, 6, 0),
        struct.pack("<BBHHHHH", Flags.NEEDS_CSUM, Gso.TCPV4, 54, 0, 34, 16, 0),
        struct.pack("<BBHHHHH", 0, 77, 0, 1, 0, 0, 0),
    ):
        assert one.network.send(0, header, [memoryview(udp(GUEST, 7, HOST, 5353, b"x"))])
    assert one.network.send(0, PLAIN, [memoryview(b"x" * 5)])  # shorter than Ethernet
    assert one.network.counters()["frames_refused"] == 4


def test_several_queues(guest: Make) -> None:
    one = guest(pairs=3)
    with peer() as host:
        for pairs in (3, 1, 2, 3):
            one.network.use(pairs)
            for pair in range(3):
                assert one.network.send(pair, PLAIN, [memoryview(udp(GUEST, 100 + pair, HOST, 5353, b"x"))])
                assert host.recvfrom(10) == (b"x", (GUEST, 100 + pair))
            one.card.frames.clear()
            one.card.pairs.clear()
            for pair in range(3):
                host.sendto(b"y", (GUEST, 100 + pair))  # the kernel answers on the queue a flow came from
            one.until(lambda: len(one.segments(17)) == 3)
            assert {pair for pair in one.card.pairs if pair is not None} <= set(range(pairs))
            assert sleeps(one.descriptors)
    assert not one.network.counters()["queues_refused"]
    assert "3 pairs" in one.network.describe()


def test_an_interface_that_is_down_then_up(guest: Make) -> None:
    one = guest()
    ip("link set tap0 down")
    assert one.network.send(0, PLAIN, [memoryview(udp(GUEST, 7, HOST, 5353, b"x"))])
    assert one.network.counters()["frames_interface_down"] == 1
    assert sleeps(one.descriptors)
    ip("link set tap0 up")
    one.send(arp(1, GUEST, HOST))
    one.until(lambda: one.card.frames)


@pytest.mark.parametrize("pairs", [1, 2])
def test_an_interface_that_is_deleted(guest: Make, pairs: int) -> None:
    one = guest(pairs)
    one.network.use(pairs)
    ip("link delete tap0")
    one.until(lambda: "gone" in one.network.describe())
    assert sleeps(one.descriptors)
    assert one.network.send(0, PLAIN, [memoryview(udp(GUEST, 7, HOST, 5353, b"x"))])
    assert one.network.counters()["frames_interface_gone"] == 1
    one.network.listen(wanted=False)
    one.network.listen(wanted=True)
    one.network.use(1)
    one.network.agree(0)


def test_a_deleted_interface_is_noticed_by_sending(guest: Make) -> None:
    one = guest()
    ip("link delete tap0")
    assert one.network.send(0, PLAIN, [memoryview(udp(GUEST, 7, HOST, 5353, b"x"))])
    assert one.network.counters()["frames_interface_gone"] == 1


def test_a_descriptor_that_is_handed_over(guest: Make) -> None:
    (fd,) = tun.attach("tap0", 1)
    tap = Tap(TapConfig(fds=(fd,)))
    assert tap.describe() == "tap tap0"
    tap.close()
    with open("/dev/null") as null, pytest.raises(ConfigError, match="no tap"):
        Tap(TapConfig(fds=(null.fileno(),)))


def test_interfaces_that_are_there_already(namespace: None) -> None:
    ip("tuntap add dev tap0 mode tap multi_queue")
    Tap(TapConfig("tap0", 1)).close()
    tap = Tap(TapConfig("tap0", 2))
    tap.close()
    assert exists()
    ip("tuntap add dev tap1 mode tap")
    with pytest.raises(HostError) as caught:
        Tap(TapConfig("tap1", 2))
    assert "multi_queue vnet_hdr" in str(caught.value.hint)
    tap = Tap(TapConfig("tap1"))
    with pytest.raises(HostError, match="busy") as caught:
        Tap(TapConfig("tap1"))
    assert caught.value.hint == "another process holds it"
    tap.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"interface": "a" * 16},
        {"interface": "a/b"},
        {"interface": "tap%d"},
        {"interface": "tap0", "pairs": 0},
        {"fds": (1, 2)},
        {"interface": "t", "fds": (1,)},
    ],
)
def test_configurations_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TapConfig(**wrong)


_UNPRIVILEGED = """
import os, sys
from devproc.network import tun
from devproc.network.tap import Tap, TapConfig
from protocol.errors import HostError
device = os.path.exists("/dev/net/tun") and os.open("/dev/net/tun", os.O_RDWR)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for attempt in (tun.check, lambda name: Tap(TapConfig(name))):
    try:
        attempt("tap77")
        print("no error")
    except HostError as error:
        print(error, "|", error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="has to become somebody else")
@pytest.mark.parametrize("open_to_all", [True, False])
def test_without_privileges_the_hint_is_the_command(
    tmp_path: Path, open_to_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _UNPRIVILEGED
    if open_to_all:  # as on most systems, which this one may not be
        script = script.replace("os.setgroups", "tun.DEVICE = __import__('pathlib').Path('/dev/null')\nos.setgroups")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    if open_to_all:
        user = pwd.getpwuid(65534).pw_name
        expected = f"sudo ip tuntap add dev tap77 mode tap user {user} vnet_hdr && sudo ip link set tap77 up"
        assert lines[0] == f"there is no interface tap77 | {expected}"
    else:
        assert all("/dev/net/tun" in line and "|" in line for line in lines) or "tuntap add" in lines[0]


def test_a_check_leaves_nothing(namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    tun.check("tap0", 4)
    assert not exists()
    with pytest.raises(ConfigError):
        tun.check("a b")
    monkeypatch.setattr(tun, "_privileged", lambda: False)
    with pytest.raises(HostError, match="no interface tap0") as caught:
        tun.check("tap0", 4)
    assert "multi_queue" in str(caught.value.hint)
    monkeypatch.setattr(tun, "DEVICE", Path("/nonexistent"))
    with pytest.raises(HostError, match="not there"):
        tun.check("tap0")
    assert open_fds() == before


_CHECKED = """
import ctypes, subprocess, sys
from devproc.network import tun
from protocol.errors import HostError
if ctypes.CDLL(None).unshare(0x4002_0000):
    sys.exit(77)
def run(text):
    subprocess.run(["sh", "-ec", text], check=True)
run("mount --make-rprivate /; mount -t sysfs sysfs /sys")
tun._privileged = lambda: False
def said(name, pairs=1):
    try:
        tun.check(name, pairs)
    except HostError as error:
        return str(error)
run("ip tuntap add dev mine mode tap user 0; ip tuntap add dev other mode tap user 1")
run("ip tuntap add dev many mode tap multi_queue; ip tuntap add dev notap mode tun")
assert said("mine") is None
assert said("many", 4) is None
assert said("other") == "other is another user's"
assert said("mine", 2) == "mine has one queue, not 2"
assert said("notap") == "notap is a tun, not a tap"
assert said("lo") == "lo is no tap interface"
"""


def test_what_a_check_finds() -> None:
    done = subprocess.run([sys.executable, "-c", _CHECKED], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode == 77:
        pytest.skip("no namespaces")
    assert not done.returncode, done.stderr


def test_any_header_is_survived(guest: Make) -> None:
    dice = random.Random(5)
    one = guest()
    words = [(0, 1, 1, 2, 7), (0, 1, 3, 4, 5, 0x81), (0, 42, 54, 65535), (0, 1, 1000, 65535), (0, 14, 34, 999)]
    for _ in range(3000):
        header = struct.pack("<BBHHHHH", *map(dice.choice, words), dice.choice((0, 6, 16, 65535)), 0)
        if dice.random() < 0.3:
            header = dice.randbytes(HEADER)
        frame = memoryview(udp(GUEST, 7, HOST, 5353, bytes(dice.choice((0, 1, 100, 5000)))))
        assert one.network.send(0, header, [frame[: dice.choice((len(frame), dice.randrange(len(frame) + 1)))]])
    one.card.frames.clear()
    one.send(arp(1, GUEST, HOST))
    one.until(lambda: one.card.frames)
