"""What the conformance kit is about: a device process, ours or somebody else's, by the command that starts it.

A command with ``{socket}`` is a vhost-user daemon, one with ``{bus}`` and ``{id}`` a device of a busvm machine;
``{image}`` is a scratch disk image.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

PATIENCE_S = 10.0
SECTORS = 8192
_PYTHON = shlex.quote(sys.executable)


@dataclass(frozen=True)
class Subject:
    """A device under test."""

    name: str
    command: str
    own: bool = False
    """Whether it is this project's: then everything the kit asks for has to be there."""

    @property
    def is_vhost_user(self) -> bool:
        """Whether it is a vhost-user daemon."""
        return "{socket}" in self.command

    @property
    def is_on_bus(self) -> bool:
        """Whether it is a device of a busvm machine."""
        return not self.is_vhost_user

    @property
    def is_disk(self) -> bool:
        """Whether it is a block device, as the image says."""
        return "{image}" in self.command

    @property
    def is_virtio(self) -> bool:
        """Whether it is a virtio device: the template of our own is none."""
        return "devproc.template" not in self.command

    @property
    def transport(self) -> str:
        """What a device of a busvm machine is connected to."""
        return "mmio" if "--transport mmio" in self.command or "--transport=mmio" in self.command else "pci"

    def lacks(self, what: str) -> NoReturn:
        """Skip a check for what the device does not offer; our own devices offer everything."""
        if self.own:
            pytest.fail(f"{self.name} does not offer {what}", pytrace=False)
        pytest.skip(f"the device does not offer {what}")


OWN = [
    Subject("blk-pci", f"{_PYTHON} -m devproc.virtio_blk --bus {{bus}} --id {{id}} --image {{image}}", own=True),
    Subject(
        "blk-mmio",
        f"{_PYTHON} -m devproc.virtio_blk --transport mmio --bus {{bus}} --id {{id}} --image {{image}}",
        own=True,
    ),
    Subject("blk-vhost-user", f"{_PYTHON} -m devproc.virtio_blk --vhost-user {{socket}} --image {{image}}", own=True),
    Subject("template", f"{_PYTHON} -m devproc.template --bus {{bus}} --id {{id}}", own=True),
]


def check(condition: object, clause: str, sent: str, came: object) -> None:
    """Fail with one line unless ``condition`` holds: the clause, what was sent, what came."""
    if not condition:
        pytest.fail(f"{clause} | sent: {sent} | came: {came}", pytrace=False)


class Process:
    """A subject's process; ``start`` again after ``kill``."""

    def __init__(self, subject: Subject, folder: Path, places: dict[str, str]) -> None:
        self.subject = subject
        self.socket = Path(places["socket"])
        self.bus, self.device_id = places["bus"], places["id"]
        self._told = False
        self.log_path = folder / "device.log"
        self._words = [word.format(**places) for word in shlex.split(subject.command)]
        self._popen: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it; for a daemon, return when its socket is there."""
        if self.subject.is_vhost_user:
            self.socket.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._told = False
        deadline = time.monotonic() + PATIENCE_S
        while self.subject.is_vhost_user and not self.socket.exists():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no socket from {shlex.join(self._words)} | it says: {self.log[-500:]}", pytrace=False)
            time.sleep(0.01)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self._popen
        return self._popen.pid

    def alive(self) -> bool:
        """Whether it is running; one that ended in order when its front-end went is not a failure."""
        assert self._popen
        return self._popen.poll() is None

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, for some time."""
        assert self._popen
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)

    def check_alive(self, sent: str) -> None:
        """Fail if it has crashed."""
        assert self._popen
        status = self._popen.poll()
        crashed = status is not None and (status < 0 or status >= 128 or "Traceback" in self.log)
        crashed, self._told = crashed and not self._told, self._told or crashed
        check(not crashed, "a guest or a peer must not end the process", sent, f"status {status}: {self.log[-300:]}")

    def revive(self) -> None:
        """Start it again if it ends with its front-end; a crash is told first, once."""
        time.sleep(0.02)
        self.check_alive("what came before")
        if not self.alive():
            self.start()

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        assert self._popen
        self._popen.kill()
        self._popen.wait(PATIENCE_S)

    def terminate(self) -> int | None:
        """Send SIGTERM; return the status, or ``None`` when it goes on."""
        assert self._popen
        self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def close(self) -> None:
        """End it."""
        assert self._popen
        if self._popen.poll() is None:
            self.terminate()
        self.socket.unlink(missing_ok=True)


def chosen(command: str | None) -> Sequence[Subject]:
    """Return the subjects of a run: the one of ``--device``, or all of our own."""
    if command is None:
        return OWN
    if "{socket}" not in command and ("{bus}" not in command or "{id}" not in command):
        raise pytest.UsageError("--device: the command has neither {socket} nor {bus} and {id}")
    return [Subject("device", command)]
