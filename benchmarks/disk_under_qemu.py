"""fio in a guest of QEMU on a vhost-user disk: our process beside qemu-storage-daemon, each with an image of its own.

Two guests run, one on each, and take turns job by job. ``BUSVM_WORKLOADS`` is as in `benchmarks.workloads`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import fio
from benchmarks.figures import Figure, at_least, median
from benchmarks.machines import disk_options, qemu_available, qemu_command, scratch
from benchmarks.workloads.emulators import Guest
from benchmarks.workloads.image import Image, prepare

DAEMON = "qemu-storage-daemon"
GOAL = 0.9
_ROUNDS = 3
_DISK = "/dev/vdb"
_MEMORY = "memory-backend-memfd,id=m,size=512M,share=on"


class _Qemu:
    """QEMU with a second disk that somebody else serves."""

    hart = "qemu"

    def __init__(self, name: str, image: Image, socket: Path) -> None:
        self.name = name
        self._image, self._socket = image, socket

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return QEMU's command line."""
        return qemu_command(
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", cmdline,
            *disk_options(disk), "-object", _MEMORY, "-chardev", f"socket,id=c,path={self._socket}",
            "-device", "vhost-user-blk-pci,disable-legacy=on,chardev=c", machine="virt,memory-backend=m",
        )  # fmt: skip

    def processes(self, pid: int) -> dict[str, int]:
        """Return the one process."""
        return {"qemu": pid}


@contextmanager
def serving(command: Sequence[str], socket: Path) -> Iterator[int]:
    """Run a back-end until the end of the block, which gets its process."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        socket.unlink(missing_ok=True)


def ours(image: Path, socket: Path) -> list[str]:
    """Return the command of our disk."""
    return [sys.executable, "-m", "devproc.virtio_blk", "--vhost-user", str(socket), "--image", str(image)]


def theirs(image: Path, socket: Path) -> list[str]:
    """Return the daemon's."""
    return [
        DAEMON, "--blockdev", f"driver=file,node-name=f,filename={image}",
        "--export", f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket},writable=on",
    ]  # fmt: skip


def measure() -> Iterator[Figure]:
    """Yield each job's ratio."""
    if not qemu_available() or not shutil.which(DAEMON):
        return
    with scratch() as name, ExitStack() as stack:
        folder = Path(name)
        image = prepare(folder)
        guests = []
        for who, command in (("ours", ours), (DAEMON, theirs)):
            disk, socket = folder / f"{who}.raw", folder / f"{who}.sock"
            disk.write_bytes(bytes(fio.SIZE_MIB << 20))
            stack.enter_context(serving(command(disk, socket), socket))
            guests.append(Guest(_Qemu(who, image, socket), image, folder))
            stack.callback(guests[-1].close)
        for title, job in fio.JOBS.items():
            found: list[list[float]] = [[], []]
            for _ in range(_ROUNDS):
                for rates, guest in zip(found, guests, strict=True):
                    rates.append(fio.iops(guest.run(fio.command(_DISK, job), fio.JOB_S).output))
            mine, daemon = (median(rates) for rates in found)
            peer = f"{mine:.0f} IOPS; {DAEMON} {daemon:.0f}"
            yield at_least(f"QEMU, fio: {title}, of the daemon's", mine / daemon, "×", GOAL, peer)
