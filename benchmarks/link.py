"""The path between hart and device: register reads, doorbells, the size of a device process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_most, median, percentile
from benchmarks.machines import embedded, embedded_on_qemu, qemu_available, scratch
from protocol.layout import DevicePage
from tests.conformance.driver import GET_ID, Driver
from tests.conformance.fake_cpu import FakeCpu

_ROUNDS = 3
_DOORBELLS = 1000
_STARTS = 5


def measure() -> list[Figure]:
    """Return the figures."""
    return [*_reads(), *_device()]


def _reads() -> list[Figure]:
    with scratch() as name:
        disk = Path(name) / "disk.raw"
        disk.write_bytes(bytes(8 << 20))
        runs = [embedded("b r;b d", Path(name), disk=disk) for _ in range(_ROUNDS)]
        theirs = embedded_on_qemu("b r;b d", disk=disk) if qemu_available() else None

    def row(key: str) -> tuple[float, str]:
        peer = f"QEMU, in one process: {theirs.value(key) / 1000:.2f} us" if theirs else "QEMU is not installed"
        return median(run.value(key) for run in runs) / 1000, peer

    side, side_peer = row("side_effect_read_p50")
    page, page_peer = row("page_read")
    trip, trip_peer = row("blk_round_trip_p50")
    return [
        at_most("side-effect register read, p50", side, "us", 150, side_peer),
        at_most("page-served register read", page, "us", 1, page_peer),
        Figure("512-byte disk read at depth 1, p50", trip, "us", peer=trip_peer),
    ]


def _device() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bvb") as name:
        folder = Path(name)
        image = folder / "disk.raw"
        image.write_bytes(bytes(8 << 20))
        address = f"unix:path={folder / 'bus'}"
        daemon = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not (folder / "bus").exists():
            time.sleep(0.01)
        try:
            latencies: list[float] = []
            starts, sizes, numba = [], [], False
            for _ in range(_STARTS):
                with FakeCpu(address, folder) as cpu:
                    started = time.monotonic()
                    device = subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "devproc.virtio_blk",
                            "--bus",
                            address,
                            "--id",
                            "disk0",
                            "--image",
                            str(image),
                        ],
                        stderr=subprocess.DEVNULL,
                    )
                    cpu.wait_for_device()
                    cpu.attach()
                    starts.append((time.monotonic() - started) * 1000)
                    if not latencies:
                        latencies = _doorbells(cpu)
                    sizes.append(_private_mib(device.pid))
                    numba |= "numba" in Path(f"/proc/{device.pid}/maps").read_text()
                    device.terminate()
                    device.wait()
        finally:
            daemon.terminate()
            daemon.wait()
    return [
        at_most(
            "doorbell to handler, p50",
            median(latencies),
            "us",
            80,
            f"p99 {percentile(latencies, 0.99):.0f} us; a bare process woken by eventfd: p50 {_bare_wakeup():.0f} us",
        ),
        at_most("device process from exec to attached", median(starts), "ms", 250),
        at_most("device process, RSS without shared memory", median(sizes), "MiB", 40, f"numba loaded: {numba}"),
    ]


def _doorbells(cpu: FakeCpu) -> list[float]:
    """Time from the eventfd write until the device has taken the request from the ring (its page says so)."""
    driver = Driver(cpu)
    driver.probe()
    page: DevicePage = cpu.page
    before = page.shared.bytes(DevicePage.STATE, 0x400)
    found = []
    driver.do(GET_ID, data=20)
    after = page.shared.bytes(DevicePage.STATE, 0x400)
    # last_avail is the 16-bit word that went from 0 to 1 with the first request
    words = [at for at in range(0, 0x400, 2) if before[at : at + 2] == b"\0\0" and after[at : at + 2] == b"\1\0"]
    at = DevicePage.STATE + words[0]
    for _ in range(_DOORBELLS):
        old = page.shared.load(at, 2)
        request = driver.submit(GET_ID, 0, 20)
        time.sleep(0.0005)  # the device is asleep again, as it is between a driver's requests
        driver.queues[0].kick()  # the driver's own part is not the doorbell's
        started = time.perf_counter()
        cpu.ring(0)
        while page.shared.load(at, 2) == old:
            if time.perf_counter() - started > 1:
                raise TimeoutError("the device does not answer its doorbell")
        found.append((time.perf_counter() - started) * 1e6)
        driver.wait()
        driver.recycle(request)
    return found


def _bare_wakeup() -> float:
    """Return the same time for a process that does nothing but wake up and store a word: the host's share."""
    event, page = os.eventfd(0), mmap.mmap(-1, 4096)
    words = memoryview(page).cast("Q")
    child = os.fork()
    if child == 0:
        while words[1] == 0:
            os.eventfd_read(event)
            words[0] += 1
        os._exit(0)
    found = []
    for _ in range(_DOORBELLS):
        time.sleep(0.0005)
        old, started = words[0], time.perf_counter()
        os.eventfd_write(event, 1)
        while words[0] == old:
            pass
        found.append((time.perf_counter() - started) * 1e6)
    words[1] = 1
    os.eventfd_write(event, 1)
    os.waitpid(child, 0)
    os.close(event)
    return median(found)


def _private_mib(pid: int) -> float:
    info = psutil.Process(pid).memory_info()
    return (info.rss - info.shared) / (1 << 20) + _file_mib(pid)


def _file_mib(pid: int) -> float:
    """Resident pages of programs and libraries, which `shared` counts together with guest RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) / 1024
    return 0.0
