"""The fio jobs that disks are measured with, and what fio says of them."""

from __future__ import annotations

import re

JOBS = {  # title → options
    "4 KiB random read, depth 1": "--rw=randread --bs=4k --iodepth=1",
    "4 KiB random read, depth 32": "--rw=randread --bs=4k --iodepth=32",
    "4 KiB random write, depth 1": "--rw=randwrite --bs=4k --iodepth=1",
    "4 KiB random write, depth 32": "--rw=randwrite --bs=4k --iodepth=32",
    "1 MiB read, depth 4": "--rw=read --bs=1m --iodepth=4",
    "1 MiB write, depth 4": "--rw=write --bs=1m --iodepth=4",
}
JOB_S = 60.0  # until one that runs for ``SECONDS`` is given up
SECONDS = 3
SIZE_MIB = 64
_IOPS = re.compile(r"^3;" + r"(?:[^;]*;){6}(\d+);" + r"(?:[^;]*;){40}(\d+);", re.MULTILINE)


def command(file: str, job: str) -> str:
    """Return the command line of a job on a file or disk of the guest."""
    return (
        f"fio --name=job --filename={file} --ioengine=libaio --direct=1 --size={SIZE_MIB}M --time_based "
        f"--runtime={SECONDS} {job} --output-format=terse --terse-version=3"
    )


def iops(output: str) -> float:
    """Return the requests a second, reads and writes together.

    Raises:
        LookupError: fio said something else.
    """
    found = _IOPS.search(output)
    if found is None:
        raise LookupError(f"fio said: {output[-200:]}")
    return float(found[1]) + float(found[2])
