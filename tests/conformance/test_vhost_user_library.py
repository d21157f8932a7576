"""The examples of docs/vhost-user.md: a back-end and a front-end that are made of the library alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from devproc.driver_queue import DriverQueue
from devproc.virtio_spec import Feature
from protocol.vhost_user.front_end import FrontEnd
from protocol.vhost_user.messages import ProtocolFeature
from tests.conformance.front_end import Guest

ROOT = Path(__file__).parents[2]
BACK_END, FRONT_END = (ROOT / "examples" / f"vhost_user_{half}_end.py" for half in ("back", "front"))


def started(command: list[str], socket: Path) -> subprocess.Popen[bytes]:
    """Start a program and return when it listens."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)  # between bind and listen
    return process


def test_the_back_end_fills_buffers(runtime: Path) -> None:
    socket = runtime / "rng"
    process = started([str(BACK_END), str(socket)], socket)
    with Guest(features=int(Feature.VERSION_1), indirect=False) as guest:
        guest.connect(FrontEnd.connect(socket), protocol=ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK)
        queue: DriverQueue = guest.queue
        buffers = [queue.lend(64) for _ in range(3)]
        for _ in range(50):
            for buffer in buffers:
                guest.memory.write(buffer, bytes(64))
                queue.add([], [(buffer, 64)])
            guest.ring()
            done: list[tuple[int, int]] = []
            deadline = time.monotonic() + 10
            while len(done) < 3:
                done += queue.collect()
                assert time.monotonic() < deadline
            assert [length for _, length in done] == [64] * 3
            assert all(len(set(guest.memory.read(buffer, 64) or b"")) > 16 for buffer in buffers)
        assert guest.front.stop_ring(0) == 150
    assert process.wait(10) == 0


@pytest.mark.parametrize("options", [[], ["--queues", "2"]])
def test_the_front_end_reads_a_sector(runtime: Path, image: Path, options: list[str]) -> None:
    content = bytes(range(256)) * 2
    with image.open("r+b") as file:
        file.write(content)
    socket = runtime / "blk"
    served = ["-m", "devproc.virtio_blk", "--vhost-user", str(socket), "--image", str(image), *options]
    process = started(served, socket)
    done = subprocess.run(
        [sys.executable, str(FRONT_END), str(socket)], cwd=ROOT, capture_output=True, timeout=20, check=False
    )
    process.terminate()

    assert (done.returncode, done.stdout) == (0, content), done.stderr
    assert done.stderr == b"8192 sectors\n"
    assert process.wait(10) == 0


def test_the_documentation_has_both() -> None:
    text = (ROOT / "docs" / "vhost-user.md").read_text()

    for example in (BACK_END, FRONT_END):
        assert f"```python\n{example.read_text()}```\n" in text
