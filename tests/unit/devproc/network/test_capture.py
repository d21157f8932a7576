"""Captures: what tshark reads of them, and that a full disk does not stop a network."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from devproc.descriptors import Descriptors
from devproc.network.backend import PLAIN
from devproc.network.capture import Capture
from devproc.network.frame import HEADER
from protocol.errors import HostError
from tests.unit.devproc.virtio_net.rig import MAC, PEER, Wire, frame

NOW = 1_234_567_890_123_456_789


class Card:
    """A card that takes what a test lets it."""

    def __init__(self) -> None:
        self.takes = True
        self.successor = False
        self.memory = bytearray(4096)
        self.got = 0

    def deliver(self, data: object, header: object = PLAIN, pair: int | None = None) -> bool:
        return self.takes

    def room(self, pair: int, size: int) -> list[memoryview] | None:
        view = memoryview(self.memory)
        return [view[:7], view[7:30], view[30:]]

    def filled(self, pair: int, length: int) -> None:
        self.got = length

    def writable(self) -> None:
        """Nothing waits."""

    def now_ns(self) -> int:
        return NOW

    def goes_on(self) -> bool:
        return self.successor


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Capture, Card, Wire]:
    card, wire = Card(), Wire(offloads=3)
    capture = Capture(wire, tmp_path / "x.pcap")
    capture.start(card, Descriptors())
    return capture, card, wire


def fields(path: Path, *names: str) -> list[list[str]]:
    """Return fields of each frame, as tshark has them."""
    command = ["tshark", "-r", str(path), "-T", "fields", *(word for name in names for word in ("-e", name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tshark_reads_both_directions_with_nanoseconds(tmp_path: Path, parts: tuple[Capture, Card, Wire]) -> None:
    capture, card, _ = parts
    assert capture.offloads == 3
    capture.send(0, PLAIN, [memoryview(frame()[:20]), memoryview(frame()[20:])])
    capture.flush()
    assert capture.deliver(frame(b"back", PEER, MAC))
    room = capture.room(0, 100)
    assert room is not None
    data = PLAIN + frame(b"read in pieces" * 3)
    at = 0
    for piece in room:
        part = data[at : at + len(piece)]
        piece[: len(part)] = part
        at += len(part)
    capture.filled(0, len(data))
    assert card.got == len(data)
    capture.close()
    shown = fields(tmp_path / "x.pcap", "frame.time_epoch", "eth.src", "eth.dst", "frame.len")
    assert [row[1:] for row in shown] == [
        [PEER.hex(":"), MAC.hex(":"), str(len(frame()))],
        [MAC.hex(":"), PEER.hex(":"), str(len(frame(b"back")))],
        [PEER.hex(":"), MAC.hex(":"), str(len(data) - HEADER)],
    ]
    assert {row[0] for row in shown} == {"1234567890.123456789"}


def test_what_was_not_taken_is_not_written(tmp_path: Path, parts: tuple[Capture, Card, Wire]) -> None:
    capture, card, wire = parts
    card.takes, wire.full = False, True
    assert not capture.deliver(frame())
    assert not capture.send(0, PLAIN, [memoryview(frame())])
    capture.close()
    assert (tmp_path / "x.pcap").stat().st_size == 0


def test_a_full_disk_loses_the_capture_and_not_the_frame(parts: tuple[Capture, Card, Wire], tmp_path: Path) -> None:
    capture, _, wire = parts
    capture.send(0, PLAIN, [memoryview(frame())])
    capture.flush()
    capture._file.close()
    capture._file = Path("/dev/full").open("ab")  # noqa: SIM115 - the capture closes it
    for _ in range(100):
        assert capture.send(0, PLAIN, [memoryview(frame(bytes(1000)))])
        capture.flush()
    assert len(wire.sent) == 101
    assert capture.counters()["frames_not_captured"] == 100
    capture.close()
    assert len(fields(tmp_path / "x.pcap", "frame.len")) == 1


def test_a_successor_goes_on_with_the_file_and_a_new_machine_begins_it(tmp_path: Path) -> None:
    for successor, frames in ((False, 1), (True, 2), (False, 1)):
        card = Card()
        card.successor = successor
        capture = Capture(Wire(), tmp_path / "x.pcap")
        capture.start(card, Descriptors())
        capture.deliver(frame())
        capture.close()
        assert len(fields(tmp_path / "x.pcap", "frame.len")) == frames


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        Capture(Wire(), tmp_path / "no" / "x.pcap")


def test_the_header_is_that_of_nanoseconds(tmp_path: Path, parts: tuple[Capture, Card, Wire]) -> None:
    parts[0].deliver(frame())
    parts[0].close()
    magic, major, minor, *_ = struct.unpack("<IHHiIII", (tmp_path / "x.pcap").read_bytes()[:24])
    assert (magic, major, minor) == (0xA1B23C4D, 2, 4)
