"""The disk's process as a vhost-user back-end beside qemu-storage-daemon, for QEMU with the embedded guest, and alone.

Both serve the same image from the page cache; runs alternate. Alone means a driver of our own that polls its used ring,
writes nothing but sectors and heads for a request, and so costs less than either back-end.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.disk_under_qemu import DAEMON, ours, serving, theirs
from benchmarks.figures import Figure, at_least, median
from benchmarks.machines import QEMU, Run, run
from devproc.driver_queue import DriverQueue
from guest import elf_path
from protocol.memory import full_fence
from protocol.vhost_user.front_end import FrontEnd
from tests.conformance.front_end import BASE, Guest

ROUNDS = 3
GOALS = {"depth 32": 0.9, "alone": 0.5}
DEPTH, REQUESTS = 32, 100_000
IMAGE_MIB = 256


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


def _alone(path: Path) -> float:
    """Return thousands of random reads of 4 KiB a second, ``DEPTH`` at a time on one split ring."""
    chance = random.Random(1)
    sectors = [chance.randrange(IMAGE_MIB << 8) * 8 for _ in range(4096)]
    with Guest(size=64) as guest:
        queue = guest.queue
        assert isinstance(queue, DriverQueue)
        guest.connect(FrontEnd.connect(path))
        headers = {}
        for sector in sectors[:DEPTH]:
            header, data, status = queue.lend(16), queue.lend(4096, 4096), queue.lend(1)
            guest.memory.write(header, struct.pack("<IIQ", 0, 0, sector))
            headers[queue.add([(header, 16)], [(data, 4096), (status, 1)])] = (header - BASE >> 3) + 1
        u16, u32, u64 = guest.shared.u16, guest.shared.u32, guest.shared.u64
        avail, used, mask = queue.avail - BASE >> 1, queue.used - BASE >> 1, queue.size - 1
        seen, offered = 0, DEPTH
        os.eventfd_write(guest.kick, 1)
        started = time.perf_counter()
        while offered < REQUESTS:
            new = u16[used + 1] - seen & 0xFFFF
            if not new:
                continue
            for number in range(seen, seen + new):
                head = u32[(used >> 1) + 1 + 2 * (number & mask)]
                u64[headers[head]] = sectors[number & 4095]
                u16[avail + 2 + (offered & mask)] = head
                offered += 1
            seen += new
            u16[avail + 1] = offered & 0xFFFF
            full_fence()
            if (offered - u16[used + 2 + 4 * queue.size] - 1 & 0xFFFF) < new:
                os.eventfd_write(guest.kick, 1)
        return REQUESTS / (time.perf_counter() - started) / 1e3


def measure() -> Iterator[Figure]:
    """Yield random and sequential reads, ours with the daemon's beside them."""
    if not shutil.which(QEMU) or not shutil.which(DAEMON):
        return
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        image, path = Path(folder, "disk.raw"), Path(folder, "socket")
        with image.open("wb") as file:
            for _ in range(IMAGE_MIB):
                file.write(os.urandom(1 << 20))
        results: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(ROUNDS):
            rates = []
            for command in (ours, theirs):
                with serving(command(image, path), path):
                    rates.append(_figures(_boot(path)) | {"alone": _alone(path)})
            results.append((rates[0], rates[1]))
    for name, what, unit in (
        ("depth 32", "QEMU: 4 KiB random reads, depth 32", "k/s"),
        ("alone", "no guest: 4 KiB random reads, depth 32", "k/s"),
        ("depth 1", "QEMU: 512-byte reads, one at a time, p50", "k/s"),
        ("sequential", "QEMU: sequential reads of 128 KiB", "MB/s"),
    ):
        mine = median(own[name] for own, _ in results)
        daemon = median(other[name] for _, other in results)
        peer = f"{DAEMON}: {daemon:.1f}"
        if name in GOALS:
            yield at_least(f"{what}, of the daemon's", mine / daemon, "×", GOALS[name], f"{mine:.1f} k/s; {peer}")
        else:
            yield Figure(what, mine, unit, peer=peer)
