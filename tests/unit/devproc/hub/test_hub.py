"""The hub on real sockets: frames between cards and streams, whole where nobody knows headers, peers that are mean."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devproc.hub.__main__ import main
from devproc.hub.hub import Config, Hub
from devproc.network.address import Address
from devproc.network.backend import PLAIN
from devproc.network.segments import TCP_CHECKSUM, prepare
from protocol.errors import HostError

A, B, ALL = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2]), b"\xff" * 6


class Rig:
    """A hub and those who join it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "far"))
        self.listener.listen()
        self.hub = Hub(
            Config(Address(folder / "cards"), (Address(folder / "streams"),), (Address.parse(f"unix:{folder}/far"),))
        )
        self.clients: list[socket.socket] = []

    def join(self, name: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.folder / name))
        client.settimeout(2)
        self.clients.append(client)
        self.settle()
        return client

    def settle(self) -> None:
        while select.select([self.hub.descriptors.fd], [], [], 0.02)[0]:
            self.hub.turn()

    def send(self, client: socket.socket, frame: bytes, header: bytes = b"") -> None:
        client.sendall(struct.pack(">I", len(header + frame)) + header + frame)
        self.settle()

    def close(self) -> None:
        self.hub.close()
        self.listener.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def frames(client: socket.socket, *, prefix: int = 0) -> list[bytes]:
    """Return what has arrived, without lengths and headers."""
    client.setblocking(False)
    data = b""
    try:
        while chunk := client.recv(1 << 20):
            data += chunk
    except BlockingIOError:
        pass
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 + prefix : 4 + size])
        data = data[4 + size :]
    return found


def frame(to: bytes, source: bytes) -> bytes:
    return to + source + b"\x88\xb5" + bytes(50)


def test_cards_and_streams_hear_each_other(rig: Rig) -> None:
    card, stream = rig.join("cards"), rig.join("streams")
    far, _ = rig.listener.accept()
    rig.clients.append(far)
    rig.send(card, frame(ALL, A), PLAIN)
    assert frames(stream) == frames(far) == [frame(ALL, A)]
    rig.send(stream, frame(A, B))
    assert frames(card, prefix=12) == [frame(A, B)]
    assert frames(far) == []
    assert {port.name for port in rig.hub.ports} == {"card1", "stream2", f"unix:{rig.folder}/far"}
    assert rig.hub.switch.macs()[B.hex(":")][0] == "stream2"


def test_a_large_packet_is_cut_for_who_knows_no_headers(rig: Rig) -> None:
    card, other, stream = rig.join("cards"), rig.join("cards"), rig.join("streams")
    head = bytearray(
        ALL + A + b"\x08\x00" + b"\x45" + bytes(8) + b"\x06" + bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    )
    head += struct.pack(">HHIIBBHHH", 1, 2, 7, 8, 0x50, 0x10, 100, 0, 0)
    payload = bytes(range(250)) * 16
    assert prepare(head, 34, 6, len(head) + len(payload))
    packet = bytes(head) + payload
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1000, 34, TCP_CHECKSUM, 0)
    rig.send(card, packet, header)
    assert frames(other, prefix=12) == [packet]
    pieces = frames(stream)
    assert len(pieces) == 4
    assert b"".join(piece[54:] for piece in pieces) == payload
    rig.send(card, frame(ALL, A), struct.pack("<BBHHHHH", 1, 3, 54, 1000, 34, 16, 0))  # nobody can make it whole
    assert frames(stream) == []
    assert next(p for p in rig.hub.ports if p.name == "stream3").counters["frames_not_whole"] == 1


def test_who_connects_comes_back(rig: Rig) -> None:
    far, _ = rig.listener.accept()
    far.close()
    rig.settle()
    assert not rig.hub.ports
    deadline = time.monotonic() + 5
    while not rig.hub.ports and time.monotonic() < deadline:
        rig.settle()
    assert len(rig.hub.ports) == 1


@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"\0\0\0\0" * 10, b"\0\0\0\1x", b"\0\1"])
def test_who_sends_garbage_disturbs_nobody(rig: Rig, garbage: bytes) -> None:
    bad, a, b = rig.join("streams"), rig.join("streams"), rig.join("streams")
    bad.sendall(garbage)
    rig.settle()
    rig.send(a, frame(ALL, A))
    assert frames(b) == [frame(ALL, A)]


def test_who_does_not_read_does_not_hold_the_others_up_for_long(rig: Rig) -> None:
    slow, a, b = rig.join("streams"), rig.join("streams"), rig.join("streams")
    rig.send(slow, frame(ALL, B))
    frames(a), frames(b)
    large = B + A + b"\x88\xb5" + bytes(60_000)
    a.settimeout(0.05)
    data = struct.pack(">I", len(large)) + large
    lost = next(p for p in rig.hub.ports if p.name == "stream1").counters
    deadline, sent = time.monotonic() + 10, 0
    while not lost["frames_peer_slow"] and time.monotonic() < deadline:
        try:
            sent += a.send(data[sent % len(data) :])
        except TimeoutError:
            pass
        rig.settle()
    assert rig.hub.switch.counters["waited"] > 0
    assert lost["frames_peer_slow"]
    a.settimeout(2)
    while sent % len(data):
        sent += a.send(data[sent % len(data) :])
        rig.settle()
    rig.send(a, frame(ALL, A))
    assert frame(ALL, A) in frames(b)


def test_two_hubs_do_not_share_a_socket(rig: Rig) -> None:
    with pytest.raises(HostError, match="another process listens"):
        Hub(Config(Address(rig.folder / "cards")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nobody can join"),
        (["--listen", "nowhere"], "'nowhere' is no address"),
        (["--listen", "localhost:80"], "is no address"),
        (["--cards", "/nonexistent/x"], "/nonexistent"),
        (["--cards", "x", "--bus", "unix:path=/x"], "is no id"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
