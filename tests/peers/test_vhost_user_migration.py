"""QEMU moves a guest, in the midst of its I/O, to another QEMU with another process of ours on the same image."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.test_guest_on_qemu import Disk, disk
from tests.peers.vhost_user_qemu import QEMUS, BackEnd, Monitor, Qemu, embedded

__all__ = ["disk"]

pytestmark = pytest.mark.peer

COMMANDS = "d w 0 4000 1;d s 120000 32;d w 2000 4000 2;d s 20000 32;d w 4000 4000 3;d v 4000 4000 3;d v 0 2000 1;i;q"


class Side:
    """One QEMU with its back-end; ``lines`` is what the guest has printed there."""

    def __init__(self, qemu: Qemu, image: Path, folder: Path, *extra: str, device: str = "") -> None:
        folder.mkdir()
        self.back_end = BackEnd.disk(image, folder, "--handover")
        self.control = folder / "qmp"
        command = [*embedded(qemu, self.back_end, COMMANDS, device=device), *Monitor.option(self.control), *extra]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines += iter(self.process.stdout)

    @property
    def text(self) -> str:
        """What the guest has printed."""
        return "".join(self.lines)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout
        self.process.stdout.close()
        self.back_end.close()


@pytest.fixture(params=QEMUS)
def sides(request: pytest.FixtureRequest, disk: Disk, tmp_path: Path) -> Iterator[tuple[Side, Side, Path]]:
    qemu, channel = QEMUS[request.param](), tmp_path / "channel"
    source = Side(qemu, disk.path, tmp_path / "a")
    target = Side(qemu, disk.path, tmp_path / "b", "-incoming", f"unix:{channel}")
    yield source, target, channel
    source.close()
    target.close()


def wait_for(what: str, condition: object, timeout_s: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_guest_moves_with_its_requests_under_way(sides: tuple[Side, Side, Path], disk: Disk) -> None:
    source, target, channel = sides
    wait_for("the target", channel.exists)
    wait_for("the guest", lambda: "write:" in source.text)  # now it reads at random, 32 at a time
    with Monitor(source.control) as monitor:
        monitor.do("migrate", uri=f"unix:{channel}")
        wait_for("the move", lambda: monitor.do("query-migrate")["status"] in ("completed", "failed"))
        assert monitor.do("query-migrate")["status"] == "completed", source.back_end.log.read_text()
        monitor.do("quit")
    assert target.process.wait(60) == 0

    text = source.text + target.text
    assert "verify:" not in source.text
    assert not re.search(r"errors=[1-9]|result=failed|error=", text), text
    assert re.findall(r"^verify: .* result=(\w+)", target.text, re.MULTILINE) == ["ok"] * 2, text
    assert re.search(r"^stress: .* errors=0", target.text, re.MULTILINE), text
    assert "lost=0" in text


def test_both_processes_do_not_write_at_the_same_time(sides: tuple[Side, Side, Path], disk: Disk) -> None:
    source, _target, _channel = sides
    wait_for("the guest", lambda: "write:" in source.text)

    other = Side(QEMUS["system"](), disk.path, source.control.parent / "c")
    wait_for("a complaint", lambda: "is locked by process" in other.back_end.log.read_text())
    other.close()
