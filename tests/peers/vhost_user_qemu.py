"""QEMU, of the system or newer, and our block device's process as its vhost-user back-end."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import guest
from tests.peers import newer_qemu
from tests.peers.test_guest_on_qemu import QEMU, Run


@dataclass(frozen=True)
class Qemu:
    """A QEMU: the words that start it, and its name for waiting for a back-end that has gone."""

    words: list[str]
    reconnect: str


def system_qemu() -> Qemu:
    """Return the release's QEMU."""
    program = shutil.which(QEMU)
    assert program, f"{QEMU} is not installed (Debian: apt-get install qemu-system-misc)"
    return Qemu([program], "reconnect=1")


def new_qemu() -> Qemu:
    """Return the one of Debian testing."""
    assert newer_qemu.version() >= (9, 2), newer_qemu.version()
    return Qemu(newer_qemu.command(), "reconnect-ms=300")


QEMUS = {"system": system_qemu, "new": new_qemu}


class BackEnd:
    """The process under test, which ``module`` runs; ``start`` again after ``kill``."""

    def __init__(self, module: str, folder: Path, *options: str) -> None:
        self.socket = folder / "vhost"
        self.log = folder / "back-end.log"
        self._command = [sys.executable, "-m", module, "--vhost-user", str(self.socket), *options]
        self.start()

    @classmethod
    def disk(cls, image: Path, folder: Path, *options: str) -> Self:
        """Return one that serves a disk."""
        return cls("devproc.virtio_blk", folder, "--image", str(image), "--serial", "BUSVM-0", *options)

    def start(self) -> None:
        """Start it, and return when its socket is there."""
        before = self.socket.stat().st_ino if self.socket.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 10
        while not self.socket.exists() or self.socket.stat().st_ino == before:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, which it must do in order."""
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert "Traceback" not in self.log.read_text()


Serve = Callable[..., BackEnd]


def command_line(qemu: Qemu, back_end: BackEnd, *, board: str, memory: str, device: str = "") -> list[str]:
    """Return the command of a machine with the back-end's disk.

    It has two harts: for one QEMU leaves barriers out before 8.1, as if nobody else looked at its memory, and the
    driver does not see that it has to ring.
    """
    return [
        *qemu.words, "-M", f"virt,memory-backend=m{board}", "-m", memory, "-smp", "2",
        "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-object", f"memory-backend-memfd,id=m,size={memory},share=on",
        "-chardev", f"socket,id=c,path={back_end.socket},{qemu.reconnect}",
        "-device", f"vhost-user-blk-pci,disable-legacy=on,chardev=c{device}",
    ]  # fmt: skip


def embedded(
    qemu: Qemu, back_end: BackEnd, commands: str, *extra: str, aia: str = "aplic-imsic", device: str = ""
) -> list[str]:
    """Return the command of a machine in which the embedded guest does ``commands``."""
    line = command_line(qemu, back_end, board=f",aia={aia}", memory="128M", device=device)
    return [*line, *extra, "-kernel", str(guest.elf_path()), "-append", f'run="{commands}"']


def boot(command: list[str]) -> Run:
    """Run a machine to its end."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    return Run(done.stdout, done.returncode)


class Monitor:
    """QEMU's machine protocol on the socket of ``-qmp``."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        deadline = time.monotonic() + 20
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.do("qmp_capabilities")

    @staticmethod
    def option(path: Path) -> list[str]:
        """Return the option that makes the socket."""
        return ["-qmp", f"unix:{path},server=on,wait=off"]

    def do(self, command: str, **arguments: object) -> Any:
        """Return what a command returns."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()
