"""fio in a guest of busvm, and what part of a request's time its disk's process works, as ``trace --summary`` says.

The device's part is the time in which its loop was busy, per request, in parts of the time from request to request:
what a faster device could save at most. QEMU runs the same jobs for the IOPS beside it. Tracing costs the device some
microseconds a request, so the speed is measured in a run of its own.
``BUSVM_WORKLOADS`` and ``BUSVM_PEER`` are as in `benchmarks.workloads`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, at_most
from benchmarks.machines import orchestrator_command, qemu_available, scratch
from benchmarks.workloads.emulators import Busvm, Guest, Qemu
from benchmarks.workloads.image import prepare

_JOBS = {  # title → options of fio
    "4 KiB random read, depth 1": "--rw=randread --bs=4k --iodepth=1",
    "4 KiB random read, depth 32": "--rw=randread --bs=4k --iodepth=32",
    "4 KiB random write, depth 1": "--rw=randwrite --bs=4k --iodepth=1",
    "4 KiB random write, depth 32": "--rw=randwrite --bs=4k --iodepth=32",
    "1 MiB read, depth 4": "--rw=read --bs=1m --iodepth=4",
    "1 MiB write, depth 4": "--rw=write --bs=1m --iodepth=4",
}
_FILE = "/root/fio.data"
_FIO = f"fio --name=job --filename={_FILE} --ioengine=libaio --direct=1 --size=64M --time_based --runtime=3"
_OUTPUT = "--output-format=terse --terse-version=3"
_IOPS = re.compile(r"^3;" + r"(?:[^;]*;){6}(\d+);" + r"(?:[^;]*;){40}(\d+);", re.MULTILINE)
_SHARE = 0.25
_JOB_S = 60.0


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
                guest.run(f"dd if=/dev/zero of={_FILE} bs=1M count=64 oflag=direct status=none", _JOB_S)
            for title, job in _JOBS.items():
                yield _job(title, f"{_FIO} {job} {_OUTPUT}", guests, busvm.vm)
        finally:
            for guest in guests:
                guest.close()


def _job(title: str, command: str, guests: list[Guest], vm: str) -> Figure:
    iops = [_iops(guest.run(command, _JOB_S).output) for guest in guests]
    tracer = subprocess.Popen(
        orchestrator_command("trace", vm, "disk0", "--summary", "--format", "json", "--events", "requests,interrupts"),
        stdout=subprocess.PIPE,
    )
    time.sleep(1.5)  # until it has started
    guests[0].run(command, _JOB_S)
    tracer.send_signal(signal.SIGINT)
    figures = json.loads(tracer.communicate(timeout=20)[0])["disk0"]
    steps = ", ".join(f"{step} {figures[step]['p50'] / 1000:.0f}" for step in ("waited", "served", "told"))
    speed = " | ".join(f"{guest.emulator.name} {value:.0f} IOPS" for guest, value in zip(guests, iops, strict=True))
    part = f"{figures['device_ns'] / 1000:.1f} of {figures['each_ns'] / 1000:.1f} µs ({steps})"
    return at_most(f"{title}: the device's part", figures["share"], "", _SHARE, f"{part}; {speed}")


def _iops(output: str) -> float:
    found = _IOPS.search(output)
    if found is None:
        raise LookupError(f"fio said: {output[-200:]}")
    return float(found[1]) + float(found[2])
