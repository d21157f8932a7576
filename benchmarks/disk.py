"""fio in a guest of busvm, and what part of a request's time its disk's process works, as ``trace --summary`` says.

The device's part is the time in which its loop was busy, per request, in parts of the time from request to request:
what a faster device could save at most. QEMU runs the same jobs for the IOPS beside it. Tracing costs the device some
microseconds a request, so the speed is measured in a run of its own.
``BUSVM_WORKLOADS`` and ``BUSVM_PEER`` are as in `benchmarks.workloads`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fio
from benchmarks.figures import Figure, at_most
from benchmarks.machines import orchestrator_command, qemu_available, scratch
from benchmarks.workloads.emulators import Busvm, Guest, Qemu
from benchmarks.workloads.image import prepare

_FILE = "/var/tmp/fio.data"  # of the guest
_SHARE = 0.25


def measure() -> Iterator[Figure]:
    """Yield the figures of each job."""
    with scratch() as name:
        folder = Path(name)
        image = prepare(folder)
        busvm = Busvm(image, folder)
        guests = [Guest(busvm, image, folder)]
        if os.environ.get("BUSVM_PEER") != "0" and qemu_available():
            guests.append(Guest(Qemu(image), image, folder))
        try:
            for guest in guests:  # the blocks are there, on the host too
                guest.run(f"dd if=/dev/zero of={_FILE} bs=1M count={fio.SIZE_MIB} oflag=direct status=none", fio.JOB_S)
            for title, job in fio.JOBS.items():
                yield _job(title, fio.command(_FILE, job), guests, busvm.vm)
        finally:
            for guest in guests:
                guest.close()


def _job(title: str, command: str, guests: list[Guest], vm: str) -> Figure:
    iops = [fio.iops(guest.run(command, fio.JOB_S).output) for guest in guests]
    tracer = subprocess.Popen(
        orchestrator_command("trace", vm, "disk0", "--summary", "--format", "json", "--events", "requests,interrupts"),
        stdout=subprocess.PIPE,
    )
    time.sleep(1.5)  # until it has started
    guests[0].run(command, fio.JOB_S)
    tracer.send_signal(signal.SIGINT)
    figures = json.loads(tracer.communicate(timeout=20)[0])["disk0"]
    steps = ", ".join(f"{step} {figures[step]['p50'] / 1000:.0f}" for step in ("waited", "served", "told"))
    speed = " | ".join(f"{guest.emulator.name} {value:.0f} IOPS" for guest, value in zip(guests, iops, strict=True))
    part = f"{figures['device_ns'] / 1000:.1f} of {figures['each_ns'] / 1000:.1f} µs ({steps})"
    return at_most(f"{title}: the device's part", figures["share"], "", _SHARE, f"{part}; {speed}")
