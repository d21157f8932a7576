"""The machines of the ivshmem benchmark: a guest without an operating system, on ours and on QEMU, at our server."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.machines import QEMU, engine, orchestrator_command
from benchmarks.workloads.image import COMPILER
from devproc.ivshmem.client import Client, connect
from tests.guest.expect import Guest

VM = "share"
_HERE = Path(__file__).parent
_FLAGS = (
    "-march=rv64gc_zicsr_zifencei", "-mabi=lp64d", "-mcmodel=medany", "-std=gnu11", "-O2", "-ffreestanding",
    "-fno-builtin", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-nostdlib",
    "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096", "-Wl,--no-warn-rwx-segments",
)  # fmt: skip
_STOP = 1  # the word by which ``pong`` ends
_START_S, _RUN_S = 90.0, 120.0


def compiled(folder: Path) -> Path:
    """Return the guest."""
    path = folder / "ivshmem.elf"
    script = _HERE.parent / "guest" / "guest.ld"
    command = [COMPILER, *_FLAGS, f"-Wl,-T,{script}", "-o", str(path), str(_HERE / "ivshmem_guest.c")]
    subprocess.run(command, check=True)
    return path


class Server:
    """Our server, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shared"
        command = [sys.executable, "-m", "devproc.ivshmem.server", "-S", str(self.path), "-l", "8M", "-n", "1"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not self.path.with_name("shared.busvm").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the server does not start")
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def ours(name: str, elf: Path, socket: Path, folder: Path) -> list[str]:
    """Return the command of a machine of ours."""
    place = folder / name
    place.mkdir()
    (place / "vm.toml").write_text(
        f'[vm]\nname = "{VM}{name}{os.getpid()}"\nmemory = "128M"\nengine = "{engine() or "translate"}"\n'
        f'[boot]\nkernel = "{elf}"\n[[device]]\nid = "shared"\ntype = "ivshmem-doorbell"\n'
        f'server = "{socket}"\n'
    )
    return orchestrator_command("up", str(place / "vm.toml"))


def qemu(elf: Path, socket: Path, program: list[str] | None = None) -> list[str]:
    """Return the command of a QEMU, the system's unless another ``program`` is given; two harts: docs/vhost-user.md."""
    return [
        *(program or [QEMU]), "-M", "virt,aia=aplic-imsic", "-m", "128M", "-smp", "2",
        "-display", "none", "-monitor", "none", "-serial", "stdio", "-kernel", str(elf),
        "-chardev", f"socket,path={socket},id=c", "-device", "ivshmem-doorbell,vectors=1,chardev=c",
    ]  # fmt: skip


class Machine(Guest):
    """A guest at its prompt."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.wait_for("ready\n", _START_S)
        self.id = self.ask("id")["id"]

    def ask(self, line: str) -> dict[str, int]:
        """Return the numbers that it prints for ``line``."""
        self.type(line)
        return self.told()

    def told(self) -> dict[str, int]:
        """Return the numbers that it prints next."""
        said = self.wait_for("ready\n", _RUN_S)
        return {name: int(value) for name, value in re.findall(r"([a-z0-9]+) (\d+)", said)}


class Host:
    """A program of the host that answers each ring by one more in word 0 of the memory, as fast as Python does."""

    def __init__(self, socket: Path) -> None:
        self.client: Client = connect(socket)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        word = self.client.memory[:4].cast("I")
        bell = self.client.doorbell(0)
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        while not self._ended.is_set():
            if poll.poll(100):
                with suppress(BlockingIOError):
                    os.eventfd_read(bell)
                    word[0] = word[0] + 1 & 0xFFFF_FFFF
        word.release()

    def stop(self, guest: Machine) -> None:
        """End the ``pong`` of a guest."""
        words = self.client.memory[:8].cast("I")
        words[_STOP] = 1
        self.client.ring(guest.id)
        guest.told()
        words[_STOP] = 0
        words.release()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.client.close()
