"""Many small VMs on one host: how long until all work, what they take, what they cost when nobody needs them.

``BUSVM_FLEET`` says how many (20), each of 64 MiB with the embedded guest and a disk of its own, which it writes and
verifies. QEMU's as many come first, in the same run. All are started at once: the host is as busy as it can be.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from benchmarks import samples
from benchmarks.figures import Figure, at_most, median
from benchmarks.machines import disk_options, end, engine, orchestrator_command, qemu_available, qemu_command, scratch
from guest import elf_path
from protocol.memory import SHM, shm_name
from protocol.names import Runtime

COUNT = int(os.environ.get("BUSVM_FLEET", "20"))
_MEMORY, _DISK_MIB = "64M", 4
_IDLE_S, _PATIENCE_S = 15.0, 300.0
_CMDLINE = "run=d w 0 2000 7;d v 0 2000 7"
_WORKED = re.compile(rb"^verify: .*errors=0", re.MULTILINE)
_REFUSED = 4


class Vm:
    """A VM in the foreground; ``seconds`` is how long it took until its guest had done its work, 0 if it has not."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.seconds = 0.0
        self._worked = threading.Event()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        said = b""
        while data := os.read(self.process.stdout.fileno(), 65536):  # to its end: no guest has to wait for us
            said = (said + data.replace(b"\r", b""))[-65536:]
            if not self.seconds and _WORKED.search(said):
                self.seconds = time.monotonic() - self._began
                self._worked.set()
        self._worked.set()

    def wait(self, deadline: float) -> None:
        """Wait until it works, or has ended."""
        self._worked.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> int | None:
        """End it, and return its status."""
        return end(self.process)

    def __exit__(self, *_exception: object) -> None:
        self.end()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Seen(dict[str, float]):
    """What a fleet showed, by what it is."""


def measure() -> Iterator[Figure]:
    """Yield the figures of both."""
    with scratch() as name:
        folder = Path(name)
        peer = Seen()
        if qemu_available():
            with ExitStack() as stack:
                fleet = [stack.enter_context(Vm(_qemu(folder, number))) for number in range(COUNT)]
                peer = _seen(fleet, lambda: {vm.process.pid: "qemu" for vm in fleet})
        names = [f"fleet{os.getpid()}n{number}" for number in range(COUNT)]
        with ExitStack() as stack:
            fleet = [stack.enter_context(Vm(_ours(folder, vm))) for vm in names]
            ours = _seen(fleet, lambda: _roles(names))
            roles = _roles(names)
            yield at_most("VMs that do not work", COUNT - ours["work"], "", 0, _beside(peer, "work", f"of {COUNT}: "))
            for what, unit in (("first works", "s"), ("median works", "s"), ("all work", "s")):
                yield Figure(what, ours.get(what, 0.0), unit, peer=_beside(peer, what))
            yield Figure("memory (PSS), each VM", ours["pss"] / COUNT, "MiB", peer=_beside(peer, "pss", divisor=COUNT))
            for role in sorted(set(roles.values())):
                yield Figure(f"of that, {role}", ours[f"pss {role}"] / COUNT, "MiB")
            yield Figure("/dev/shm, each VM", _shm_mib(names) / COUNT, "MiB")
            yield Figure("idle, of one core, all VMs", ours["idle"], "%", peer=_beside(peer, "idle"))
            yield Figure("processes", len(roles), "", peer=_beside(peer, "processes"))
            again = subprocess.run([*fleet[0].command, "-d"], capture_output=True, timeout=60, check=False)
            yield at_most("a second `up` of a name let in", int(again.returncode != _REFUSED), "", 0)
            began = time.monotonic()
            with ThreadPoolExecutor(COUNT) as pool:
                list(pool.map(Vm.end, fleet))
            yield Figure("all down", time.monotonic() - began, "s")
        left = _left(names, roles)
        yield at_most("left behind", len(left), "", 0, ", ".join(left[:3]))


def _roles(names: list[str]) -> dict[int, str]:
    return {pid: role for vm in names for pid, role in samples.roles(vm).items()}


def _disk(folder: Path, name: str) -> Path:
    path = folder / f"{name}.img"
    with path.open("wb") as file:
        file.truncate(_DISK_MIB << 20)
    return path


def _qemu(folder: Path, number: int) -> list[str]:
    disk = _disk(folder, f"qemu{number}")
    return qemu_command("-m", _MEMORY, "-kernel", str(elf_path()), "-append", _CMDLINE, *disk_options(disk))


def _ours(folder: Path, vm: str) -> list[str]:
    place = folder / f"{vm}.toml"
    more = f'engine = "{engine()}"\n' if engine() else ""
    place.write_text(
        f'[vm]\nname = "{vm}"\nmemory = "{_MEMORY}"\n{more}[boot]\ncmdline = "{_CMDLINE}"\n'
        f'[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "{_disk(folder, vm)}"\n'
    )
    return orchestrator_command("up", str(place))


def _seen(fleet: list[Vm], roles: Callable[[], dict[int, str]]) -> Seen:
    """Return what a fleet shows whose VMs were just started; ``roles`` are its processes."""
    deadline = time.monotonic() + _PATIENCE_S
    for vm in fleet:
        vm.wait(deadline)
    times = [vm.seconds for vm in fleet if vm.seconds]
    seen = Seen(work=len(times))
    if times:
        seen |= {"first works": min(times), "median works": median(times), "all work": max(times)}
    time.sleep(1.0)
    found = roles()
    before, began = sum(map(samples.ran_s, found)), time.monotonic()
    time.sleep(_IDLE_S)
    idle = (sum(map(samples.ran_s, found)) - before) / (time.monotonic() - began)
    memory: dict[str, float] = defaultdict(float)
    for pid, role in found.items():
        memory[f"pss {role}"] += samples.pss_kib(pid) / 1024
    return Seen(seen | {"idle": 100 * idle, "processes": len(found), "pss": sum(memory.values())} | memory)


def _beside(peer: Seen, what: str, text: str = "", divisor: int = 1) -> str:
    return f"QEMU {text}{peer[what] / divisor:.2f}" if what in peer else ""


def _shm_mib(names: list[str]) -> float:
    paths = [path for vm in names for path in SHM.glob(f"{shm_name(vm, '')}*")]
    return sum(path.stat().st_blocks for path in paths) / 2048


def _left(names: list[str], roles: dict[int, str]) -> list[str]:
    """Return what is still there of VMs that have ended."""
    left = [str(Runtime(vm).folder) for vm in names if Runtime(vm).folder.exists()]
    left += [str(path) for vm in names for path in SHM.glob(f"{shm_name(vm, '')}*")]
    return left + [f"{role} {pid}" for pid, role in roles.items() if samples.runs(pid)]
