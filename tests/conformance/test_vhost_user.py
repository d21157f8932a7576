"""The block device's process as a vhost-user back-end: its command line, its socket, its death and return."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devproc.virtio_spec import Feature
from protocol.vhost_user.front_end import FrontEnd
from protocol.vhost_user.messages import ProtocolFeature, Request
from tests.conformance.front_end import IN, OUT, WANTED, Guest

Serve = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def place(runtime: Path) -> Iterator[Path]:
    path = runtime / "vhost"
    yield path
    assert not path.exists()


@pytest.fixture
def serve(image: Path, place: Path) -> Iterator[Serve]:
    """Return a function that starts the back-end; with a socket it returns when that is there."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        before = place.stat().st_ino if place.exists() else 0
        where = [] if fds else ["--vhost-user", str(place)]
        command = [sys.executable, "-m", "devproc.virtio_blk", "--image", str(image), *where, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=fds)
        started.append(process)
        deadline = time.monotonic() + 10
        while not fds and (not place.exists() or place.stat().st_ino == before) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield run
    for process in started:
        process.terminate()
        process.wait(10)
        assert process.stderr
        process.stderr.close()
    place.unlink(missing_ok=True)


def test_management_software_finds_a_program_that_says_what_it_can() -> None:
    command = [sys.executable, "-m", "devproc.virtio_blk", "--print-descriptor"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert (found["type"], set(found)) == ("block", {"description", "type", "binary", "tags"})
    told = subprocess.run([found["binary"], "--print-capabilities"], capture_output=True, check=True).stdout
    assert json.loads(told) == {"type": "block", "features": ["read-only", "blk-file"]}


def test_every_feature_it_names_is_an_option(image: Path, place: Path) -> None:
    command = [sys.executable, "-m", "devproc.virtio_blk", "--socket-path", str(place)]
    process = subprocess.Popen([*command, f"--blk-file={image}", "--read-only"])
    try:
        deadline = time.monotonic() + 10
        while not place.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with FrontEnd.connect(place) as front:
            assert front.word(Request.GET_FEATURES) & 1 << 5  # VIRTIO_BLK_F_RO
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_sigterm_ends_it_in_order(serve: Serve, place: Path) -> None:
    process = serve()
    with Guest() as guest:
        guest.connect(FrontEnd.connect(place))
        assert guest.do(IN, 7, length=512)[1][:4] == b"\7\0\0\0"

        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 0
        assert not place.exists()


def test_once_ends_with_the_front_end_but_not_with_a_look(serve: Serve, place: Path) -> None:
    process = serve("--once")
    socket.socket(socket.AF_UNIX).close()
    with socket.socket(socket.AF_UNIX) as look:
        look.connect(str(place))
    with FrontEnd.connect(place) as front:
        front.word(Request.GET_FEATURES)

    assert process.wait(10) == 0


@pytest.mark.parametrize("listening", [True, False])
def test_an_inherited_socket(serve: Serve, runtime: Path, listening: bool) -> None:
    path = runtime / "inherited"
    if listening:
        ours = theirs = socket.socket(socket.AF_UNIX)
        theirs.bind(str(path))
        theirs.listen()
    else:
        ours, theirs = socket.socketpair()
    process = serve("--fd", str(theirs.fileno()), "--readonly", fds=(theirs.fileno(),))
    theirs.close()
    front = FrontEnd.connect(path) if listening else FrontEnd(ours)
    with Guest() as guest:
        guest.connect(front)
        assert guest.do(IN, 7, length=512)[1][:4] == b"\7\0\0\0"
        assert guest.do(OUT, 7, bytes(512))[0] == 1
    ours.close()
    if listening:
        path.unlink()
    else:
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--fd", "0"], 2, "--fd"),
        (["--vhost-user", "/nowhere/at/all"], 4, "/nowhere/at/all"),
        (["--vhost-user", "x", "--fd", "3"], 2, "exclude"),
        (["--vhost-user", "x", "--bus", "y"], 2, "exclude"),
        ([], 2, "--vhost-user SOCKET serves QEMU"),
    ],
)
def test_it_fails_early_and_says_why(image: Path, arguments: list[str], status: int, text: str) -> None:
    command = [sys.executable, "-m", "devproc.virtio_blk", "--image", str(image), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_process_does_not_take_the_socket(serve: Serve, place: Path, image: Path) -> None:
    serve("--readonly")
    other = serve("--readonly")

    assert other.wait(10) == 4
    assert other.stderr
    assert b"another process listens" in other.stderr.read()
    with FrontEnd.connect(place) as front:
        assert front.word(Request.GET_FEATURES)


@pytest.mark.parametrize("features", [WANTED, WANTED | Feature.RING_PACKED])
def test_kill_under_load_loses_and_repeats_nothing(serve: Serve, place: Path, image: Path, features: int) -> None:
    chance = random.Random(5)
    content = {sector: sector.to_bytes(4, "little") * 128 for sector in range(8192)}
    under_way: dict[int, tuple[int, int, bytes]] = {}
    done = 0
    process = serve()
    with Guest(features=features) as guest:
        guest.connect(FrontEnd.connect(place))
        for life in range(6):
            until = time.monotonic() + chance.uniform(0.1, 0.4)
            while time.monotonic() < until:
                for sector in chance.sample(range(8192), 60 - len(under_way)):
                    if any(sector == busy for _, busy, _ in under_way.values()):
                        continue
                    kind = chance.choice((IN, OUT))
                    data = os.urandom(512) if kind == OUT else b""
                    head = guest.submit(kind, sector, data, 0 if data else 512)
                    under_way[head] = (kind, sector, data)
                guest.ring()
                for head, (status, found) in guest.collect().items():
                    kind, sector, data = under_way.pop(head)  # a head that comes twice is a KeyError
                    assert status == 0
                    if kind == IN:
                        assert found == content[sector]
                    else:
                        content[sector] = data
                    done += 1
            if life < 5:
                process.kill()
                process.wait()
                guest.front.close()
                process = serve()
                used = guest.queue.load(
                    guest.queue.used + 2, 2
                )  # of a packed ring a front-end knows no more than before
                guest.connect(FrontEnd.connect(place), base=guest.begin or used)
        while under_way:
            for head in guest.collect():
                _, sector, data = under_way.pop(head)
                content[sector] = data or content[sector]
        guest.pause()
    assert done > 500
    assert image.read_bytes() == b"".join(content.values())


def test_a_driver_that_starts_anew_finds_tables_of_before(serve: Serve, place: Path) -> None:
    serve()
    with Guest() as guest:
        guest.connect(FrontEnd.connect(place))
        for sector in range(5):
            guest.do(IN, sector, length=512)
        guest.pause()
        assert guest.tables
        assert ProtocolFeature.INFLIGHT_SHMFD in guest.front.protocol_features
        with Guest() as fresh:  # rings at 0 again, tables that ended at 5
            fresh.tables = guest.tables[0], os.dup(guest.tables[1])
            guest.front.close()
            fresh.connect(FrontEnd.connect(place))
            assert fresh.do(IN, 7, length=512)[1][:4] == b"\7\0\0\0"


def test_its_requests_go_wrong_on_demand(serve: Serve, place: Path) -> None:
    faults = "error type=IN nth=2", "corrupt type=IN bytes=1 nth=3", "duplicate interrupt=0", "delay sector=64 ms=100"
    serve(*(word for fault in faults for word in ("--fault", fault)))
    with Guest() as guest, FrontEnd.connect(place) as front:
        guest.connect(front)
        answers = [guest.do(IN, 8, length=512) for _ in range(4)]
        started = time.monotonic()
        late = guest.do(IN, 64, length=512)
        took = time.monotonic() - started
        head = guest.submit(IN, 64, length=512)
        guest.ring()
        time.sleep(0.03)
        guest.pause()
        stopped = guest.collect(0)

    good = (0, (8).to_bytes(4, "little") * 128)
    assert [answers[0], answers[3]] == [good, good]
    assert answers[1][0] == 1
    assert answers[2][0] == 0
    assert sum(a != b for a, b in zip(answers[2][1], good[1], strict=True)) == 1
    assert late[0] == 0
    assert took >= 0.1
    assert stopped[head][0] == 0  # a ring that is stopped has nothing under way
