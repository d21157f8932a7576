"""The disk's process as QEMU's vhost-user back-end, beside qemu-storage-daemon, with the embedded guest as the load.

Both serve the same image from the page cache; runs alternate.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Figure, at_least, median
from benchmarks.machines import QEMU, Run, run
from guest import elf_path

ROUNDS = 3
IMAGE_MIB = 256
DAEMON = "qemu-storage-daemon"


@contextmanager
def _serving(command: Sequence[str], path: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve")
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


def _boot(path: Path) -> Run:
    return run([
        QEMU, "-M", "virt,aia=aplic-imsic,memory-backend=m", "-m", "128", "-display", "none", "-monitor", "none",
        "-serial", "stdio", "-kernel", str(elf_path()), "-append", 'run="d s 20000 32;d s 200000 32;b;q"',
        "-object", "memory-backend-memfd,id=m,size=128M,share=on", "-chardev", f"socket,id=c,path={path}",
        "-device", "vhost-user-blk-pci,disable-legacy=on,chardev=c",
    ])  # fmt: skip


def _figures(done: Run) -> dict[str, float]:
    loads = [float(found[1]) for _, line in done.lines if (found := re.search(r"^stress: .* iops=(\d+)", line))]
    return {
        "depth 32": loads[-1] / 1e3,
        "depth 1": 1e6 / done.value("blk_round_trip_p50"),
        "sequential": done.value("blk_sequential_read"),
    }


def measure() -> Iterator[Figure]:
    """Yield random and sequential reads, ours with the daemon's beside them."""
    if not shutil.which(QEMU) or not shutil.which(DAEMON):
        return
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        image, path = Path(folder, "disk.raw"), Path(folder, "socket")
        with image.open("wb") as file:
            for _ in range(IMAGE_MIB):
                file.write(os.urandom(1 << 20))
        our_command = [sys.executable, "-m", "devproc.virtio_blk", "--vhost-user", str(path), "--image", str(image)]
        their_command = [
            DAEMON, "--blockdev", f"driver=file,node-name=f,filename={image}",
            "--export", f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={path},writable=on",
        ]  # fmt: skip
        results: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(ROUNDS):
            rates = []
            for command in (our_command, their_command):
                with _serving(command, path):
                    rates.append(_figures(_boot(path)))
            results.append((rates[0], rates[1]))
    for name, what, unit in (
        ("depth 32", "QEMU: 4 KiB random reads, depth 32", "k/s"),
        ("depth 1", "QEMU: 512-byte reads, one at a time, p50", "k/s"),
        ("sequential", "QEMU: sequential reads of 128 KiB", "MB/s"),
    ):
        mine = median(ours[name] for ours, _ in results)
        daemon = median(theirs[name] for _, theirs in results)
        peer = f"{DAEMON}: {daemon:.1f}"
        if name == "depth 32":
            yield at_least(f"{what}, of the daemon's", mine / daemon, "×", 0.9, f"{mine:.1f} k/s; {peer}")
        else:
            yield Figure(what, mine, unit, peer=peer)
