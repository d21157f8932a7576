"""The two machines that are compared: the same kernel, disk and memory under busvm and under QEMU."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.machines import disk_options, engine, orchestrator_command, qemu_command
from benchmarks.samples import pss_kib
from benchmarks.workloads import host_time
from benchmarks.workloads.console import Console, GuestError
from benchmarks.workloads.image import INIT, Image, results

_CMDLINE = "console=ttyS0 root=/dev/vda rw"
_ENGINE = "translate"


class Emulator(Protocol):
    """How a machine is started, and its processes, of which ``hart`` is the one that executes."""

    name: str
    hart: str

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return what boots ``disk``, its console on standard input and output."""

    def processes(self, pid: int) -> dict[str, int]:
        """Return the processes of the machine that ``pid`` runs, by name."""


class Busvm:
    """This project's machine."""

    hart = "cpu"

    def __init__(self, image: Image, folder: Path) -> None:
        self._image, self._folder = image, folder
        self.vm = f"work{os.getpid()}"
        self.engine = engine() or _ENGINE
        self.name = f"busvm {self.engine}"

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return the foreground ``orchestrator up``."""
        path = self._folder / "vm.toml"
        path.write_text(
            f'[vm]\nname = "{self.vm}"\nmemory = "512M"\nengine = "{self.engine}"\n'
            f'[boot]\nkernel = "{self._image.kernel}"\ninitrd = "{self._image.initrd}"\ncmdline = "{cmdline}"\n'
            f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "{disk}"\n'
        )
        return orchestrator_command("up", str(path))

    def processes(self, pid: int) -> dict[str, int]:
        """Return the processes of the machine, and the command itself."""
        command = orchestrator_command("ps", self.vm, "--json")
        listing = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return {"orchestrator": pid} | {row["id"]: row["pid"] for row in listing["processes"]}


class Qemu:
    """The peer: TCG on plain ``virt``."""

    name, hart = "QEMU", "qemu"

    def __init__(self, image: Image) -> None:
        self._image = image

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return QEMU's command line."""
        files = ["-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)]
        return qemu_command(*files, "-append", cmdline, *disk_options(disk))

    def processes(self, pid: int) -> dict[str, int]:
        """Return the one process."""
        return {"qemu": pid}


@dataclass(frozen=True)
class Done:
    """What a command printed, and what part of its time the host ran the hart that wanted to run."""

    output: str
    host_part: float


class Guest:
    """One emulator with a guest that runs commands, started when it is first asked, and again after a failure."""

    def __init__(self, emulator: Emulator, image: Image, folder: Path) -> None:
        self.emulator = emulator
        self._image = image
        name = emulator.name.replace(" ", "-")
        self._disk, self._log = folder / f"{name}.ext4", results() / f"{name}.log"
        self._log.unlink(missing_ok=True)
        self._console: Console | None = None
        self._hart = 0  # the process

    def run(self, line: str, timeout_s: float) -> Done:
        """Run ``line`` to its end.

        Raises:
            GuestError: it hangs or fails; a guest that hangs is given up.
        """
        if self._console is None:
            command = self.emulator.command(f"{_CMDLINE} quiet init={INIT}", self._image.copy_of_disk(self._disk))
            self._console = Console(command, self._log)
            self._hart = self.emulator.processes(self._console.pid)[self.emulator.hart]
        host_part = host_time.watch(self._hart)
        try:
            return Done(self._console.run(line, timeout_s), host_part())
        except GuestError:
            self.close()
            raise

    def memory_mib(self) -> dict[str, float]:
        """Return the proportional set size of each process, so that what they share is counted once."""
        assert self._console is not None
        return {name: pss_kib(pid) / 1024 for name, pid in self.emulator.processes(self._console.pid).items()}

    def close(self) -> None:
        """End the guest, if there is one."""
        if self._console is not None:
            self._console.close()
            self._console = None
