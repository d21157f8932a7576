"""The programs of examples/ivshmem for tests: compiled, brought into guests, run there and on the host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

EXAMPLES = Path(__file__).parents[2] / "examples" / "ivshmem"
MESSAGES = 100_000
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_RESULT = re.compile(
    r"messages=(\d+) lost=(\d+) repeated=(\d+) corrupt=(\d+) seconds=([\d.]+) rings=(\d+) sleeps=(\d+)"
)


def compiled(path: Path, *flags: str, compiler: str = "gcc") -> Path:
    """Compile ``ivmsg.c``, without a warning."""
    words = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", *flags]
    subprocess.run([*words, "-o", str(path), str(EXAMPLES / "ivmsg.c")], check=True)
    return path


def disk(folder: Path) -> Path:
    """Return a disk whose first bytes are the program for a guest."""
    path = compiled(folder / "ivmsg.riscv64", "-static", compiler="riscv64-linux-gnu-gcc")
    os.truncate(
        path, (path.stat().st_size + 4095) & ~4095
    )  # a disk has whole sectors; the program's end is not its own
    return path


@dataclass(frozen=True)
class Result:
    """The line of ``ivmsg``."""

    messages: int
    lost: int
    repeated: int
    corrupt: int
    seconds: float
    rings: int
    sleeps: int

    @classmethod
    def of(cls, said: str) -> Result:
        """Return what was printed."""
        found = _RESULT.search(said)
        assert found is not None, said
        messages, lost, repeated, corrupt, _, rings, sleeps = (int(float(value)) for value in found.groups())
        return cls(messages, lost, repeated, corrupt, float(found[5]), rings, sleeps)

    @property
    def whole(self) -> bool:
        """Whether nothing is amiss."""
        return not (self.lost or self.repeated or self.corrupt)


class Program:
    """``ivmsg`` in C or Python on the host."""

    def __init__(self, words: Sequence[str | Path], *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [*map(str, words), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=EXAMPLES.parents[1],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parents[1])},
        )  # fmt: skip

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def end(self, timeout_s: float = 60) -> tuple[int, str, str]:
        """Return its status, and what it printed and complained."""
        try:
            said, complained = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        return self._process.returncode, said, complained

    def result(self, timeout_s: float = 60) -> Result:
        """Return its line; it has nothing to complain of."""
        status, said, complained = self.end(timeout_s)
        assert (status, complained) == (0, "")
        return Result.of(said)


def wait_for_flow(memory: memoryview) -> None:
    """Return when side 0 of the queue in ``memory`` has sent some messages, and goes on."""
    changes, last, deadline = 0, b"", time.monotonic() + 30
    while changes < 20:
        head = bytes(memory[0x40:0x44])
        changes, last = changes + (head != last), head
        assert time.monotonic() < deadline
        time.sleep(0.01)


PYTHON = (sys.executable, EXAMPLES / "ivmsg.py")


class Killable(Guest):
    """A guest that can be killed."""

    def kill(self) -> None:
        """Kill its process, and nothing that this one has started."""
        self._process.kill()
        self._process.wait()


def install(guest: Guest, *, uio: bool) -> None:
    """Have ``/tmp/ivmsg`` in a guest's shell, from its second disk; with ``uio`` also ``/dev/uio0``."""
    network.shell(guest, *(("virtio_blk", "uio_pci_generic") if uio else ("virtio_blk",)))
    guest.run("cat /dev/vdb > /tmp/ivmsg; chmod +x /tmp/ivmsg")
    if uio:
        guest.run("echo 1af4 1110 > /sys/bus/pci/drivers/uio_pci_generic/new_id; udevadm settle")


def qemu(image: Path, program: Path, socket: Path, *options: str, vectors: int = 2) -> list[str]:
    """Return the command of a QEMU guest that is a peer of the server at ``socket``."""
    return network.qemu_guest(
        image,
        "-drive", f"file={program},format=raw,if=none,id=p", "-device", "virtio-blk-pci,drive=p,disable-legacy=on",
        "-chardev", f"socket,path={socket},id=c", "-device", f"ivshmem-doorbell,vectors={vectors},chardev=c",
        *options, init=network.SHELL,
    )  # fmt: skip


def ours(folder: Path, name: str, image: Path, program: Path, server: Path | str, *more: str) -> list[str]:
    """Return the command of a guest of ours that is a peer of ``server``; ``more`` lines follow in its vm.toml."""
    folder = folder / name
    folder.mkdir()
    path = folder / "vm.toml"
    text = on_a_snapshot(name).format(image=image).replace("root=/dev/vda rw", f"root=/dev/vda rw {network.SHELL}")
    path.write_text(
        f'{text}[[device]]\nid = "program"\ntype = "virtio-blk"\nimage = "{program}"\nreadonly = true\n'
        f'[[device]]\nid = "shared"\ntype = "ivshmem-doorbell"\nserver = "{server}"\n'
        + "".join(line + "\n" for line in more)
    )
    return [sys.executable, "-m", "orchestrator", "up", str(path)]


def process_of(name: str, device: str) -> int:
    """Return the process of a device of a machine of ours."""
    words = [sys.executable, "-m", "orchestrator", "ps", name, "--json"]
    listing = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return next(int(row["pid"]) for row in listing["processes"] if row["id"] == device)


def start(guest: Guest, line: str) -> None:
    """Start ``ivmsg`` with these words in a guest."""
    guest.type(f"/tmp/ivmsg {line}; echo status=$? end-of-''ivmsg")


def finish(guest: Guest, timeout_s: float = 60) -> str:
    """Return what it printed, with its status at the end."""
    return guest.wait_for("end-of-ivmsg\n", timeout_s)


def result(guest: Guest, timeout_s: float = 60) -> Result:
    """Return its line; its status was 0."""
    said = finish(guest, timeout_s)
    assert "status=0 " in said, said
    return Result.of(said)
